import numpy as np
import pytest
import torch

from grounded.data.protocols import MaskPromptable
from grounded.errors import PromptError
from grounded.interactive.refine_one import refine_one
from segany import Prompts
from segany.utils.rle import encode_rle
from tests.data import disk, unchecked

SIZE = (480, 640)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def tight_box(mask: np.ndarray) -> list[float]:
    x, y = np.nonzero(mask.any(0))[0], np.nonzero(mask.any(1))[0]
    return [float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)]


def rle_of(mask: np.ndarray):
    return encode_rle(mask[None])[0]


@pytest.fixture(scope="module")
def thing(truth) -> np.ndarray:
    """The dog of the example."""
    return truth[0]


@pytest.fixture(scope="module")
def middle(thing) -> tuple[float, float]:
    y, x = np.nonzero(thing)
    return float(np.median(x)), float(np.median(y))


@pytest.fixture(scope="module")
def ask(predictor, embedding):
    """`refine_one` about the example; the answer's first mask."""

    def answer(**said) -> np.ndarray:
        return refine_one(predictor, embedding, **said).masks[0, 0].numpy()

    return answer


def test_the_predictor_takes_mask_prompts(predictor):
    assert isinstance(predictor, MaskPromptable)


def test_what_is_said_decides_how_many_masks_come(predictor, embedding, thing, middle):
    box, stroke = tight_box(thing), disk(*SIZE, *middle, 10)
    text = torch.ones(1, predictor.model.config.text_dim)
    cases = [
        ({"points": [middle], "labels": [1]}, 3),
        ({"points": [middle, (5, 5)], "labels": [1, 0]}, 1),
        ({"points": [middle], "labels": [1], "box": box}, 1),
        ({"points": [middle], "labels": [1], "text": text}, 1),
        ({"points": [middle], "labels": [1], "rle": rle_of(thing)}, 1),
        ({"box": box}, 1),
        ({"text": text}, 1),
        ({"rle": rle_of(thing)}, 1),
        ({"brush": stroke}, 1),
        ({"brush": stroke, "eraser": disk(*SIZE, 5, 5, 4)}, 1),
        ({"box": box, "brush": np.zeros(SIZE, bool)}, 1),
    ]
    for said, outputs in cases:
        prediction = refine_one(predictor, embedding, **said)
        assert prediction.predicted_iou.shape == (1, outputs), said.keys()
        assert torch.isfinite(prediction.low_res_logits).all()


def test_a_box_or_a_click_alone_is_a_plain_prompt(predictor, embedding, thing, middle):
    box = predictor.predict(embedding, Prompts(boxes=[tight_box(thing)]), multimask_output=False)
    click = predictor.predict(embedding, Prompts(points=[[middle]], point_labels=[[1]]))
    nothing = np.zeros(SIZE, bool)
    for said, expected in (({"box": tight_box(thing)}, box), ({"points": [middle], "labels": [1]}, click)):
        for strokes in ({}, {"brush": nothing, "eraser": torch.from_numpy(nothing)}):
            answer = refine_one(predictor, embedding, **said, **strokes)
            assert torch.equal(answer.low_res_logits, expected.low_res_logits)


@pytest.mark.parametrize("with_box", [True, False], ids=["with box", "without"])
def test_a_good_mask_stays_good(ask, thing, with_box):
    assert iou(ask(rle=rle_of(thing), box=tight_box(thing) if with_box else None), thing) > 0.6


def test_a_background_click_takes_a_leak_back(ask, thing):
    x0, y0, x1, y1 = tight_box(thing)
    x = x0 - 45 if x0 > 90 else x1 + 45
    leak = disk(*SIZE, x, (y0 + y1) / 2, 40) & ~thing
    spoiled = thing | leak
    corrected = ask(rle=rle_of(spoiled), box=(x0, y0, x1, y1), points=[(x, (y0 + y1) / 2)], labels=[0])
    assert (corrected & leak).sum() < 0.5 * leak.sum()
    assert iou(corrected, thing) > iou(spoiled, thing)


def test_a_foreground_click_beyond_the_box_enlarges_it(ask, thing):
    x0, y0, x1, y1 = tight_box(thing)
    cut = (x0 + x1) / 2
    beyond = thing & (np.arange(SIZE[1]) > cut)
    y, x = (float(np.median(side)) for side in np.nonzero(beyond))
    assert beyond[int(y), int(x)]
    half = ask(box=(x0, y0, cut, y1))
    whole = ask(rle=rle_of(half), box=(x0, y0, cut, y1), points=[(x, y)], labels=[1])
    assert (whole & beyond).sum() > (half & beyond).sum()


class TestStrokes:
    def test_what_is_erased_is_gone(self, ask, thing, middle):
        before = ask(box=tight_box(thing))
        stroke = disk(*SIZE, *middle, 25)
        after = ask(rle=rle_of(before), box=tight_box(thing), eraser=stroke)
        assert (before & stroke).sum() > 0.5 * stroke.sum()
        assert (after & stroke).sum() < 0.1 * stroke.sum()
        assert after.sum() < before.sum()

    def test_what_is_brushed_on_is_there(self, ask, thing, middle):
        x0, y0, x1, y1 = tight_box(thing)
        stroke = disk(*SIZE, x0 - 30 if x0 > 60 else x1 + 30, (y0 + y1) / 2, 25) & ~thing
        before = ask(box=(x0, y0, x1, y1))
        after = ask(rle=rle_of(before), box=(x0, y0, x1, y1), brush=stroke)
        assert (after & stroke).sum() > 0.9 * stroke.sum()
        assert (after & stroke).sum() > (before & stroke).sum()

    def test_a_brush_alone_starts_a_mask(self, ask, middle):
        stroke = disk(*SIZE, *middle, 20)
        assert (ask(brush=stroke) & stroke).sum() > 0.9 * stroke.sum()

    def test_the_eraser_counts_where_both_are_painted(self, ask, thing, middle):
        stroke = disk(*SIZE, *middle, 25)
        after = ask(rle=rle_of(thing), brush=stroke, eraser=stroke)
        assert (after & stroke).sum() < 0.1 * stroke.sum()

    def test_each_region_of_a_stroke_counts(self, ask, thing, middle):
        strokes = [disk(*SIZE, middle[0] + step, middle[1], 12) for step in (-25, 25)]
        after = ask(rle=rle_of(thing), box=tight_box(thing), eraser=strokes[0] | strokes[1])
        for stroke in strokes:
            assert (after & stroke).sum() < 0.15 * stroke.sum()


STROKE, NAN = np.ones(SIZE, bool), float("nan")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "must be given, got nothing"),
        ({"brush": ~STROKE, "rle": rle_of(~STROKE)}, "must be given, got nothing"),
        ({"points": [(5, 5)], "labels": [0]}, "must be given, got background alone"),
        ({"eraser": STROKE}, "must be given, got background alone"),
        ({"points": [(5, 500)], "labels": [1]}, r"points must lie in the picture of 640 x 480 pixels, got \[5.0, 500"),
        ({"points": [(5, NAN)], "labels": [1]}, "points must be finite"),
        ({"points": [(5, 5)], "labels": [3]}, "labels must be 1"),
        ({"points": [(5, 5)]}, "labels must be one per point"),
        ({"box": [0, 0, 700, 40]}, r"box must lie in the picture of 640 x 480 pixels, got \[0.0, 0.0, 700"),
        ({"box": [-5, 0, 70, 40]}, "box must lie in the picture"),
        ({"box": [9, 0, 9, 40]}, "box must be xyxy with x0 < x1"),
        ({"box": [0, 0, NAN, 40]}, "box must be finite"),
        ({"box": [[0, 0, 5, 40]]}, r"box must be \(4,\), xyxy, got \(1, 4\)"),
        ({"box": [0, 0, 5, 5], "brush": STROKE[:9]}, r"brush must be bool \(480, 640\), got bool \(9, 640\)"),
        ({"box": [0, 0, 5, 5], "eraser": STROKE.astype(np.uint8)}, r"eraser must be bool \(480, 640\), got uint8"),
        ({"rle": rle_of(STROKE[:9])}, r"run-length encoding of size \[480, 640\]: .* got \[9, 640\]"),
        ({"rle": {"size": [480, 640]}}, "run-length encoding of size"),
    ],
)
def test_what_makes_no_sense_is_refused(predictor, embedding, said, message):
    with pytest.raises(PromptError, match=message):
        unchecked(refine_one)(predictor, embedding, **said)
