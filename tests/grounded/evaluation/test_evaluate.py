"""All measures together, on drawn images and on photographs against a separate, plain computation."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from grounded.errors import ConfigError, ResultError
from grounded.evaluation.dataset import (
    ClassNames,
    GroundTruth,
    ImagePair,
    MatchedDataset,
    ground_truth_from_coco,
    match_records,
    read_ground_truth,
)
from grounded.evaluation.evaluate import EvaluationConfig, LabelEvaluation, evaluate_labels
from grounded.labelling.formats.coco_file import coco_from_dict
from grounded.labelling.records import Record
from segany.utils.rle import decode_rle
from tests.grounded.evaluation.made import block, coco, ground_truth, record, tight_box

LEFT, RIGHT, LOW = block(0, 0, 4, 5), block(5, 0, 4, 5), block(0, 1, 4, 5)
PROMPT = ("a dog", "a cat")


def measured(records: Sequence[Record], true: GroundTruth, **settings) -> LabelEvaluation:
    dataset = match_records(records, true, ClassNames(true.classes), PROMPT)
    return evaluate_labels(dataset, EvaluationConfig(**settings))


def test_ground_truth_against_itself():
    true = ground_truth({"a.jpg": [("dog", LEFT), ("cat", RIGHT)], "b.jpg": []})
    found = measured(
        [record("a.jpg", PROMPT, [("a dog", LEFT, 1.0), ("a cat", RIGHT, 1.0)]), record("b.jpg", PROMPT)], true
    )
    for iou_type in ("mask", "box"):
        overall = found.precision[iou_type].overall
        assert (overall.mean, overall.at_50, overall.at_75, overall.small) == pytest.approx((1.0,) * 4)
    counts = found.overall
    assert (counts.precision, counts.recall, counts.mean_iou, counts.boundary_f, counts.panoptic_quality) == (1.0,) * 5
    assert found.class_iou is not None and found.class_iou.mean == 1.0
    assert (found.absent_classes.overall.images, found.absent_classes.overall.false_positives) == (2, 0)
    assert found.calibration.error == 0.0
    assert found.confusion.counts == {("dog", "a dog"): 1, ("cat", "a cat"): 1}
    assert found.worst == ()


def test_by_hand():
    true = ground_truth({"a.jpg": [("dog", LEFT), ("dog", RIGHT)], "b.jpg": [("cat", LEFT)], "c.jpg": []})
    records = [
        record("a.jpg", PROMPT, [("a dog", LOW, 0.8)]),  # IoU 4/6
        record("b.jpg", PROMPT, [("a dog", LEFT, 0.6)]),
        record("c.jpg", PROMPT),
    ]
    found = measured(records, true, boundary_tolerance=0.0)
    dog, cat = found.classes["dog"], found.classes["cat"]
    assert (dog.objects, dog.predictions, dog.true_positives, dog.mean_iou) == (2, 2, 1, pytest.approx(4 / 6))
    assert (cat.objects, cat.predictions, cat.true_positives, cat.mean_iou) == (1, 0, 0, None)
    # Inside the image, the true rim is 8 pixels and the predicted one 9 + 2, of which 4 on the right are common.
    assert dog.boundary_f == pytest.approx(2 * (4 / 11) * (4 / 8) / (4 / 11 + 4 / 8))
    assert found.class_iou is not None and found.class_iou.classes == pytest.approx({"dog": 16 / (44 + 20), "cat": 0.0})
    assert (found.absent_classes.overall.images, found.absent_classes.overall.false_positives) == (4, 1)
    assert found.calibration.error == pytest.approx((0.2 + 0.6) / 2)
    assert found.confusion.counts == {("dog", "a dog"): 1, ("cat", "a dog"): 1, ("dog", None): 1}
    assert [(one.pair.file, one.counts.errors) for one in found.worst] == [("b.jpg", 2), ("a.jpg", 1)]
    assert found.dataset.phrases("dog") == ["a dog"]


def test_boxes_alone():
    true = ground_truth({"a.jpg": [("dog", LEFT)]})
    found = measured([record("a.jpg", PROMPT, [("a dog", LEFT, 1.0)])], true, iou_types=("box",))
    assert list(found.precision) == ["box"] and found.class_iou is None
    assert (found.overall.mean_iou, found.overall.boundary_f) == (1.0, None)


@pytest.mark.parametrize("found", [0, 1], ids=["nothing", "everything wrong"])
def test_empty_predictions_and_empty_ground_truth(found: int):
    true = ground_truth({"a.jpg": [("dog", LEFT)], "b.jpg": []})
    records = [record("a.jpg", PROMPT), record("b.jpg", PROMPT, [("a cat", LEFT, 0.5)] * found)]
    evaluation = measured(records, true)
    assert evaluation.overall.recall == 0.0 and evaluation.overall.precision == (0.0 if found else None)
    assert evaluation.precision["mask"].overall.mean == 0.0
    assert evaluation.classes["cat"].recall is None and "cat" in evaluation.precision["mask"].classes


def test_missing_images_count_as_empty():
    true = ground_truth({"a.jpg": [("dog", LEFT)], "b.jpg": [("dog", LEFT)]})
    found = measured([record("a.jpg", PROMPT, [("a dog", LEFT, 1.0)])], true)
    assert found.overall.recall == 0.5
    assert [(one.pair.file, one.pair.record_file) for one in found.worst] == [("b.jpg", None)]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        pytest.param([record("other.jpg", ["dog"])], "no image in common", id="no image"),
        pytest.param([record("a.jpg", ["unicorn"])], "no phrase is a class", id="no class"),
    ],
)
def test_nothing_to_measure(records: list[Record], message: str):
    true = ground_truth({"a.jpg": [("dog", LEFT)]})
    dataset = match_records(records, true, ClassNames(true.classes), count_missing=False)
    with pytest.raises(ResultError, match=message):
        evaluate_labels(dataset)


def without_masks(dataset: MatchedDataset, count: int) -> MatchedDataset:
    """The data set of one image with boxes alone for the first objects."""
    (one,) = dataset.pairs
    targets = tuple(
        dataclasses.replace(target, mask=None) if i < count else target for i, target in enumerate(one.ground_truth)
    )
    return dataclasses.replace(dataset, pairs=(dataclasses.replace(one, ground_truth=targets),))


def test_of_boxes_alone_boxes_are_measured():
    true = ground_truth({"a.jpg": [("dog", LEFT)]})
    matched = match_records([record("a.jpg", ["dog"], [("dog", LEFT, 0.9)])], true, ClassNames(true.classes))
    dataset = without_masks(matched, 1)
    found = evaluate_labels(dataset)
    assert tuple(found.precision) == ("box",) and found.overall.recall == 1.0
    with pytest.raises(ResultError, match="measure boxes alone"):
        evaluate_labels(dataset, EvaluationConfig(iou_types=("mask",)))


def test_a_box_among_masks_is_neither_hit_nor_missed_by_masks():
    true = ground_truth({"a.jpg": [("dog", LEFT), ("dog", RIGHT)]})
    records = [record("a.jpg", ["dog"], [("dog", LEFT, 0.9), ("dog", RIGHT, 0.8)])]
    dataset = without_masks(match_records(records, true, ClassNames(true.classes)), 1)
    found = evaluate_labels(dataset)
    assert (found.overall.objects, found.overall.predictions, found.overall.true_positives) == (1, 1, 1)
    assert found.precision["box"].overall.mean == pytest.approx(1.0)
    boxes = evaluate_labels(dataset, EvaluationConfig(iou_types=("box",)))
    assert boxes.overall.objects == 2


def test_crowds_alone_are_nothing_to_measure():
    data = coco({"a.jpg": [("dog", LEFT)]})
    data["annotations"][0]["iscrowd"] = 1
    names, records = ClassNames(["dog"]), [record("a.jpg", ["dog"], [("dog", LEFT, 0.9)])]
    with pytest.raises(ResultError, match=r"all 1 objects of the ground truth are crowds, .* with --count-crowds"):
        evaluate_labels(match_records(records, ground_truth_from_coco(coco_from_dict(data)), names))
    counted = ground_truth_from_coco(coco_from_dict(data), count_crowds=True)
    assert evaluate_labels(match_records(records, counted, names)).overall.recall == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"iou_types": ()}, "iou_types must name", id="iou_types"),
        pytest.param({"iou_threshold": 0.0}, r"iou_threshold must lie in \(0, 1\], got 0", id="IoU"),
        pytest.param({"boundary_tolerance": 1.0}, "boundary_tolerance", id="tolerance"),
        pytest.param({"bins": 0}, "bins must be at least 1", id="bins"),
    ],
)
def test_values_out_of_range(fields: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(**fields)


# Photographs


@pytest.fixture(scope="module")
def photographs() -> GroundTruth:
    root = os.environ.get("GROUNDED_TEST_DATA")
    path = Path(root or "") / "coco-tiny/annotations/instances_val2017.json"
    if not root or not path.is_file():
        pytest.skip("needs coco-tiny: GROUNDED_TEST_DATA is not set, or has none")
    whole = read_ground_truth(path)
    crowded = [file for file in whole.sizes if any(thing.is_crowd for thing in whole.objects(file))]
    files = [*crowded[:2], *(file for file in whole.sizes if file not in crowded)][:10]
    return dataclasses.replace(whole, sizes={file: whole.sizes[file] for file in files})


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray | None]
CHANGES: dict[str, Change] = {
    "nothing": lambda mask, rng: mask,
    "eroded": lambda mask, rng: ndimage.binary_erosion(mask, iterations=3),
    "shifted": lambda mask, rng: ndimage.shift(mask, rng.integers(-9, 10, 2), order=0, output=np.uint8).astype(bool),
    "dropped": lambda mask, rng: mask if rng.random() < 0.6 else None,
}


def answered(true: GroundTruth, change: Change) -> list[Record]:
    """Records of changed copies of the true objects, one in ten under the name of another class."""
    rng = np.random.default_rng(0)
    records = []
    for file, size in true.sizes.items():
        found, boxes = [], []
        for thing in true.objects(file):
            assert thing.mask is not None
            mask = decode_rle([thing.mask])[0].numpy()
            changed = mask if thing.is_crowd else change(mask, rng)
            if changed is not None and changed.any():
                is_other = change is not CHANGES["nothing"] and rng.random() < 0.1
                label = true.classes[rng.integers(len(true.classes))] if is_other else thing.label
                found.append((label, changed, float(rng.random())))
                boxes.append(thing.box if changed is mask else tight_box(changed))
        records.append(record(file, true.classes, found, size, boxes))
    return records


def plainly(pairs: Sequence[ImagePair]) -> dict[str, float]:
    """The measures at IoU 0.5 by loops over full masks, for the classes that have objects."""
    ranked: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    objects: dict[str, int] = defaultdict(int)
    ious: list[float] = []
    for one in pairs:
        masks = {id(thing): decode_rle([thing.mask])[0].numpy() for thing in (*one.ground_truth, *one.predictions)}
        taken: set[int] = set()
        for thing in one.ground_truth:
            objects[thing.label] += not thing.is_crowd
        for answer in sorted(one.predictions, key=lambda answer: -answer.score):
            mask, best, best_iou, in_crowd = masks[id(answer)], None, 0.5, False
            for thing in one.ground_truth:
                if thing.label != answer.label:
                    continue
                both = (mask & masks[id(thing)]).sum()
                if thing.is_crowd:
                    in_crowd |= bool(both / mask.sum() >= 0.5)
                elif id(thing) not in taken and both / (mask | masks[id(thing)]).sum() >= best_iou:
                    best, best_iou = thing, both / (mask | masks[id(thing)]).sum()
            if best is not None:
                taken.add(id(best))
                ious.append(best_iou)
            if best is not None or not in_crowd:
                ranked[answer.label].append((answer.score, best is not None))
    precisions = []
    for label in (label for label, count in objects.items() if count):
        hits = np.array([hit for _, hit in sorted(ranked[label], reverse=True)], dtype=float)
        recall, precision = hits.cumsum() / objects[label], hits.cumsum() / np.arange(1, len(hits) + 1)
        precisions += [np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)])]
    answers = sum(map(len, ranked.values()))
    return {
        "AP50": float(np.mean(precisions)),
        "precision": len(ious) / answers,
        "recall": len(ious) / sum(objects.values()),
        "mean IoU": float(np.mean(ious)),
    }


@pytest.mark.parametrize("name", CHANGES)
def test_photographs_against_a_plain_computation(name: str, photographs: GroundTruth):
    dataset = match_records(answered(photographs, CHANGES[name]), photographs, ClassNames(photographs.classes))
    found = evaluate_labels(dataset, EvaluationConfig(boundary_tolerance=0.002))
    counts, overall = found.overall, found.precision["mask"].overall
    values = {
        "AP50": overall.at_50,
        "precision": counts.precision,
        "recall": counts.recall,
        "mean IoU": counts.mean_iou,
    }
    assert values == pytest.approx(plainly(dataset.pairs), abs=1e-9)
    if name == "nothing":
        for iou_type in ("mask", "box"):
            overall_of_type = found.precision[iou_type].overall
            assert (
                overall_of_type.mean,
                overall_of_type.small,
                overall_of_type.medium,
                overall_of_type.large,
            ) == pytest.approx((1.0,) * 4)
        assert counts.panoptic_quality == pytest.approx(1.0) and counts.boundary_f == 1.0
        assert found.class_iou is not None and found.class_iou.mean == 1.0
        assert found.absent_classes.overall.false_positives == 0 and found.worst == ()
    else:
        assert 0.1 < counts.panoptic_quality < 0.95 and found.absent_classes.overall.false_positives > 0
