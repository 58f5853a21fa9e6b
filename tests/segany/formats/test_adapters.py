"""Adapters against the packages and the code that make them."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import segany
from segany import CheckpointError
from tests.segany import reference
from tests.segany.reference import SMALL, assert_close


@pytest.fixture(scope="module")
def hugging_face():
    torch.manual_seed(0)
    return reference.hugging_face_sam(SMALL)


@pytest.fixture
def meta_file(sam, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam_small.pth")
    return tmp_path / "sam_small.pth"


def trained(model: nn.Module, **settings) -> nn.Module:
    """A model of `peft` whose adapter is random instead of untrained."""
    peft_model = get_peft_model(copy.deepcopy(model), LoraConfig(**{"r": 4, "lora_alpha": 10, **settings}))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return peft_model


def assert_same_weights(actual: segany.SegAny, expected: dict[str, torch.Tensor]) -> None:
    state = actual.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert_close(value, expected[name], 1e-5)


SETTINGS = {
    "fused qkv": {"target_modules": ["qkv"]},
    "queries and values": {"target_modules": ["q_proj", "v_proj"]},
    "rank-stabilised": {"target_modules": ["qkv"], "use_rslora": True},
    "patterns": {
        "target_modules": ["qkv", "lin1"],
        "rank_pattern": {"lin1": 2},
        "alpha_pattern": {r"0\.attn\.qkv": 3, "lin1": 7},
    },
    "trained in full": {"target_modules": ["qkv"], "modules_to_save": ["mask_decoder"]},
    "biases": {"target_modules": ["qkv"], "bias": "all"},
    "DoRA": {"target_modules": ["qkv"], "use_dora": True},
    "fan_in_fan_out": {"target_modules": ["qkv"], "fan_in_fan_out": True},
}


class TestPeft:
    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
    @pytest.mark.filterwarnings("ignore")
    def test_meta_names(self, sam, meta_file, settings, tmp_path):
        peft_model = trained(sam, **settings)
        peft_model.save_pretrained(tmp_path / "adapter")
        loaded = segany.load(meta_file, adapter=tmp_path / "adapter")
        assert_same_weights(loaded, peft_model.merge_and_unload().state_dict())

    @pytest.mark.parametrize(
        "settings",
        [
            {"target_modules": r"vision_encoder.*\.(qkv|proj)"},
            {"target_modules": ["q_proj", "proj_out", "upscale_conv1"][:2], "modules_to_save": ["iou_token"]},
            {"target_modules": ["conv1", "projection"]},
        ],
        ids=["encoder", "decoder", "convolutions"],
    )
    def test_hugging_face_names_on_their_own_and_on_meta(self, hugging_face, settings, tmp_path):
        hugging_face.save_pretrained(tmp_path / "base")
        base = segany.load(tmp_path / "base")
        torch.save(base.state_dict(), tmp_path / "base.pth")
        peft_model = trained(hugging_face, **settings)
        peft_model.save_pretrained(tmp_path / "adapter")
        peft_model.merge_and_unload().save_pretrained(tmp_path / "merged")
        expected = segany.load(tmp_path / "merged").state_dict()
        assert any(not torch.equal(value, base.state_dict()[name]) for name, value in expected.items())
        assert_same_weights(segany.load(tmp_path / "base", adapter=tmp_path / "adapter"), expected)
        assert_same_weights(segany.load(tmp_path / "base.pth", adapter=tmp_path / "adapter"), expected)

    def test_a_folder_that_names_its_base_is_enough(self, sam, meta_file, tmp_path):
        peft_model = trained(sam, target_modules=["qkv"])
        peft_model.save_pretrained(tmp_path / "adapter")
        with pytest.raises(CheckpointError, match=r"adapter: is an adapter that names no base: segany.load\(base"):
            segany.load(tmp_path / "adapter")
        edit(tmp_path / "adapter", base_model_name_or_path=str(meta_file))
        assert_same_weights(segany.load(tmp_path / "adapter"), peft_model.merge_and_unload().state_dict())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"peft_type": "LOHA"}, "an adapter of type 'LOHA' cannot be merged, expected 'LORA'"),
            ({"lora_bias": True}, "cannot be merged: adapter_config.json has lora_bias"),
            ({"a_new_method": {"x": 1}}, "cannot be merged: adapter_config.json has a_new_method"),
            ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4' changed the base"),
        ],
    )
    def test_what_cannot_be_merged_is_named(self, sam, meta_file, changes, message, tmp_path):
        trained(sam, target_modules=["qkv"]).save_pretrained(tmp_path)
        edit(tmp_path, **changes)
        with pytest.raises(CheckpointError, match=message):
            segany.load(meta_file, adapter=tmp_path)

    def test_the_weights_alone_do_not_tell_their_scale(self, sam, meta_file, tmp_path):
        trained(sam, target_modules=["qkv"]).save_pretrained(tmp_path)
        weights = tmp_path / "adapter_model.safetensors"
        segany.load(meta_file, adapter=weights)  # its folder is looked at
        (tmp_path / "alone").mkdir()
        weights = weights.rename(tmp_path / "alone" / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=r"the scale of this adapter stands in adapter_config\.json"):
            segany.load(meta_file, adapter=weights)
        with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors or adapter_model\.bin"):
            segany.load(meta_file, adapter=tmp_path)

    def test_another_base(self, sam, tmp_path):
        trained(sam, target_modules=["qkv"]).save_pretrained(tmp_path)
        segany.save(segany.SegAny(replace(SMALL, encoder_dim=32)), tmp_path / "narrow.safetensors")
        with pytest.raises(CheckpointError, match=r"attn\.qkv must be \(96, 32\), got \(192, 64\)"):
            segany.load(tmp_path / "narrow.safetensors", adapter=tmp_path)

    def test_a_whole_model_with_an_unmerged_adapter(self, sam, tmp_path):
        torch.save(trained(sam, target_modules=["qkv"]).state_dict(), tmp_path / "unmerged.pth")
        with pytest.raises(CheckpointError, match="holds an adapter of peft that is not merged, without its scale"):
            segany.load(tmp_path / "unmerged.pth")


def edit(folder, **changes) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class FusedUpdate(nn.Module):
    """The fused projection with updates of queries and values, as the SAM-LoRA repositories write it."""

    def __init__(self, qkv: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        dim = qkv.in_features
        self.qkv, self.dim = qkv, dim
        self.linear_a_q, self.linear_a_v = (nn.Linear(dim, rank, bias=False) for _ in range(2))
        self.linear_b_q, self.linear_b_v = (nn.Linear(rank, dim, bias=False) for _ in range(2))

    def forward(self, x):
        qkv = self.qkv(x)
        qkv[..., : self.dim] += self.linear_b_q(self.linear_a_q(x))
        qkv[..., -self.dim :] += self.linear_b_v(self.linear_a_v(x))
        return qkv


@pytest.fixture(scope="module")
def sam_lora(sam):
    adapted = copy.deepcopy(sam)
    torch.manual_seed(2)
    for block in adapted.image_encoder.blocks:
        block.attn.qkv = FusedUpdate(block.attn.qkv)
    reference.perturb(adapted.mask_decoder, seed=3)
    return adapted.eval()


def samed_tensors(sam_lora) -> dict[str, torch.Tensor]:
    tensors = {}
    for index, block in enumerate(sam_lora.image_encoder.blocks):
        for number, part in ((2 * index, "q"), (2 * index + 1, "v")):
            for side in "ab":
                tensors[f"w_{side}_{number:03d}"] = getattr(block.attn.qkv, f"linear_{side}_{part}").weight.detach()
    return tensors


class TestSamLora:
    @pytest.fixture
    def expected(self, sam_lora):
        pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(4))
        with torch.no_grad():
            return pixels, sam_lora.image_encoder(pixels)

    @torch.no_grad()
    def test_numbered_pairs_with_the_decoder(self, sam_lora, meta_file, expected, tmp_path):
        """As SAMed saves them, in one .pth file."""
        others = {key: value for key, value in sam_lora.state_dict().items() if not key.startswith("image_encoder")}
        torch.save({**samed_tensors(sam_lora), **others}, tmp_path / "epoch_159.pth")
        loaded = segany.load(meta_file, adapter=tmp_path / "epoch_159.pth")
        assert_close(loaded.encode_image(expected[0]), expected[1])
        decoder = sam_lora.mask_decoder.state_dict()
        assert all(torch.equal(value, decoder[key]) for key, value in loaded.mask_decoder.state_dict().items())

    @torch.no_grad()
    def test_numbered_pairs_alone(self, sam_lora, meta_file, expected, tmp_path):
        save_file(samed_tensors(sam_lora), tmp_path / "lora_rank4.safetensors")
        loaded = segany.load(meta_file, adapter=tmp_path / "lora_rank4.safetensors")
        assert_close(loaded.encode_image(expected[0]), expected[1])

    @torch.no_grad()
    def test_a_decoder_for_more_classes(self, sam_lora, meta_file, tmp_path):
        decoder = segany.SegAny(replace(SMALL, num_multimask_outputs=8)).mask_decoder.state_dict(prefix="mask_decoder.")
        torch.save({**samed_tensors(sam_lora), **decoder}, tmp_path / "classes.pth")
        assert segany.load(meta_file, adapter=tmp_path / "classes.pth").config == replace(
            SMALL, num_multimask_outputs=8
        )

    @torch.no_grad()
    def test_a_training_checkpoint_with_everything(self, sam_lora, expected, tmp_path):
        state = {f"module.sam.{key}": value for key, value in sam_lora.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 4}, tmp_path / "checkpoint.pth")
        loaded = segany.load(tmp_path / "checkpoint.pth")
        assert_close(loaded.encode_image(expected[0]), expected[1])

    @torch.no_grad()
    def test_what_was_trained_of_it(self, sam_lora, meta_file, expected, tmp_path):
        state = {f"sam.{key}": value for key, value in sam_lora.state_dict().items() if ".linear_" in key}
        torch.save(state, tmp_path / "trainable.pth")
        loaded = segany.load(meta_file, adapter=tmp_path / "trainable.pth")
        assert_close(loaded.encode_image(expected[0]), expected[1])

    def test_pairs_must_be_two_for_each_block(self, sam_lora, meta_file, tmp_path):
        tensors = samed_tensors(sam_lora)
        del tensors["w_a_005"], tensors["w_b_005"]
        save_file(tensors, tmp_path / "fewer.safetensors")
        with pytest.raises(CheckpointError, match="has 5 pairs w_a, w_b, and the base has 3 blocks: expected 6"):
            segany.load(meta_file, adapter=tmp_path / "fewer.safetensors")

    def test_an_adapter_is_no_base(self, sam_lora, tmp_path):
        save_file(samed_tensors(sam_lora), tmp_path / "lora.safetensors")
        with pytest.raises(
            CheckpointError, match=r"holds a Segment Anything adapter \(LoRA\), which belongs on top of"
        ):
            segany.load(tmp_path / "lora.safetensors")

    def test_a_base_is_no_adapter(self, meta_file):
        with pytest.raises(CheckpointError, match="not an adapter"):
            segany.load(meta_file, adapter=meta_file)


def test_tensors_are_left_as_they_were_in_the_file(sam, meta_file, tmp_path):
    trained(sam, target_modules=["qkv"]).save_pretrained(tmp_path)
    before = load_file(tmp_path / "adapter_model.safetensors")
    segany.load(meta_file, adapter=tmp_path)
    after = load_file(tmp_path / "adapter_model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
