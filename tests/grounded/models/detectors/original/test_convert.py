import json
import sys
from pathlib import Path

import pytest
import torch

from grounded.config import DetectorConfig
from grounded.errors import CheckpointError, ConfigError
from grounded.models.detectors.checkpoint import load_checkpoint
from grounded.models.detectors.grounding_dino import GroundingDino
from grounded.models.detectors.original import package
from grounded.models.detectors.original.checkpoint import SWIN_B_COGCOOR, SWIN_T_OGC
from grounded.models.detectors.original.convert import convert, convert_weights, to_config
from tests.grounded.conftest import random_image
from tests.grounded.models.detectors import tiny_models

SWIN, LAYERS = "model.backbone.conv_encoder.model.", "model.encoder.layers."

NAMES = {
    "backbone.0.patch_embed.proj.weight": f"{SWIN}embeddings.patch_embeddings.projection.weight",
    "backbone.0.patch_embed.norm.bias": f"{SWIN}embeddings.norm.bias",
    "backbone.0.layers.2.blocks.1.norm1.weight": f"{SWIN}encoder.layers.2.blocks.1.layernorm_before.weight",
    "backbone.0.layers.2.blocks.1.mlp.fc1.bias": f"{SWIN}encoder.layers.2.blocks.1.intermediate.dense.bias",
    "backbone.0.layers.0.downsample.norm.weight": f"{SWIN}encoder.layers.0.downsample.norm.weight",
    "backbone.0.norm1.weight": f"{SWIN}hidden_states_norms.stage2.weight",
    "bert.encoder.layer.3.attention.self.query.bias": "model.text_backbone.encoder.layer.3.attention.self.query.bias",
    "feat_map.weight": "model.text_projection.weight",
    "input_proj.3.0.weight": "model.input_proj_vision.3.0.weight",
    "transformer.level_embed": "model.level_embed",
    "transformer.tgt_embed.weight": "model.query_position_embeddings.weight",
    "transformer.enc_output.weight": "model.enc_output.weight",
    "transformer.enc_output_norm.weight": "model.enc_output_norm.weight",
    "transformer.enc_out_bbox_embed.layers.1.bias": "model.encoder_output_bbox_embed.layers.1.bias",
    "transformer.encoder.layers.4.self_attn.value_proj.bias": f"{LAYERS}4.deformable_layer.self_attn.value_proj.bias",
    "transformer.encoder.layers.4.norm2.bias": f"{LAYERS}4.deformable_layer.final_layer_norm.bias",
    "transformer.encoder.text_layers.0.linear1.bias": f"{LAYERS}0.text_enhancer_layer.fc1.bias",
    "transformer.encoder.fusion_layers.0.gamma_l": f"{LAYERS}0.fusion_layer.text_param",
    "transformer.encoder.fusion_layers.0.attn.l_proj.bias": f"{LAYERS}0.fusion_layer.attn.text_proj.bias",
    "transformer.encoder.fusion_layers.0.attn.out_v_proj.bias": f"{LAYERS}0.fusion_layer.attn.out_vision_proj.bias",
    "transformer.decoder.layers.5.ca_text.out_proj.bias": "model.decoder.layers.5.encoder_attn_text.out_proj.bias",
    "transformer.decoder.layers.5.catext_norm.bias": "model.decoder.layers.5.encoder_attn_text_layer_norm.bias",
    "transformer.decoder.layers.5.cross_attn.output_proj.bias": "model.decoder.layers.5.encoder_attn.output_proj.bias",
    "transformer.decoder.layers.5.norm1.bias": "model.decoder.layers.5.encoder_attn_layer_norm.bias",
    "transformer.decoder.layers.5.norm2.bias": "model.decoder.layers.5.self_attn_layer_norm.bias",
    "transformer.decoder.norm.weight": "model.decoder.layer_norm.weight",
    "transformer.decoder.ref_point_head.layers.0.bias": "model.decoder.reference_points_head.layers.0.bias",
    "transformer.decoder.bbox_embed.0.layers.2.bias": "model.decoder.bbox_embed.0.layers.2.bias",
    "bbox_embed.0.layers.2.bias": "bbox_embed.0.layers.2.bias",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_original(tmp_path_factory.mktemp("original"))


def test_names():
    weights = {name: torch.full((3,), float(i)) for i, name in enumerate(NAMES)}
    converted = convert_weights(weights)
    assert {name: converted.pop(NAMES[name]) is value for name, value in weights.items()} == dict.fromkeys(NAMES, True)
    assert not converted


@pytest.mark.parametrize(
    ("original", "converted"),
    [
        ("backbone.0.layers.0.blocks.0.attn.qkv.weight", f"{SWIN}encoder.layers.0.blocks.0.attention.self.{{}}.weight"),
        (
            "transformer.encoder.text_layers.1.self_attn.in_proj_bias",
            f"{LAYERS}1.text_enhancer_layer.self_attn.{{}}.bias",
        ),
        ("transformer.decoder.layers.1.ca_text.in_proj_weight", "model.decoder.layers.1.encoder_attn_text.{}.weight"),
    ],
)
def test_joint_projections_are_cut_in_three(original: str, converted: str):
    parts = convert_weights({original: torch.arange(6.0)})
    assert list(parts) == [converted.format(projection) for projection in ("query", "key", "value")]
    assert [part.tolist() for part in parts.values()] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "name", ["backbone.0.layers.0.blocks.0.attn.relative_position_index", "bert.pooler.dense.weight"]
)
def test_parameters_that_are_left_out(name: str):
    assert convert_weights({name: torch.zeros(1)}) == {}


def test_no_weights():
    assert convert_weights({}) == {}


def test_unknown_name():
    with pytest.raises(KeyError, match="image_encoder"):
        convert_weights({"image_encoder.pos_embed": torch.zeros(1)})


@pytest.mark.parametrize(
    ("architecture", "width", "stage_3"), [(SWIN_T_OGC, 96, 6), (SWIN_B_COGCOOR, 128, 18)], ids=["T", "B"]
)
def test_configs_of_the_published_networks(architecture, width: int, stage_3: int):
    config = to_config(architecture)
    assert config.backbone_config.embed_dim == width
    assert config.backbone_config.depths[2] == stage_3
    assert (config.num_queries, config.d_model, config.max_text_len) == (900, 256, 256)
    assert (config.text_config.vocab_size, config.text_config.num_hidden_layers) == (30522, 12)


def test_both_packages_give_the_same(checkpoint: Path, tmp_path: Path):
    original = package.load(checkpoint).model
    converted = load_checkpoint(convert(checkpoint, tmp_path / "out")).model
    ids = torch.tensor([[101, 1, 8, 1012, 4, 10, 1012, 102]])
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = original(pixels, ids, torch.ones_like(ids))
        actual = converted(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
    finite = expected.logits.isfinite()
    assert torch.equal(finite, actual.logits.isfinite())
    assert expected.logits[finite].std() > 0.1 and expected.pred_boxes.std(1).max() > 0.1  # that they are not constant
    assert (actual.logits - expected.logits)[finite].abs().max() <= 1e-4 * expected.logits[finite].abs().max()
    assert (actual.pred_boxes - expected.pred_boxes).abs().max() <= 1e-5


def test_the_folder_is_a_detector(checkpoint: Path, tmp_path: Path):
    folder = convert(checkpoint, tmp_path / "new" / "out")
    assert folder == tmp_path / "new" / "out"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    config = DetectorConfig(box_threshold=0.0, nms_threshold=1.0, image_size=64)
    (expected,) = package.load(checkpoint, config).detect([random_image()], [["a cat", "hot dog"]])
    (found,) = GroundingDino.from_pretrained(folder, config).detect([random_image()], [["a cat", "hot dog"]])
    assert found.phrase_ids.tolist() == expected.phrase_ids.tolist()
    assert found.boxes == pytest.approx(expected.boxes, abs=0.01)
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)


def test_the_original_package_is_not_needed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "groundingdino", None)  # as if it were not installed
    assert (convert(checkpoint, tmp_path / "out") / "model.safetensors").is_file()


def test_network_and_image_sizes_are_stated(checkpoint: Path, tmp_path: Path):
    folder = convert(checkpoint, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_queries"]) == ("grounding-dino", 12)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 800, "longest_edge": 1333}


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(checkpoint: Path, tmp_path: Path):
    assert (convert(checkpoint, tmp_path) / "model.safetensors").is_file()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=f"new or an empty folder, got {tmp_path}"):
        convert(checkpoint, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        pytest.param({"image_encoder.pos_embed": torch.zeros(1)}, CheckpointError, "no Grounding DINO has", id="other"),
        pytest.param({"feat_map.weight": torch.zeros(2, 2)}, CheckpointError, r"tiny\.pth lack ", id="incomplete"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(
    tmp_path: Path, weights: dict[str, torch.Tensor], error: type[Exception], message: str
):
    path = tiny_models.save_pth(tmp_path / "in", weights)
    with pytest.raises(error, match=message) as raised:
        convert(path, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
