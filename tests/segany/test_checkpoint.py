import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor

import segany
from segany import PRESETS, CheckpointError, Predictor, Prompts, SegAny
from segany.files import read_safetensors
from segany.state_dict import POSITION_CODE
from tests.hub import fill_cache, use_hub
from tests.segany import reference, reference_tiny_vit
from tests.segany.reference import SMALL, SMALL_TEXT, assert_close
from tests.segany.reference_tiny_vit import SMALL_MOBILE, mobile_sam_file


@pytest.fixture
def meta_file(sam, tmp_path):
    """A checkpoint as Meta publishes them."""
    path = tmp_path / "sam_small.pth"
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def hugging_face():
    torch.manual_seed(0)
    return reference.hugging_face_sam(SMALL)


@pytest.fixture
def hugging_face_folder(hugging_face, tmp_path):
    hugging_face.save_pretrained(tmp_path / "sam-small")
    return tmp_path / "sam-small"


@pytest.fixture(scope="module")
def mobile_sam():
    return reference_tiny_vit.mobile_sam(TestMobileSamFile.CONFIG)


def assert_same_weights(actual: SegAny, expected: SegAny) -> None:
    state = expected.state_dict()
    assert actual.state_dict().keys() == state.keys()
    for key, value in actual.state_dict().items():
        assert torch.equal(value, state[key]), key


class TestMetaFile:
    def test_loads_with_the_configuration_of_its_shapes(self, meta_file, model):
        loaded = segany.load(meta_file)
        assert loaded.config == SMALL
        assert not loaded.training
        assert_same_weights(loaded, model)

    @pytest.mark.parametrize(
        "config",
        [
            replace(SMALL, global_blocks=(0, 1, 2), window_size=16),
            replace(SMALL, global_blocks=(), encoder_depth=1),
            replace(SMALL, num_multimask_outputs=2, iou_depth=4, decoder_depth=3, mlp_ratio=2.5, mask_channels=8),
            SMALL_TEXT,
        ],
        ids=["all global", "none global", "other decoder", "text"],
    )
    def test_other_shapes(self, config, tmp_path):
        torch.save(SegAny(config).state_dict(), tmp_path / "model.pth")
        assert segany.load(tmp_path / "model.pth").config == config

    def test_weights_can_be_trained(self, meta_file):
        loaded = segany.load(meta_file)
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        features = loaded.encode_image(torch.randn(1, 3, 256, 256))
        loaded.decode(features, Prompts(boxes=[[0, 0, 9, 9]]), True)[0].sum().backward()
        assert loaded.image_encoder.pos_embed.grad.any()

    def test_missing_and_unexpected_tensors_are_named(self, sam, tmp_path):
        state = sam.state_dict()
        del state["mask_decoder.iou_token.weight"]
        state["mask_decoder.other_token.weight"] = torch.zeros(1, 64)
        torch.save(state, tmp_path / "broken.pth")
        message = (
            r"broken\.pth: 1 missing \(mask_decoder\.iou_token\.weight\), "
            r"1 unexpected \(mask_decoder\.other_token\.weight\) tensors"
        )
        with pytest.raises(CheckpointError, match=message):
            segany.load(tmp_path / "broken.pth")

    def test_other_networks_are_refused(self, tmp_path):
        torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
        with pytest.raises(CheckpointError, match="not a Segment Anything checkpoint, its tensors are weight, bias"):
            segany.load(tmp_path / "linear.pth")

    def test_another_image_encoder_is_named(self, sam, tmp_path):
        others = {key: value for key, value in sam.state_dict().items() if not key.startswith("image_encoder.")}
        torch.save({**others, "image_encoder.backbone.stem.conv.weight": torch.zeros(1)}, tmp_path / "edge_sam.pth")
        message = (
            r"its image encoder is not one that is known here.*: it has image_encoder\.backbone\.stem\.conv\.weight"
        )
        with pytest.raises(CheckpointError, match=message):
            segany.load(tmp_path / "edge_sam.pth")

    def test_code_is_not_unpickled(self, tmp_path):
        torch.save({"model": SegAny(SMALL)}, tmp_path / "pickled.pth")
        with pytest.raises(CheckpointError, match=r"pickled\.pth: its weights lie in an object of segany"):
            segany.load(tmp_path / "pickled.pth")

    def test_content_without_tensors_is_refused(self, tmp_path):
        torch.save({"model": {}, "epoch": 3}, tmp_path / "nested.pth")
        with pytest.raises(CheckpointError, match=r"nested\.pth: must hold tensors, has none"):
            segany.load(tmp_path / "nested.pth")

    @pytest.mark.parametrize("name", ["garbage.pth", "garbage.safetensors"])
    @pytest.mark.parametrize(
        ("content", "message"), [(b"", "is empty"), (b"garbage", "is text")], ids=["empty", "garbage"]
    )
    def test_unreadable_files(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} {message}"):
            segany.load(tmp_path / name)


class TestMobileSamFile:
    CONFIG = replace(SMALL_MOBILE, image_size=1024)  # no shape depends on the image size, so this is taken for granted

    @pytest.fixture
    def file(self, mobile_sam, tmp_path):
        """A checkpoint in the names of MobileSAM's, with the classifier that it holds and does not use."""
        path = tmp_path / "mobile_sam.pt"
        torch.save(mobile_sam_file(mobile_sam), path)
        return path

    def test_loads_with_the_configuration_of_its_shapes(self, file, mobile_sam):
        loaded = segany.load(file)
        assert loaded.config == self.CONFIG
        assert not loaded.training
        written, state = mobile_sam_file(mobile_sam), loaded.state_dict()
        assert all(torch.equal(value, written[key]) for key, value in state.items())
        assert {key.split(".")[1] for key in written.keys() - state.keys()} == {"norm_head", "head"}
        assert state["image_encoder.patch_embed.seq.0.bn.num_batches_tracked"].dtype == torch.int64

    def test_the_published_sizes_are_the_preset(self, tmp_path):
        torch.save(SegAny(PRESETS["vit_t"]).state_dict(), tmp_path / "mobile_sam.pt")
        assert segany.load(tmp_path / "mobile_sam.pt").config == PRESETS["vit_t"]

    def test_predictions_equal_the_reference(self, file, mobile_sam, drawing):
        predictor, theirs = Predictor(segany.load(file)), SamPredictor(mobile_sam)
        embedding = predictor.encode(drawing)
        theirs.set_image(drawing)
        assert_close(embedding.features, theirs.features)
        point = np.array([[50.0, 40.0]])
        prediction = predictor.predict(embedding, Prompts(points=point[None], point_labels=[[1]]))
        _, predicted_iou, low_res = theirs.predict(point, np.array([1]))
        assert_close(prediction.low_res_logits[0], torch.as_tensor(low_res))
        assert_close(prediction.predicted_iou[0], torch.as_tensor(predicted_iou))
        assert prediction.masks.shape == (1, 3, 90, 140)

    def test_buffers_of_some_copies_are_left_out(self, mobile_sam, tmp_path):
        state = mobile_sam_file(mobile_sam)
        state["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(49, 49, dtype=torch.int64)
        torch.save(state, tmp_path / "copy.pt")
        assert segany.load(tmp_path / "copy.pt").config == self.CONFIG

    @pytest.mark.parametrize(
        "changes",
        [
            {"dims": (16, 32), "depths": (1, 1), "heads": (4,), "window_sizes": (5,)},
            {"mlp_ratio": 2.0, "conv_ratio": 1.5},
        ],
        ids=["two stages", "ratios"],
    )
    def test_other_shapes(self, changes, tmp_path):
        tiny_vit = replace(SMALL_MOBILE.tiny_vit, **changes)
        config = replace(self.CONFIG, tiny_vit=tiny_vit, patch_size=tiny_vit.patch_size)
        torch.save(SegAny(config).state_dict(), tmp_path / "model.pt")
        assert segany.load(tmp_path / "model.pt").config == config

    def test_missing_tensors_are_named(self, mobile_sam, tmp_path):
        state = mobile_sam_file(mobile_sam)
        del state["image_encoder.layers.1.blocks.0.attn.attention_biases"]
        torch.save(state, tmp_path / "broken.pt")
        with pytest.raises(CheckpointError, match=r"no tensor 'image_encoder\.layers\.1\.blocks\.0\.attn\.attention_b"):
            segany.load(tmp_path / "broken.pt")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_saved_with_its_configuration(self, dtype, tmp_path):
        model = SegAny(SMALL_MOBILE).eval()
        model.image_encoder.patch_embed.seq[0].bn.num_batches_tracked.fill_(100_000)
        segany.save(model, tmp_path / "model.safetensors", dtype)
        loaded = segany.load(tmp_path / "model.safetensors")
        assert loaded.config == SMALL_MOBILE
        assert loaded.image_encoder.patch_embed.seq[0].bn.num_batches_tracked == 100_000
        assert dtype != torch.float32 or loaded.fingerprint() == model.fingerprint()

    def test_a_file_on_the_hub_is_read_from_the_cache(self, file, tmp_path, monkeypatch):
        use_hub(monkeypatch, tmp_path / "cache")
        (tmp_path / "repository").mkdir()
        file.rename(tmp_path / "repository" / "mobile_sam.pt")
        fill_cache(tmp_path / "cache", "somebody/MobileSAM", tmp_path / "repository")
        loaded = segany.load("somebody/MobileSAM/mobile_sam.pt")
        assert_same_weights(loaded, segany.load(tmp_path / "repository" / "mobile_sam.pt"))


class TestOwnFile:
    def test_float32_round_trip(self, text_model, tmp_path):
        segany.save(text_model, tmp_path / "model.safetensors", torch.float32)
        loaded = segany.load(tmp_path / "model.safetensors")
        assert loaded.config == text_model.config
        assert_same_weights(loaded, text_model)
        assert loaded.fingerprint() == text_model.fingerprint()

    def test_float16_is_stored_and_float32_loaded(self, text_model, tmp_path):
        segany.save(text_model, tmp_path / "model.safetensors")
        stored, _ = read_safetensors(tmp_path / "model.safetensors")
        assert {value.dtype for key, value in stored.items() if key != POSITION_CODE} == {torch.float16}
        assert torch.equal(stored[POSITION_CODE], text_model.state_dict()[POSITION_CODE])
        loaded = segany.load(tmp_path / "model.safetensors")
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        pixels = torch.randn(1, 3, 256, 256)
        with torch.no_grad():
            assert_close(loaded.encode_image(pixels), text_model.encode_image(pixels), 1e-2)

    def test_nothing_else_is_left_in_the_folder(self, model, tmp_path):
        segany.save(model, tmp_path / "model.safetensors")
        segany.save(model, tmp_path / "model.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

    def test_overflow_is_named(self, tmp_path):
        model = SegAny(SMALL)
        torch.nn.init.constant_(model.mask_decoder.iou_token.weight, 1e6)
        with pytest.raises(CheckpointError, match=r"mask_decoder\.iou_token\.weight is not finite as torch\.float16"):
            segany.save(model, tmp_path / "model.safetensors")
        assert list(tmp_path.iterdir()) == []

    def test_configuration_and_shapes_must_agree(self, model, tmp_path):
        path = tmp_path / "model.safetensors"
        config = json.dumps(replace(SMALL, iou_hidden_dim=40).to_dict())
        save_file(model.state_dict(), path, {"config": config})
        with pytest.raises(
            CheckpointError, match=r"iou_prediction_head\.layers\.0\.weight must be \(40, 64\), got \(48, 64\)"
        ):
            segany.load(path)

    def test_without_configuration_shapes_tell(self, model, tmp_path):
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        assert segany.load(tmp_path / "model.safetensors").config == SMALL


class TestHuggingFaceFolder:
    @torch.no_grad()
    def test_predictions_equal_transformers(self, hugging_face, hugging_face_folder):
        model = segany.load(hugging_face_folder)
        assert model.config == SMALL
        pixels = torch.randn(1, 3, 256, 256)
        expected = hugging_face.get_image_embeddings(pixels)
        features = model.encode_image(pixels)
        assert_close(features, expected)
        for kind in ("points", "box", "points and box", "points and mask"):
            prompts = reference.random_prompts(kind, 1, (256, 256), SMALL.low_res_size)
            for multimask_output in (True, False):
                logits, predicted_iou = model.decode(features, prompts, multimask_output)
                theirs = hugging_face(
                    image_embeddings=expected,
                    input_points=None if prompts.points is None else prompts.points[None],
                    input_labels=None if prompts.point_labels is None else prompts.point_labels[None],
                    input_boxes=None if prompts.boxes is None else prompts.boxes[None],
                    input_masks=prompts.masks,
                    multimask_output=multimask_output,
                )
                assert_close(logits, theirs.pred_masks[0])
                assert_close(predicted_iou, theirs.iou_scores[0])

    @pytest.mark.parametrize("dropped", ["shared_image_embedding", "prompt_encoder.shared_embedding", None])
    @pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
    def test_the_position_code_may_be_stored_once_or_twice(self, hugging_face, hugging_face_folder, dropped, as_bin):
        weights = hugging_face_folder / "model.safetensors"
        state = {**hugging_face.state_dict(), **load_file(weights)}
        state = {key: value.clone() for key, value in state.items() if dropped is None or not key.startswith(dropped)}
        if as_bin:
            weights.unlink()
            torch.save(state, hugging_face_folder / "pytorch_model.bin")
        else:
            save_file(state, weights)
        code = segany.load(str(hugging_face_folder)).prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        assert torch.equal(code, hugging_face.shared_image_embedding.positional_embedding)

    def test_the_number_of_decoder_heads_is_read(self, tmp_path):
        config = replace(SMALL, decoder_heads=4)
        reference.hugging_face_sam(config).save_pretrained(tmp_path)
        assert segany.load(tmp_path).config == config

    @pytest.mark.parametrize(
        ("absent", "message"),
        [
            ("config.json", r"no config\.json$"),
            ("model.safetensors", r"no model\.safetensors or pytorch_model\.bin$"),
        ],
    )
    def test_missing_files_are_named(self, hugging_face_folder, absent, message):
        (hugging_face_folder / absent).unlink()
        with pytest.raises(CheckpointError, match=message):
            segany.load(hugging_face_folder)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ("{", "not valid JSON"),
            ('{"model_type": "sam2"}', "holds SAM 2"),
            ('{"model_type": "new"}', "of type 'new', expected 'sam'"),
        ],
        ids=["broken", "known model", "unknown model"],
    )
    def test_other_configurations_are_refused(self, hugging_face_folder, config, message):
        (hugging_face_folder / "config.json").write_text(config)
        with pytest.raises(CheckpointError, match=message):
            segany.load(hugging_face_folder)


class TestSource:
    def test_bundled_weights(self):
        model = segany.load("tiny")
        assert model.config == segany.PRESETS["tiny"]

    def test_bundled_weights_are_the_default(self):
        assert segany.load().fingerprint() == segany.load("photo").fingerprint()

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("vit_b", "'vit_b' names a preset without weights"),
            ("no_such_name", "no_such_name: no such checkpoint file or folder"),
            ("weights/sam_vit_b.pth", r"weights/sam_vit_b\.pth: no such checkpoint file or folder"),
            ("a/b/c", "a/b/c: no such checkpoint file or folder"),
            ("a/b/c/mobile_sam.pt", r"a/b/c/mobile_sam\.pt: no such checkpoint file or folder"),
            ("../weights/mobile_sam.pt", r"weights/mobile_sam\.pt: no such checkpoint file or folder"),
            ("vit_t", "'vit_t' names a preset without weights"),
        ],
    )
    def test_unknown_sources(self, source, message):
        with pytest.raises(CheckpointError, match=message):
            segany.load(source)

    def test_a_hub_id_without_network_is_one_clear_line(self, tmp_path, monkeypatch):
        use_hub(monkeypatch, tmp_path)
        with pytest.raises(CheckpointError) as error:
            segany.load("facebook/sam-vit-base")
        assert str(error.value) == (
            "cannot get facebook/sam-vit-base: it is not in the local cache, and offline mode is on (HF_HUB_OFFLINE); "
            "wanted config.json, model.safetensors or pytorch_model.bin: "
            "give the path of a local folder that holds them"
        )

    def test_a_file_on_the_hub_without_network_is_one_clear_line(self, tmp_path, monkeypatch):
        use_hub(monkeypatch, tmp_path)
        with pytest.raises(CheckpointError) as error:
            segany.load("somebody/MobileSAM/mobile_sam.pt")
        assert str(error.value) == (
            "cannot get somebody/MobileSAM: it is not in the local cache, and offline mode is on (HF_HUB_OFFLINE); "
            "wanted mobile_sam.pt: give the path of a local file, which this is not"
        )

    def test_a_hub_id_is_read_from_the_cache(self, hugging_face_folder, tmp_path, monkeypatch):
        use_hub(monkeypatch, tmp_path / "cache")
        fill_cache(tmp_path / "cache", "facebook/sam-vit-base", hugging_face_folder)
        assert_same_weights(segany.load("facebook/sam-vit-base"), segany.load(hugging_face_folder))


class TestOptions:
    def test_text_dim_adds_an_untrained_text_prompt(self, meta_file, model):
        loaded = segany.load(meta_file, text_dim=24)
        assert loaded.config == SMALL_TEXT
        state = loaded.state_dict()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert state["prompt_encoder.text_projection.weight"].any()

    def test_text_dim_must_be_that_of_the_checkpoint(self, text_model, tmp_path):
        segany.save(text_model, tmp_path / "model.safetensors")
        assert segany.load(tmp_path / "model.safetensors", text_dim=24).config == SMALL_TEXT
        with pytest.raises(CheckpointError, match="text prompt of width 24, asked for 512"):
            segany.load(tmp_path / "model.safetensors", text_dim=512)

    @torch.no_grad()
    def test_dtype_is_that_of_the_encoder_alone(self, meta_file, model):
        loaded = segany.load(meta_file, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in loaded.image_encoder.parameters()} == {torch.bfloat16}
        assert {parameter.dtype for parameter in loaded.mask_decoder.parameters()} == {torch.float32}
        pixels, prompts = torch.randn(1, 3, 256, 256), Prompts(boxes=[[0, 0, 99, 99]])
        features = loaded.encode_image(pixels)
        assert_close(features.float(), model.encode_image(pixels), 0.05)
        assert loaded.decode(features, prompts, True)[0].dtype == torch.float32

    def test_device(self, meta_file):
        assert segany.load(meta_file, device="cpu").image_encoder.pos_embed.device.type == "cpu"
