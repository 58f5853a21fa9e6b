from dataclasses import replace

import pytest
import torch

from segany import SegAny
from segany.relative_attention import by_distance, join_windows, split_windows
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


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (3, 13), (4, 4), (1, 1)])
def test_windows_round_trip(height, width):
    x = torch.randn(2, height, width, 5)
    windows = split_windows(x, 4, torch.zeros(x.shape[-1]))
    assert windows.shape == (2 * -(-height // 4) * -(-width // 4), 4, 4, 5)
    assert torch.equal(join_windows(windows, height, width), x)


def test_windows_are_neighbouring_cells():
    x = torch.arange(36.0).reshape(1, 6, 6, 1)
    windows = split_windows(x, 4, torch.zeros(x.shape[-1]))
    assert torch.equal(windows[0, ..., 0], x[0, :4, :4, 0])
    assert torch.equal(windows[3, :2, :2, 0], x[0, 4:, 4:, 0])
    assert not windows[3, 2:].any()


def test_by_distance():
    table = torch.arange(5.0)[:, None]  # distances -2..2
    assert by_distance(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_fresh_weights():
    encoder = SegAny(SMALL).image_encoder.requires_grad_(False)
    assert encoder.pos_embed.std() == pytest.approx(0.02, rel=0.1)
    assert encoder.blocks[0].attn.qkv.weight.std() == pytest.approx(0.02, rel=0.1)
    assert not encoder.blocks[0].attn.qkv.bias.any()
    assert not encoder.blocks[0].attn.rel_pos_h.any()
