import copy
import json
from dataclasses import replace

import pytest
import torch
from segment_anything import sam_model_registry

from segany import PRESETS, PromptError, Prompts, SegAny, SegAnyConfig
from segany.config import TinyViTConfig
from tests.segany import reference
from tests.segany.reference import SMALL, SMALL_TEXT, assert_close


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_presets_have_the_tensors_of_published_models(name):
    with torch.device("meta"):
        assert shapes(SegAny(PRESETS[name]).state_dict()) == shapes(sam_model_registry[name]().state_dict())


def test_the_text_prompt_adds_its_own_tensors_only():
    plain, text = shapes(SegAny(SMALL).state_dict()), shapes(SegAny(SMALL_TEXT).state_dict())
    assert {key: shape for key, shape in text.items() if key not in plain} == {
        "prompt_encoder.text_projection.weight": (64, 24),
        "prompt_encoder.text_projection.bias": (64,),
        "prompt_encoder.text_type_embed.weight": (1, 64),
    }
    assert plain.items() <= text.items()


def test_tiny_preset():
    model = SegAny(PRESETS["tiny"])
    features = model.encode_image(torch.randn(2, 3, 384, 384))
    assert features.shape == (2, 128, 48, 48)
    logits, predicted_iou = model.decode(features, Prompts(boxes=torch.rand(2, 4), text=torch.randn(2, 1, 128)), None)
    assert logits.shape == (2, 4, 192, 192)
    assert predicted_iou.shape == (2, 4)


PROMPTS = {
    "points": Prompts(points=[[[9, 9], [200, 90]]] * 3, point_labels=[[1, 0], [1, -1], [0, 1]]),
    "boxes": Prompts(boxes=[[0, 0, 90, 90], [10, 20, 200, 220], [5, 5, 6, 6]]),
    "text": Prompts(text=torch.randn(3, 2, 24)),
    "masks": Prompts(masks=torch.randn(3, 1, 64, 64)),
    "boxes and text": Prompts(boxes=[[0, 0, 90, 90]] * 3, text=torch.randn(3, 1, 24)),
}


@pytest.mark.parametrize("multimask_output", [None, True, False], ids=["all", "several", "one"])
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@torch.no_grad()
def test_one_shared_image_equals_one_image_per_prompt(text_model, prompts, multimask_output):
    features = torch.randn(1, 64, 16, 16)
    shared = text_model.decode(features, prompts, multimask_output)
    repeated = text_model.decode(features.repeat(3, 1, 1, 1), prompts, multimask_output)
    assert_close(shared[0], repeated[0], 1e-5)
    assert_close(shared[1], repeated[1], 1e-5)


@torch.no_grad()
def test_each_prompt_reads_its_own_image(text_model):
    features, prompts = torch.randn(3, 64, 16, 16), PROMPTS["boxes"]
    together, _ = text_model.decode(features, prompts, True)
    alone = [text_model.decode(features[i : i + 1], prompts[i], True)[0] for i in range(3)]
    assert_close(together, torch.cat(alone), 1e-5)


@pytest.mark.parametrize(("multimask_output", "outputs"), [(None, 4), (True, 3), (False, 1)])
@pytest.mark.parametrize("images", [0, 1])
def test_no_prompts(model, multimask_output, outputs, images):
    features = torch.randn(images, 64, 16, 16)
    logits, predicted_iou = model.decode(features, Prompts(boxes=[]), multimask_output)
    assert logits.shape == (0, outputs, 64, 64)
    assert predicted_iou.shape == (0, outputs)


def test_features_must_be_one_image_or_one_per_prompt(model):
    with pytest.raises(ValueError, match="1 image or one for each of 3 prompts, got 2"):
        model.decode(torch.zeros(2, 64, 16, 16), PROMPTS["boxes"], True)


def test_pixels_must_fill_the_frame(model):
    with pytest.raises(ValueError, match=r"pixels must be \(b, 3, 256, 256\), got \(1, 3, 128, 128\)"):
        model.encode_image(torch.zeros(1, 3, 128, 128))


def test_text_needs_a_text_prompt(model):
    with pytest.raises(PromptError, match="takes no text prompt"):
        model.decode(torch.zeros(1, 64, 16, 16), PROMPTS["text"], True)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = SegAny(SMALL_TEXT)
    features = model.encode_image(torch.randn(2, 3, 256, 256))
    prompts = [
        Prompts(points=[[[9, 9], [99, 9]]] * 2, point_labels=[[1, 0], [0, 1]], text=torch.randn(2, 1, 24)),
        Prompts(boxes=[[0, 0, 90, 90]] * 2, masks=torch.randn(2, 1, 64, 64)),
    ]
    predictions = [model.decode(features, prompt, None) for prompt in prompts]
    sum(logits.square().mean() + iou.square().mean() for logits, iou in predictions).backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_gradients_reach_text_and_mask_prompts(text_model):
    text = torch.randn(1, 1, 24, requires_grad=True)
    masks = torch.randn(1, 1, 64, 64, requires_grad=True)
    logits, _ = text_model.decode(torch.randn(1, 64, 16, 16), Prompts(text=text, masks=masks), True)
    logits.sum().backward()
    assert text.grad.any() and masks.grad.any()


@torch.no_grad()
def test_decoding_features_of_an_autocast_encoder_is_float32(model):
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encode_image(torch.randn(1, 3, 256, 256))
    rounded, _ = model.decode(features.bfloat16(), PROMPTS["boxes"], True)
    assert rounded.dtype == torch.float32
    assert_close(rounded, model.decode(features.bfloat16().float(), PROMPTS["boxes"], True)[0], 1e-6)


class TestFingerprint:
    def test_equal_models(self, model):
        assert copy.deepcopy(model).fingerprint() == model.fingerprint()

    def test_one_changed_weight(self, model):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.mask_decoder.iou_token.weight[0, 0] += 1e-3
        assert changed.fingerprint() != model.fingerprint()

    def test_changed_configuration(self, model):
        changed = SegAny(replace(SMALL, pixel_mean=(0.0, 0.0, 0.0)))
        changed.load_state_dict(model.state_dict())
        assert changed.fingerprint() != model.fingerprint()


class TestConfig:
    @pytest.mark.parametrize("config", [SMALL_TEXT, *PRESETS.values()], ids=["text", *PRESETS])
    def test_round_trip(self, config):
        assert SegAnyConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_plain_vits_are_stored_as_before_there_were_others(self):
        assert "tiny_vit" not in SMALL.to_dict()

    def test_patches_are_those_of_the_tiny_vit(self):
        with pytest.raises(ValueError, match="patch_size must be that of tiny_vit, 16, got 32"):
            SegAnyConfig(tiny_vit=TinyViTConfig(), patch_size=32)

    def test_unknown_keys_of_the_tiny_vit_are_named(self):
        with pytest.raises(ValueError, match=r"TinyViTConfig: unknown keys \['colour'\], missing keys \[\]"):
            SegAnyConfig.from_dict({"tiny_vit": {"colour": 1}})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 250}, r"image_size must be a positive multiple of patch_size \(16\), got 250"),
            ({"encoder_heads": 3}, "encoder_dim must be a positive multiple of encoder_heads"),
            ({"decoder_heads": 7}, "prompt_dim must be a positive multiple of attention_downsample"),
            ({"global_blocks": (3,)}, r"global_blocks must lie in 0..2, got \[3\]"),
            (
                {"tiny_vit": TinyViTConfig(), "global_blocks": ()},
                "encoder_dim, encoder_depth, encoder_heads describe a plain ViT, which tiny_vit takes the place of",
            ),
        ],
        ids=["patches", "encoder heads", "decoder heads", "global blocks", "two encoders"],
    )
    def test_sizes_must_fit(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **changes)

    def test_unknown_and_missing_keys_are_named(self):
        values = {**reference.SMALL.to_dict(), "colour": 1}
        del values["encoder_dim"]
        with pytest.raises(ValueError, match=r"unknown keys \['colour'\], missing keys \['encoder_dim'\]"):
            SegAnyConfig.from_dict(values)
