from copy import deepcopy
from dataclasses import replace

import jaxtyping
import pytest
import torch

import segany
from segany import SegAny
from segany.modeling.image_encoder import in_bands
from segany.utils.transforms import prepare_image
from tests.data import ROOT
from tests.segany import reference
from tests.segany.reference import SMALL, assert_close

CONFIGS = {
    "padded windows": SMALL,
    "fitting windows": replace(SMALL, window_size=8),
    "window larger than the grid": replace(SMALL, window_size=18, encoder_depth=2),
    "all blocks global": replace(SMALL, encoder_depth=2, global_blocks=(0, 1)),
    "no block global": replace(SMALL, encoder_depth=2, global_blocks=()),
    "small patches": replace(SMALL, image_size=96, patch_size=8, encoder_depth=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_embedding_equals_the_reference(config):
    sam = reference.perturb(reference.meta_sam(config))
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    assert_close(reference.segany_like(sam, config).encode_image(pixels), sam.image_encoder(pixels))


@torch.no_grad()
def test_single_equals_batched(model):
    pixels = torch.randn(3, 3, 256, 256)
    batched = model.encode_image(pixels)
    assert_close(torch.cat([model.encode_image(one) for one in pixels.split(1)]), batched, 1e-5)


@torch.no_grad()
def test_no_images(model):
    assert model.encode_image(torch.zeros(0, 3, 256, 256)).shape == (0, 64, 16, 16)


@torch.no_grad()
def test_bfloat16_autocast_stays_near(model):
    pixels = torch.randn(1, 3, 256, 256)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.encode_image(pixels)
    assert_close(rounded.float(), model.encode_image(pixels), 0.05)


def test_gradients_equal_those_of_the_reference():
    sam = reference.perturb(reference.meta_sam(SMALL))
    model = reference.segany_like(sam, SMALL)
    pixels, weight = torch.randn(2, 3, 256, 256), torch.randn(2, 64, 16, 16)
    for encoder in (sam.image_encoder, model.image_encoder):
        (encoder(pixels) * weight).mean().backward()
    expected = dict(sam.image_encoder.named_parameters())
    for name, parameter in model.image_encoder.named_parameters():
        assert (parameter.grad - expected[name].grad).norm() <= 1e-4 * expected[name].grad.norm(), name


@torch.no_grad()
def test_bfloat16_weights_stay_near(model):
    pixels = torch.randn(2, 3, 256, 256)
    rounded = deepcopy(model.image_encoder).bfloat16()(pixels.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert_close(rounded.float(), model.encode_image(pixels), 0.05)


@torch.no_grad()
def test_bundled_weights_in_bfloat16():
    single, half = segany.load("tiny"), segany.load("tiny", dtype="bfloat16")
    pixels = prepare_image(ROOT / "examples" / "picnic.png", single.config)[0][None]
    features = single.encode_image(pixels)
    rounded = half.encode_image(pixels).float()
    assert torch.cosine_similarity(rounded, features, dim=1).min() > 0.999
    assert (rounded - features).square().mean().sqrt() < 0.02 * features.std()
    assert ((rounded - features).norm(dim=1) < 0.03 * features.norm(dim=1)).all()


def test_answers_do_not_depend_on_whether_gradients_are_wanted(model):
    pixels = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        features = model.encode_image(pixels)
    assert_close(model.encode_image(pixels).detach(), features, 1e-5)


@pytest.mark.parametrize(
    ("batch", "height", "width", "multiple"),
    [(1, 64, 64, 14), (2, 64, 64, 1), (3, 5, 7, 4), (1, 3, 2000, 2), (0, 8, 8, 4)],
    ids=["windows", "rows", "one band", "wide", "no grid"],
)
def test_bands(batch, height, width, multiple):
    x, heights = torch.randn(batch, height, width, 2), []

    def number_rows(band):
        heights.append(band.shape[1])
        return band + torch.arange(band.shape[1]).remainder(multiple)[:, None, None]

    expected = number_rows(x)
    heights.clear()
    assert torch.equal(in_bands(number_rows, x, multiple), expected)
    assert sum(heights) == max(1, batch) * height
    assert max(heights) <= max(multiple, 1024 // width)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_compiles_as_one_graph(model, dtype, monkeypatch):
    # The checks of annotations during tests are Python that no compiler can follow; users run without them.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    encoder, pixels = deepcopy(model.image_encoder).to(dtype), torch.randn(2, 3, 256, 256, dtype=dtype)
    compiled = torch.compile(encoder, dynamic=False, fullgraph=True)
    assert_close(compiled(pixels).float(), encoder(pixels).float(), 1e-5 if dtype == torch.float32 else 0.05)


def test_fresh_weights():
    encoder = SegAny(SMALL).image_encoder.requires_grad_(False)
    assert encoder.pos_embed.std() == pytest.approx(0.02, rel=0.1)
    assert encoder.blocks[0].attn.qkv.weight.std() == pytest.approx(0.02, rel=0.1)
    assert not encoder.blocks[0].attn.qkv.bias.any()
    assert not encoder.blocks[0].attn.rel_pos_h.any()
