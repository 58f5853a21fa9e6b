"""The reference is timm's TinyViT, with one stride as in MobileSAM and Segment Anything's neck after it.

MobileSAM's own code is not an installable package. Facts that timm does not give are taken from its published source:
the names in its checkpoint, the stride, and that the neck follows the last stage without a normalisation.
"""

from dataclasses import replace

import pytest
import timm
import torch

from segany import PRESETS, SegAny, SegAnyConfig
from segany.config import TinyViTConfig
from segany.modeling.tiny_vit import BiasedAttention, ConvNorm, TinyViT, in_overlapping_bands
from tests.segany.reference import SMALL, assert_close, perturb
from tests.segany.reference_tiny_vit import SMALL_MOBILE, mobile_sam_names, timm_encoder


def with_sizes(image_size: int = 256, **sizes) -> SegAnyConfig:
    return replace(SMALL_MOBILE, image_size=image_size, tiny_vit=replace(SMALL_MOBILE.tiny_vit, **sizes))


CONFIGS = {
    "padded windows": SMALL_MOBILE,
    "fitting windows": with_sizes(window_sizes=(8, 4, 8)),
    "windows as large as the grid": with_sizes(window_sizes=(32, 16, 16)),
    "windows larger than the grid": with_sizes(image_size=64, window_sizes=(10, 7, 5)),
    "several bands, the last one shorter": with_sizes(image_size=704, depths=(1, 1, 1, 1)),
}


def like(reference, config) -> TinyViT:
    """Our encoder with the weights of the reference."""
    encoder = TinyViT(config).eval()
    encoder.load_state_dict(mobile_sam_names(reference, classifier=False))
    return encoder


@pytest.fixture(scope="module")
def reference():
    """Not to be changed by tests."""
    return timm_encoder(SMALL_MOBILE)


@pytest.fixture(scope="module")
def encoder(reference) -> TinyViT:
    """Not to be changed by tests."""
    return like(reference, SMALL_MOBILE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_embedding_equals_the_reference(config):
    reference = timm_encoder(config)
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    embedding = like(reference, config)(pixels)
    assert embedding.shape == (2, 64, config.grid_size, config.grid_size)
    assert_close(embedding, reference(pixels))


@pytest.mark.slow
@torch.no_grad()
def test_published_sizes_equal_the_reference():
    reference = timm_encoder(PRESETS["vit_t"])
    pixels = torch.randn(1, 3, 1024, 1024)
    embedding = like(reference, PRESETS["vit_t"])(pixels)
    assert embedding.shape == (1, 256, 64, 64)
    assert_close(embedding, reference(pixels))


def test_the_preset_has_the_sizes_of_the_published_trunk():
    def sizes(state, rest):
        return sorted(tuple(value.shape) for key, value in state.items() if not key.startswith(rest))

    published = timm.create_model("tiny_vit_5m_224")
    assert sizes(TinyViT(PRESETS["vit_t"]).state_dict(), "neck.") == sizes(published.state_dict(), "head.")


@torch.no_grad()
def test_single_equals_batched(encoder):
    pixels = torch.randn(3, 3, 256, 256)
    assert_close(torch.cat([encoder(one) for one in pixels.split(1)]), encoder(pixels), 1e-5)


@torch.no_grad()
def test_no_images(encoder):
    assert encoder(torch.zeros(0, 3, 256, 256)).shape == (0, 64, 16, 16)


@torch.no_grad()
def test_bfloat16_stays_near(reference, encoder):
    pixels = torch.randn(1, 3, 256, 256)
    expected = encoder(pixels)
    rounded = like(reference, SMALL_MOBILE).to(torch.bfloat16)(pixels.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert_close(rounded.float(), expected, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(encoder(pixels).float(), expected, 0.05)


def test_with_gradients_it_answers_the_same(encoder):
    pixels = torch.randn(1, 3, 256, 256)
    embedding = encoder(pixels.requires_grad_())
    with torch.no_grad():
        assert_close(embedding.detach(), encoder(pixels.detach()), 1e-5)


def test_training_equals_the_reference():
    reference = timm_encoder(SMALL_MOBILE)
    encoder = like(reference, SMALL_MOBILE).train()
    reference.trunk.train()
    pixels = torch.randn(2, 3, 256, 256)
    embedding, expected = encoder(pixels), reference(pixels)
    assert_close(embedding.detach(), expected.detach())
    statistics = mobile_sam_names(reference, classifier=False)
    for key, value in encoder.state_dict().items():
        assert_close(value.float(), statistics[key].float())
    embedding.square().mean().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []


def test_batch_statistics_are_those_of_the_whole_image():
    """Training without gradients, as for calibrating statistics, must not work band by band."""
    encoder = like(timm_encoder(SMALL_MOBILE), SMALL_MOBILE).train()
    pixels = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        embedding = encoder(pixels)
    assert encoder.patch_embed.seq[0].bn.num_batches_tracked == 100_001
    assert_close(embedding, encoder(pixels).detach(), 1e-5)


@torch.no_grad()
def test_convolution_and_normalisation_are_one(encoder):
    layer = ConvNorm(6, 8, kernel_size=3, stride=2, groups=2)
    perturb(layer)
    torch.nn.init.normal_(layer.bn.running_mean)
    torch.nn.init.uniform_(layer.bn.running_var, 0.1, 2.0)
    x = torch.randn(2, 6, 10, 10)
    assert_close(layer(x), layer.bn(layer.c(x)), 1e-5)


def test_biases_belong_to_distances():
    attention = BiasedAttention(dim=4, heads=2, window_size=3)
    attention.attention_biases.data = torch.arange(18.0).reshape(2, 9)
    matrix = attention.bias_matrix()
    for query in range(9):
        for key in range(9):
            rows, columns = abs(query // 3 - key // 3), abs(query % 3 - key % 3)
            assert matrix[:, query, key].tolist() == [3 * rows + columns, 9 + 3 * rows + columns]


@pytest.mark.parametrize("stride", [1, 2], ids=["stride 1", "stride 2"])
@pytest.mark.parametrize("height", [2, 6, 40, 600])
@torch.no_grad()
def test_bands_are_exact(height, stride):
    layer = torch.nn.Conv2d(2, 3, kernel_size=3, stride=stride, padding=1)
    x = torch.randn(2, 2, height, 256)
    assert_close(in_overlapping_bands(layer, x, stride), layer(x), 1e-6)


def test_fresh_weights():
    encoder = SegAny(SMALL_MOBILE).image_encoder.requires_grad_(False)
    assert encoder.layers[1].blocks[0].attn.qkv.weight.std() == pytest.approx(0.02, rel=0.1)
    assert not encoder.layers[1].blocks[0].attn.qkv.bias.any()
    assert not encoder.layers[1].blocks[0].attn.attention_biases.any()


def test_a_plain_vit_is_refused():
    with pytest.raises(ValueError, match="describes a plain ViT"):
        TinyViT(SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": (16, 32, 40)}, "one entry for each of two stages or more, .* got 3, 4, 3 and 3 entries"),
        ({"depths": (1, 1)}, "got 4, 2, 3 and 3 entries"),
        ({"heads": (2, 3, 4)}, r"dims must be a positive multiple of heads \(3\), got 40"),
        ({"dims": (15, 32, 40, 64)}, r"dims\[0\] must be a positive multiple of 2 \(2\), got 15"),
        ({"window_sizes": (7, 0, 7)}, r"window_sizes must be positive, got \(7, 0, 7\)"),
    ],
    ids=["stages", "depths", "heads", "first stage", "windows"],
)
def test_sizes_must_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL_MOBILE.tiny_vit, **changes)


def test_defaults_are_those_of_mobile_sam():
    assert PRESETS["vit_t"].tiny_vit == TinyViTConfig()
    assert PRESETS["vit_t"].grid_size == 64
