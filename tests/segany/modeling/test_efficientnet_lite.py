import re
from dataclasses import replace

import pytest
import timm
import torch

import segany
from segany.config import EfficientNetLiteConfig, SegAnyConfig
from segany.modeling.efficientnet_lite import EfficientNetLite, EfficientNetLiteEncoder

SMALL = EfficientNetLiteConfig(
    stem_dim=8,
    dims=(8, 8, 12, 16, 16, 20, 24),
    depths=(1, 2, 1, 1, 1, 1, 1),
    attention_dim=24,
    attention_depth=1,
    attention_heads=2,
)
CONFIG = SegAnyConfig(
    image_size=96,
    patch_size=8,
    efficientnet_lite=SMALL,
    prompt_dim=32,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_hidden_dim=16,
    text_dim=16,
)


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with batch statistics that make a difference."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return module


@pytest.fixture(scope="module")
def model() -> segany.SegAny:
    torch.manual_seed(0)
    return randomised(segany.SegAny(CONFIG)).eval()


@pytest.fixture(scope="module")
def public() -> torch.nn.Module:
    torch.manual_seed(1)
    name = "tf_efficientnet_lite2"
    return randomised(timm.create_model(name, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)))


class TestBackbone:
    @pytest.mark.parametrize("side", [64, 96, 100], ids=["even", "odd at 32", "odd"])
    @pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
    def test_equals_timm_with_its_weights_by_name(self, public: torch.nn.Module, side: int, training: bool):
        own = EfficientNetLite(EfficientNetLiteConfig())
        own.load_state_dict(public.state_dict())
        pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
        public.train(training)
        own.train(training)
        with torch.no_grad():
            for feature, expected in zip(own(pixels), public(pixels), strict=True):
                assert feature.shape == expected.shape
                torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))

    def test_feature_dims(self, public: torch.nn.Module):
        assert EfficientNetLite(EfficientNetLiteConfig()).feature_dims == tuple(public.feature_info.channels())


class TestEncoder:
    def test_one_cell_per_eight_pixels(self, model: segany.SegAny):
        assert model.encode_image(torch.randn(2, 3, 96, 96)).shape == (2, 32, 12, 12)

    def test_single_equals_batch(self, model: segany.SegAny):
        pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            together = model.encode_image(pixels)
            alone = torch.cat([model.encode_image(one[None]) for one in pixels])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)

    def test_bfloat16_is_near_float32(self, model: segany.SegAny):
        pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        half = EfficientNetLiteEncoder(CONFIG).eval()
        half.load_state_dict(model.image_encoder.state_dict())
        half = half.to(torch.bfloat16)
        with torch.no_grad():
            expected, near = model.image_encoder(pixels), half(pixels.bfloat16()).float()
        assert (near - expected).abs().mean() < 0.05 * expected.abs().mean()

    def test_every_parameter_learns(self):
        torch.manual_seed(0)
        encoder = EfficientNetLiteEncoder(CONFIG).train()
        encoder(torch.randn(2, 3, 96, 96)).square().mean().backward()
        assert [name for name, value in encoder.named_parameters() if value.grad is None] == []


def test_a_predictor_on_it(model: segany.SegAny, tmp_path):
    predictor = segany.Predictor(model)
    image = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8).numpy()
    prediction = predictor.predict(predictor.encode(image), segany.Prompts(boxes=[[5, 5, 50, 40]]))
    assert prediction.masks.shape == (1, 3, 60, 90)
    segany.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = segany.load(tmp_path / "model.safetensors")
    assert loaded.config == CONFIG and loaded.fingerprint() == model.fingerprint()


class TestConfig:
    def test_round_trip(self):
        values = CONFIG.to_dict()
        assert "tiny_vit" not in values
        assert SegAnyConfig.from_dict(values) == CONFIG

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            pytest.param({"dims": (8, 8)}, "one entry in each list", id="lengths"),
            pytest.param({"strides": (1, 2, 2, 2, 1, 1, 1)}, "four times 2", id="too few strides"),
            pytest.param({"strides": (2, 2, 2, 2, 1, 1, 1)}, "begin with 1", id="first stride"),
            pytest.param({"attention_heads": 5}, "multiple of attention_heads", id="heads"),
        ],
    )
    def test_sizes_that_do_not_fit(self, changes: dict, message: str):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            pytest.param({"patch_size": 16}, "patch_size must be that of efficientnet_lite, 8, got 16", id="patch"),
            pytest.param({"image_size": 40}, "multiple of 32", id="image size"),
            pytest.param({"encoder_dim": 32}, "encoder_dim describe a plain ViT", id="plain ViT"),
            pytest.param(
                {"tiny_vit": segany.PRESETS["vit_t"].tiny_vit}, "one image encoder, got tiny_vit and", id="two encoders"
            ),
        ],
    )
    def test_other_sizes(self, changes: dict, message: str):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)

    def test_another_encoder(self):
        with pytest.raises(ValueError, match=re.escape("efficientnet_lite is None")):
            EfficientNetLiteEncoder(segany.PRESETS["tiny"])
