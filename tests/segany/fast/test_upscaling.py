"""Upscaling as matrix products against the transposed convolutions of `MaskDecoder`."""

import pytest
import torch

from segany.fast import blocks
from segany.fast.upscaling import Upscaling
from tests.segany.reference import assert_close


@pytest.mark.parametrize("at_once", [1, 20, 1 << 20], ids=["a row", "a few rows", "everything"])
@pytest.mark.parametrize(("n", "height", "width"), [(0, 4, 4), (1, 1, 1), (3, 5, 7)])
@torch.no_grad()
def test_logits_equal_those_of_the_convolutions(model, monkeypatch, n, height, width, at_once):
    monkeypatch.setattr(blocks, "_CELLS_AT_ONCE", {"cpu": at_once})
    random = torch.Generator().manual_seed(n)
    cells, kernels = torch.randn(n, height, width, 64, generator=random), torch.randn(n, 3, 8, generator=random)
    upscaled = model.mask_decoder.output_upscaling(cells.permute(0, 3, 1, 2))
    expected = torch.einsum("nmc,nchw->nmhw", kernels, upscaled)
    logits = Upscaling(model.mask_decoder.output_upscaling, torch.float32)(cells, kernels)
    assert logits.shape == (n, 3, 4 * height, 4 * width)
    assert_close(logits, expected, 1e-5)
