"""AR of proposals: by hand, and against pycocotools on random masks."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounded.evaluation.proposals import (
    AREAS,
    LIMITS,
    count_found,
    found_from_dict,
    found_to_dict,
    sum_found,
    to_dict,
    to_text,
)
from tests.grounded.evaluation.made import block, rle, target

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)  # 20 pixels each, small
NEAR = block(0, 1, 4, 5)  # IoU 4/6 with LEFT: above four of ten thresholds
FREQUENCIES = {"dog": "rare", "cat": "frequent"}


@pytest.mark.parametrize(
    ("proposals", "targets", "expected"),
    [
        pytest.param([LEFT], [target("dog", LEFT)], 1.0, id="found"),
        pytest.param([RIGHT], [target("dog", LEFT)], 0.0, id="missed"),
        pytest.param([], [target("dog", LEFT)], 0.0, id="no proposal"),
        pytest.param([NEAR], [target("dog", LEFT)], 0.4, id="not exactly"),
        pytest.param([LEFT], [target("dog", LEFT), target("cat", RIGHT)], 0.5, id="half"),
        pytest.param([LEFT], [target("dog", LEFT), target("cat", LEFT)], 0.5, id="one proposal is one object"),
        pytest.param([RIGHT] * 10 + [LEFT], [target("dog", LEFT)], (0.0, 1.0, 1.0), id="the eleventh"),
        pytest.param([LEFT], [target("dog", LEFT, is_crowd=True), target("cat", RIGHT)], 0.0, id="a crowd"),
        pytest.param([LEFT], [target("dog", LEFT, is_crowd=True)], None, id="nothing but a crowd"),
        pytest.param([LEFT], [], None, id="no object"),
    ],
)
def test_average_recall(proposals: list, targets: list, expected: float | tuple | None):
    found = count_found([rle(mask) for mask in proposals], targets)
    recall = found["all"].average_recall
    assert recall == (None if expected is None else pytest.approx(np.broadcast_to(expected, 3)))
    assert found["small"].average_recall == recall and found["large"].average_recall is None


def test_groups_by_frequency_are_measured_alone():
    targets = [target("cat", LEFT), target("dog", LEFT)]
    found = count_found([rle(LEFT)], targets, FREQUENCIES)
    recalls = {name: one.average_recall and one.average_recall[0] for name, one in found.items()}
    assert recalls["all"] == 0.5 and recalls["rare"] == recalls["frequent"] == 1.0 and recalls["common"] is None


def test_images_add_up_and_can_be_stored():
    images = [count_found([rle(LEFT)], [target("dog", LEFT)], FREQUENCIES), count_found([], [target("cat", LEFT)], {})]
    total = sum_found([found_from_dict(found_to_dict(one)) for one in images])
    assert total["all"].average_recall == pytest.approx((0.5,) * 3) and total["all"].objects == 2
    data = to_dict({"truth": "a.json"}, total, [1, 0], [])
    assert data["average_recall"]["all"]["AR@1000"] == 0.5 and data["proposals_per_image"] == 0.5
    assert "59.3" in to_text(total, [1, 0]) and to_text({"all": total["all"]}, [1, 0]).count("\n") == 5


def random_boxes(generator: np.random.Generator, count: int) -> list[np.ndarray]:
    corners = generator.integers(0, 150, (count, 2))
    return [block(x, y, *generator.integers(4, 140, 2), size=(200, 200)) for x, y in corners]


@pytest.mark.parametrize("seed", range(3))
def test_as_pycocotools(seed: int):
    generator = np.random.default_rng(seed)
    images, targets, results = [], [], []
    for image_id in (1, 2, 3):
        objects = random_boxes(generator, 8)
        crowds = generator.random(8) < 0.2
        near = [np.roll(mask, generator.integers(-6, 7, 2), (0, 1)) for mask in objects for _ in range(4)]
        proposals = [near[i] for i in generator.permutation(len(near))] + random_boxes(generator, 4) + objects[:1]
        own = [target("dog", mask, bool(crowd)) for mask, crowd in zip(objects, crowds, strict=True)]
        images.append(count_found([rle(mask) for mask in proposals], own))
        for one in own:
            entry = {"id": len(targets) + 1, "image_id": image_id, "category_id": 1, "iscrowd": int(one.is_crowd)}
            targets.append(entry | {"segmentation": dict(one.require_mask()), "area": one.area, "bbox": [0, 0, 1, 1]})
        for rank, mask in enumerate(proposals):
            entry = {"id": len(results) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0, "score": -rank}
            results.append(entry | {"segmentation": dict(rle(mask)), "area": float(mask.sum()), "bbox": [0, 0, 1, 1]})
    sets = []
    for entries in (targets, results):
        one = COCO()
        listed = [{"id": i, "height": 200, "width": 200} for i in (1, 2, 3)]
        one.dataset = {"images": listed, "annotations": entries, "categories": [{"id": 1, "name": "dog"}]}
        sets.append(one)
    with contextlib.redirect_stdout(io.StringIO()):
        for one in sets:
            one.createIndex()
        evaluator = COCOeval(*sets, "segm")
        evaluator.params.useCats, evaluator.params.maxDets = 0, list(LIMITS)
        evaluator.evaluate()
        evaluator.accumulate()
    expected = evaluator.eval["recall"][:, 0].mean(axis=0)  # (area, limit)
    total = sum_found(images)
    for row, name in enumerate(AREAS):
        recall = total[name].average_recall
        np.testing.assert_allclose((-1.0,) * len(LIMITS) if recall is None else recall, expected[row], err_msg=name)
