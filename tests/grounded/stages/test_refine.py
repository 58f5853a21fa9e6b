from dataclasses import replace

import numpy as np
import pytest
import torch

from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.stages.refine import clean, correction_points, refine
from segany import Prompts
from segany.utils.rle import decode_rle, encode_rle
from tests.data import disk

SIZE = (96, 128)  # of the image; logits have a quarter of it
WHOLE = [0.0, 0.0, 128.0, 96.0]


def logits(*parts: tuple[float, float, float, float]) -> torch.Tensor:
    """Disks (x, y, radius, logit) in low-resolution pixels on a background of -5, later ones on top."""
    result = torch.full((24, 32), -5.0)
    for x, y, radius, value in parts:
        result[torch.from_numpy(disk(24, 32, x, y, radius))] = value
    return result


LEFT, RIGHT = logits((9, 12, 7, 4)), logits((18, 12, 7, 5))
SURER_LEFT, PART = logits((9, 12, 7, 6)), logits((9, 12, 3, 8))


@pytest.mark.parametrize(
    ("masks", "scores", "corrected"),
    [
        ([LEFT, RIGHT], [0.5, 0.9], [True, False]),
        ([LEFT, RIGHT], [0.9, 0.5], [False, False]),
        ([SURER_LEFT, RIGHT], [0.5, 0.9], [False, False]),
        ([LEFT, PART], [0.5, 0.9], [False, False]),
        ([LEFT, SURER_LEFT], [0.5, 0.9], [False, False]),
        ([LEFT, torch.full((24, 32), -5.0)], [0.5, 0.9], [False, False]),
        ([LEFT], [0.5], [False]),
    ],
    ids=["lower score", "higher score", "surer", "a part", "the same object", "empty mask", "alone"],
)
def test_overlaps(masks, scores, corrected):
    points, labels = correction_points(
        torch.stack(masks), torch.tensor(scores), torch.tensor([WHOLE] * len(masks)), SIZE
    )
    assert labels[:, 0].tolist() == [0 if wrong else -1 for wrong in corrected]
    assert (labels[:, 1] == -1).all()
    if corrected[0]:
        x, y = points[0, 0].tolist()
        assert all(mask[round(y / 4), round(x / 4)] > 0 for mask in masks)
        assert abs(x - 14 * 4) <= 4  # the middle of the lens, in original pixels


@pytest.mark.parametrize(
    ("box", "leaks"),
    [(WHOLE, False), ([0.0, 0.0, 36.0, 96.0], True), ([6.0, 16.0, 64.0, 84.0], False), ([0.0, 0.0, 64.0, 40.0], True)],
    ids=["inside", "over the right side", "by an outline", "over the lower side"],
)
def test_leaks(box, leaks):
    points, labels = correction_points(LEFT[None], torch.tensor([0.5]), torch.tensor([box]), SIZE)
    assert labels.tolist() == [[-1, 0 if leaks else -1]]
    if leaks:
        x, y = points[0, 1].tolist()
        assert x > box[2] or y > box[3]
        assert LEFT[int(y / 4), int(x / 4)] > 0


@pytest.mark.parametrize(
    ("point", "label", "expected"),
    [
        pytest.param((14 * 4, 12 * 4), 1, -1, id="foreground, in the middle of the overlap"),
        pytest.param((14 * 4, 12 * 4), 0, 0, id="background"),
        pytest.param((14 * 4, 12 * 4), -1, 0, id="padding"),
        pytest.param((4 * 4, 12 * 4), 1, 0, id="foreground elsewhere"),
    ],
)
def test_a_foreground_point_is_not_contradicted(point: tuple[int, int], label: int, expected: int):
    known = torch.tensor([[point], [(0, 0)]], dtype=torch.float32), torch.tensor([[label], [-1]])
    masks, scores = torch.stack([LEFT, RIGHT]), torch.tensor([0.5, 0.9])
    _, labels = correction_points(masks, scores, torch.tensor([WHOLE] * 2), SIZE, *known)
    assert labels.tolist() == [[expected, -1], [-1, -1]]


def test_no_instances():
    points, labels = correction_points(torch.zeros(0, 24, 32), torch.zeros(0), torch.zeros(0, 4), SIZE)
    assert points.shape == (0, 2, 2) and labels.shape == (0, 2)


def test_instances_apart_are_corrected_as_if_alone():
    masks = torch.stack([LEFT, logits((25, 12, 5, 4))])
    boxes = torch.tensor([[0.0, 0.0, 36.0, 96.0], [80.0, 20.0, 120.0, 50.0]])
    together = correction_points(masks, torch.tensor([0.5, 0.9]), boxes, SIZE)
    for i in range(2):
        alone = correction_points(masks[i : i + 1], torch.tensor([0.5]), boxes[i : i + 1], SIZE)
        assert all(torch.equal(both[i : i + 1], one) for both, one in zip(together, alone, strict=True))


@pytest.fixture(scope="module")
def boxes(truth) -> torch.Tensor:
    """Tight boxes of the example's objects."""
    rows = [np.nonzero(mask.any(1))[0][[0, -1]] for mask in truth]
    columns = [np.nonzero(mask.any(0))[0][[0, -1]] for mask in truth]
    return torch.tensor([[x[0], y[0], x[1] + 1, y[1] + 1] for x, y in zip(columns, rows, strict=True)]).float()


@pytest.fixture(scope="module")
def first(predictor, embedding, boxes):
    return predictor.predict(embedding, Prompts(boxes=boxes), multimask_output=False)


def with_leak(prediction, predictor, embedding, box, claimed_iou):
    """The first instance, with a disk beside its box added to its mask: its logits, where it lies, and the claim."""
    height, width = prediction.original_size
    x = box[0] - 45 if box[0] > 90 else box[2] + 45
    leak = torch.from_numpy(disk(height, width, float(x), float(box[1] + box[3]) / 2, 35))
    cells = predictor.mask_prompts(embedding, leak[None]) > 0
    spoiled = torch.where(cells, 6.0, prediction.low_res_logits[:1])
    return replace(
        prediction[:1], low_res_logits=spoiled, predicted_iou=torch.full_like(prediction.predicted_iou[:1], claimed_iou)
    ), leak


class TestRefine:
    @pytest.mark.parametrize("rounds", [1, 2, 4])
    def test_predicted_iou_never_falls(self, predictor, embedding, boxes, first, rounds):
        jittered = boxes + torch.randn(boxes.shape, generator=torch.Generator().manual_seed(0)) * 12
        refined = refine(predictor, embedding, first, Prompts(boxes=jittered), rounds)
        assert refined.low_res_logits.shape == first.low_res_logits.shape
        assert (refined.predicted_iou >= first.predicted_iou).all()

    def test_no_rounds(self, predictor, embedding, boxes, first):
        assert refine(predictor, embedding, first, Prompts(boxes=boxes), 0) is first

    @pytest.mark.parametrize("rounds", [0, 2])
    def test_no_instances(self, predictor, embedding, boxes, first, rounds):
        refined = refine(predictor, embedding, first[:0], Prompts(boxes=boxes[:0]), rounds)
        assert len(refined) == 0 and refined.masks.shape == (0, 1, 480, 640)

    def test_a_leak_is_taken_back(self, predictor, embedding, boxes, first, truth):
        spoiled, leak = with_leak(first, predictor, embedding, boxes[0], claimed_iou=-1.0)
        refined = refine(predictor, embedding, spoiled, Prompts(boxes=boxes[:1]))
        before, after, wanted = spoiled.masks[0, 0], refined.masks[0, 0], torch.from_numpy(truth[0])
        assert (after & leak).sum() < 0.5 * (before & leak).sum()
        assert (after & wanted).sum() / (after | wanted).sum() > (before & wanted).sum() / (before | wanted).sum()

    def test_what_is_not_better_is_not_taken(self, predictor, embedding, boxes, first):
        spoiled, _ = with_leak(first, predictor, embedding, boxes[0], claimed_iou=2.0)
        refined = refine(predictor, embedding, spoiled, Prompts(boxes=boxes[:1]), 3)
        assert torch.equal(refined.low_res_logits, spoiled.low_res_logits)

    def test_without_anything_to_correct_nothing_changes(self, predictor, embedding, first):
        whole = torch.tensor([[0.0, 0.0, 640.0, 480.0]])
        refined = refine(predictor, embedding, first[0], Prompts(boxes=whole), 2)
        assert torch.equal(refined.low_res_logits, first[0].low_res_logits)

    def test_instances_apart_are_refined_as_if_alone(self, predictor, embedding, boxes, first):
        spoiled, _ = with_leak(first, predictor, embedding, boxes[0], claimed_iou=-1.0)
        empty = torch.full_like(spoiled.low_res_logits, -9.0)
        two = replace(
            spoiled,
            low_res_logits=torch.cat([spoiled.low_res_logits, empty]),
            predicted_iou=spoiled.predicted_iou.repeat(2, 1),
        )
        together = refine(predictor, embedding, two, Prompts(boxes=boxes[[0, 1]]))
        alone = refine(predictor, embedding, spoiled, Prompts(boxes=boxes[:1]))
        torch.testing.assert_close(together[0].low_res_logits, alone.low_res_logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(together[1].low_res_logits, empty)

    def test_text_and_clicks_are_asked_again(self, predictor, embedding, boxes, first):
        spoiled, _ = with_leak(first, predictor, embedding, boxes[0], claimed_iou=-1.0)
        plain = refine(predictor, embedding, spoiled, Prompts(boxes=boxes[:1]))
        text = torch.nn.functional.normalize(torch.ones(1, 1, predictor.model.config.text_dim), dim=-1)
        middle = (boxes[:1, None, :2] + boxes[:1, None, 2:]) / 2
        for more in ({"text": text}, {"points": middle, "point_labels": torch.zeros(1, 1, dtype=torch.int64)}):
            refined = refine(predictor, embedding, spoiled, Prompts(boxes=boxes[:1], **more))
            assert not torch.allclose(refined.low_res_logits, plain.low_res_logits, atol=1e-3)

    def test_several_masks_are_refused(self, predictor, embedding, boxes):
        several = predictor.predict(embedding, Prompts(boxes=boxes), multimask_output=True)
        with pytest.raises(PromptError, match="one mask for each instance, got 3"):
            refine(predictor, embedding, several, Prompts(boxes=boxes))

    def test_prompts_without_boxes_are_refused(self, predictor, embedding, first):
        with pytest.raises(PromptError, match="refine needs prompts with boxes"):
            refine(predictor, embedding, first, Prompts(points=[[[5.0, 5.0]]], point_labels=[[1]]))


def instances(*masks: np.ndarray, source: str = "detector") -> Instances:
    """Instances of one phrase with the given masks."""
    rles = encode_rle(torch.from_numpy(np.stack(masks)))
    iou = np.full(len(masks), 0.9, np.float32)
    ids = np.zeros(len(masks), np.int64)
    return Instances.from_masks(("a dog",), masks[0].shape, rles, ids, iou, source)


def speckled() -> np.ndarray:
    """A square with a hole of four pixels, and an island of one."""
    mask = np.zeros((60, 80), bool)
    mask[10:40, 10:40] = True
    mask[20:22, 20:22] = False
    mask[50, 70] = True
    return mask


class TestClean:
    @pytest.mark.parametrize(
        ("min_area", "hole", "island"),
        [(1, True, True), (2, True, False), (4, True, False), (5, False, False)],
    )
    def test_smaller_regions_go(self, min_area: int, hole: bool, island: bool):
        (rle,) = clean(instances(speckled()), min_area).rles
        mask = decode_rle([rle])[0].numpy()
        assert (not mask[20, 20], bool(mask[50, 70])) == (hole, island)
        assert mask[10:40, 10:40].sum() == 900 - 4 * hole

    def test_boxes_follow_the_masks_but_for_those_of_the_detector(self):
        drawn, detected = (clean(instances(speckled(), source=name), 5) for name in ("text", "detector"))
        assert drawn.boxes.tolist() == [[10, 10, 40, 40]]
        assert detected.boxes.tolist() == [[10, 10, 71, 51]]
        assert drawn.boxes.dtype == np.float32

    def test_what_was_clean_stays_as_it_was(self):
        bar = np.zeros((60, 80), bool)
        bar[3:9, 4:20] = True
        before = instances(bar, speckled())
        after = clean(before, 5)
        assert after.rles[0] is before.rles[0] and after.rles[1] is not before.rles[1]

    def test_nothing(self):
        assert len(clean(Instances.empty(("a dog",), (6, 8)), 5)) == 0
