"""The composed resize against the two resizes that it replaces, and measurements against the plain formulas."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segany.fast import resize as module
from segany.utils.masks import masks_to_boxes, stability_score
from segany.utils.transforms import ResizeFrame

CELLS, FRAME = 64, 256
# Larger and smaller than the model frame, landscape and portrait, of its size, a single pixel, and very thin.
SIZES = [(480, 641), (641, 480), (90, 140), (256, 256), (1, 1), (1, 500), (700, 3)]
by_size = pytest.mark.parametrize("size", SIZES, ids=str)


def resize_for(size: tuple[int, int]) -> tuple[ResizeFrame, module.ComposedResize]:
    frame = ResizeFrame.fit(size, FRAME)
    return frame, frame.composed((CELLS, CELLS), torch.device("cpu"))


def two_steps(low_res: Tensor, frame: ResizeFrame) -> Tensor:
    """(n, h, w) logits as segment-anything restores them."""
    height, width = frame.resized_size
    model_frame = F.interpolate(low_res[:, None], (FRAME, FRAME), mode="bilinear", align_corners=False)
    cut = model_frame[..., :height, :width]
    return F.interpolate(cut, frame.original_size, mode="bilinear", align_corners=False)[:, 0]


def noisy_logits(seed: int = 0) -> Tensor:
    return torch.randn(4, CELLS, CELLS, generator=torch.Generator().manual_seed(seed)) * 3


def smooth_logits() -> Tensor:
    """Discs of several sizes, one of them outside the image, then an empty, a full and an undecided mask."""
    y, x = torch.meshgrid(torch.arange(CELLS) + 0.5, torch.arange(CELLS) + 0.5, indexing="ij")
    discs = torch.tensor([[20.0, 20, 12], [5, 40, 9], [30, 3, 1], [100, 100, 5]])
    distances = torch.stack([radius - torch.hypot(x - cx, y - cy) for cx, cy, radius in discs])
    plain = torch.tensor([-5.0, 5.0, 0.0])[:, None, None].expand(-1, CELLS, CELLS)
    return torch.cat([distances * 2, plain])


by_kind = pytest.mark.parametrize("low_res", [noisy_logits(), smooth_logits()], ids=["noisy", "smooth"])


@by_size
@by_kind
class TestResize:
    def test_equals_two_steps(self, size, low_res):
        frame, resize = resize_for(size)
        expected, restored = two_steps(low_res, frame), resize.restore_logits(low_res)
        # PyTorch's own kernels, which it chooses by shape and threads, differ by as much among themselves.
        assert (restored - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
        assert (expected[(restored > 0) != (expected > 0)].abs() < 1e-4).all()

    def test_the_visible_part_is_enough(self, size, low_res):
        frame, resize = resize_for(size)
        height, width = (min(CELLS, extent + 1) for extent in frame.crop_padding(low_res).shape[1:])
        visible = low_res[:, :height, :width]
        assert torch.equal(resize.restore_logits(visible), resize.restore_logits(low_res))
        assert torch.equal(resize.measure(visible, 1.0).boxes, resize.measure(low_res, 1.0).boxes)

    def test_masks_are_logits_above_zero(self, size, low_res):
        _, resize = resize_for(size)
        logits, masks = resize.restore_logits(low_res), resize.restore_masks(low_res)
        assert masks.shape == (len(low_res), *size)
        assert torch.equal(masks, logits > 0)
        different = resize.restore_mask_columns(low_res).mT != masks
        assert (logits[different].abs() < 1e-4).all()

    def test_measures_equal_the_plain_formulas(self, size, low_res):
        # Transposed, as masks are restored for encoding: the same logits bit for bit.
        _, resize = resize_for(size)
        logits = module.ComposedResize(resize.columns, resize.rows).restore_logits(low_res.mT).mT
        boxes = masks_to_boxes(logits > 0)
        assert torch.equal(boxes, masks_to_boxes(resize.restore_mask_columns(low_res).mT))
        for offset in (1.0, 0.2, 0.0):
            measured = resize.measure(low_res, offset)
            assert torch.equal(measured.stability_score, stability_score(logits, offset=offset))
            assert torch.equal(measured.boxes, boxes)


@by_kind
def test_masks_together_equal_single_ones(low_res, monkeypatch):
    """Including many masks at a time, which is meant for GPUs."""
    _, resize = resize_for((480, 641))
    restored, columns = resize.restore_logits(low_res), resize.restore_mask_columns(low_res)
    measured = resize.measure(low_res, 1.0)
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", {"cpu": 3 * 641 * module.BLOCK})
    torch.testing.assert_close(resize.restore_logits(low_res), restored, rtol=0, atol=1e-5)
    assert (resize.restore_mask_columns(low_res) != columns).sum() <= 1
    together = resize.measure(low_res, 1.0)
    torch.testing.assert_close(together.stability_score, measured.stability_score, rtol=0, atol=1e-4)
    assert torch.equal(together.boxes, measured.boxes)


@by_kind
def test_autocast_changes_nothing(low_res):
    _, resize = resize_for((480, 641))
    restored, masks = resize.restore_logits(low_res), resize.restore_masks(low_res)
    measured = resize.measure(low_res, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize.restore_logits(low_res), restored)
        assert torch.equal(resize.restore_masks(low_res), masks)
        again = resize.measure(low_res, 1.0)
    assert torch.equal(again.stability_score, measured.stability_score)
    assert torch.equal(again.boxes, measured.boxes)


def test_few_pixels_of_a_smooth_mask_are_computed():
    _, resize = resize_for((1200, 1800))
    lowest, highest = module._extremes(resize, smooth_logits()[:1])
    spans = module._spans(((lowest <= 1) != (highest <= -1)).any(0))
    assert 0 < sum(span.stop - span.start for _, span in spans) < lowest[0].numel() / 2


def test_rows_of_weights():
    """Positive, at most three, and of sum one, so that outputs stay on the same side of a threshold as their inputs."""
    bands = module.Bands.build(CELLS, FRAME, 192, 1000, torch.device("cpu"))
    weights = bands.weights.flatten(0, 1)[:1000]
    assert (weights >= 0).all()
    assert ((weights > 0).sum(1) <= 3).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(1000))
    assert (bands.weights.flatten(0, 1)[1000:] == 0).all()


def test_gradients_pass():
    frame, _ = resize_for((90, 140))
    low_res = noisy_logits()[None].requires_grad_()
    frame.restore_logits(low_res).sum().backward()
    assert low_res.grad is not None
    assert low_res.grad.sum().item() == pytest.approx(4 * 90 * 140, rel=1e-4)


@by_size
def test_nothing(size):
    _, resize = resize_for(size)
    none = noisy_logits()[:0]
    assert resize.restore_logits(none).shape == resize.restore_masks(none).shape == (0, *size)
    assert resize.restore_mask_columns(none).shape == (0, *size[::-1])
    measured = resize.measure(none, 1.0)
    assert measured.stability_score.shape == (0,)
    assert measured.boxes.shape == (0, 4)
