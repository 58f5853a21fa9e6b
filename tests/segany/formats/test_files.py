"""Folders whose weights are in shards, and mask decoders by themselves."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import segany
from segany import CheckpointError, SegAny
from tests.segany import reference
from tests.segany.reference import SMALL, perturb


@pytest.fixture(scope="module")
def hugging_face():
    torch.manual_seed(0)
    return reference.hugging_face_sam(SMALL)


class TestShards:
    @pytest.fixture
    def folder(self, hugging_face, tmp_path):
        hugging_face.save_pretrained(tmp_path / "sharded", max_shard_size="400KB")
        assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
        return tmp_path / "sharded"

    def test_equal_to_one_file(self, folder, hugging_face, tmp_path):
        hugging_face.save_pretrained(tmp_path / "whole")
        assert segany.load(folder).fingerprint() == segany.load(tmp_path / "whole").fingerprint()

    def test_shards_of_pytorch(self, folder, hugging_face):
        expected = segany.load(folder).fingerprint()
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        names = {name: name.replace("safetensors", "bin") for name in set(index["weight_map"].values())}
        for name in names:
            state = {
                key: value for key, value in hugging_face.state_dict().items() if index["weight_map"].get(key) == name
            }
            torch.save(state, folder / names[name])
            (folder / name).unlink()
        (folder / "model.safetensors.index.json").unlink()
        weight_map = {key: names[name] for key, name in index["weight_map"].items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert segany.load(folder).fingerprint() == expected

    def test_the_index_file_itself(self, folder):
        index = folder / "model.safetensors.index.json"
        assert segany.load(index).fingerprint() == segany.load(folder).fingerprint()

    def test_a_missing_shard_is_named(self, folder):
        shard = sorted(folder.glob("model-*.safetensors"))[1]
        shard.unlink()
        with pytest.raises(CheckpointError, match=rf"1 of \d shards missing: {shard.name}"):
            segany.load(folder)

    @pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": [1]}'])
    def test_a_broken_index(self, folder, content):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match="not an index of shards"):
            segany.load(folder)

    def test_a_shard_outside_the_folder_is_not_read(self, folder, tmp_path):
        index = folder / "model.safetensors.index.json"
        save_file({"secret": torch.ones(1)}, tmp_path / "secret.safetensors")
        index.write_text(json.dumps({"weight_map": {"secret": "../secret.safetensors"}}))
        with pytest.raises(CheckpointError, match=r"1 of 1 shards missing: secret\.safetensors"):
            segany.load(folder)


class TestImageSize:
    def test_the_configuration_of_a_folder_must_fit(self, hugging_face, tmp_path):
        hugging_face.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["vision_config"]["image_size"] = 1024
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="states images of 1024 px, the weights are for 256 px"):
            segany.load(tmp_path)

    def test_both_sizes_in_one_file(self, tmp_path):
        state = SegAny(SMALL).state_dict()
        state["image_encoder.pos_embed"] = torch.zeros(1, 32, 32, 64)
        torch.save(state, tmp_path / "mixed.pth")
        with pytest.raises(CheckpointError, match="512 px by the position embedding and 256 px by the attention"):
            segany.load(tmp_path / "mixed.pth")

    def test_another_size_is_kept(self, tmp_path):
        torch.save(SegAny(replace(SMALL, image_size=512)).state_dict(), tmp_path / "fine.pth")
        assert segany.load(tmp_path / "fine.pth").config.image_size == 512
        assert segany.load(tmp_path / "fine.pth", image_size=512).config.image_size == 512
        with pytest.raises(CheckpointError, match="the weights are for images of 512 px, asked for 1024 px"):
            segany.load(tmp_path / "fine.pth", image_size=1024)

    def test_of_a_tiny_vit_it_can_be_given(self, tmp_path):
        torch.save(SegAny(reference_config()).state_dict(), tmp_path / "mobile.pt")
        assert segany.load(tmp_path / "mobile.pt").config.image_size == 1024
        assert segany.load(tmp_path / "mobile.pt", image_size=512).config.image_size == 512
        with pytest.raises(
            CheckpointError, match=r"image_size must be a positive multiple of patch_size \(16\), got 500"
        ):
            segany.load(tmp_path / "mobile.pt", image_size=500)


def reference_config():
    from tests.segany.reference_tiny_vit import SMALL_MOBILE

    return SMALL_MOBILE


class TestDecoder:
    @pytest.fixture(scope="class")
    def trained(self):
        return perturb(SegAny(SMALL), seed=5)

    @pytest.fixture
    def base(self, model, tmp_path):
        torch.save(model.state_dict(), tmp_path / "sam_small.pth")
        return tmp_path / "sam_small.pth"

    @pytest.mark.parametrize(
        "content",
        [
            lambda model: model.mask_decoder.state_dict(),
            lambda model: model.mask_decoder.state_dict(prefix="mask_decoder."),
            lambda model: {"model": model.mask_decoder.state_dict(prefix="module.mask_decoder."), "epoch": 1},
            lambda model: {"state_dict": model.mask_decoder.state_dict(prefix="module.")},
            lambda model: model.state_dict(),
        ],
        ids=["bare", "prefix", "wrapped", "wrapped and bare", "of a whole model"],
    )
    def test_takes_the_place_of_the_base_s(self, content, trained, base, model, tmp_path):
        torch.save(content(trained), tmp_path / "decoder.pth")
        loaded = segany.load(base, decoder=tmp_path / "decoder.pth").state_dict()
        for name, value in loaded.items():
            origin = trained if name.startswith("mask_decoder.") else model
            assert torch.equal(value, origin.state_dict()[name]), name

    def test_a_prompt_encoder_beside_it_is_taken_too(self, trained, base, tmp_path):
        state = {name: value for name, value in trained.state_dict().items() if not name.startswith("image_encoder.")}
        save_file(state, tmp_path / "decoder.safetensors")
        loaded = segany.load(base, decoder=tmp_path / "decoder.safetensors").state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())

    def test_hugging_face_names(self, hugging_face, base, tmp_path):
        hugging_face.save_pretrained(tmp_path / "whole")
        expected = segany.load(tmp_path / "whole").mask_decoder.state_dict()
        torch.save(hugging_face.mask_decoder.state_dict(), tmp_path / "decoder.pth")
        for source in (tmp_path / "decoder.pth", tmp_path / "whole"):
            loaded = segany.load(base, decoder=source).mask_decoder.state_dict()
            assert all(torch.equal(loaded[name], value) for name, value in expected.items())

    def test_more_masks(self, base, tmp_path):
        config = replace(SMALL, num_multimask_outputs=5)
        torch.save(SegAny(config).mask_decoder.state_dict(), tmp_path / "decoder.pth")
        assert segany.load(base, decoder=tmp_path / "decoder.pth").config == config

    def test_another_width(self, base, tmp_path):
        torch.save(SegAny(replace(SMALL, prompt_dim=128)).mask_decoder.state_dict(), tmp_path / "decoder.pth")
        with pytest.raises(CheckpointError, match=r"mask_decoder\.\S+ must be \(.*64.*\), got \(.*128.*\)"):
            segany.load(base, decoder=tmp_path / "decoder.pth")

    def test_other_files(self, base, tmp_path):
        torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
        with pytest.raises(CheckpointError, match="holds no whole mask decoder"):
            segany.load(base, decoder=tmp_path / "linear.pth")

    def test_alone_it_is_no_model(self, trained, tmp_path):
        torch.save(trained.mask_decoder.state_dict(), tmp_path / "decoder.pth")
        with pytest.raises(
            CheckpointError, match=r"without an image encoder: name its base too, segany\.load\(base, dec"
        ):
            segany.load(tmp_path / "decoder.pth")
