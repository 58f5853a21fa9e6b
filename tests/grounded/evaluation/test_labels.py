"""All measures together, on drawn pictures and on photographs against a separate, plain computation."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from grounded.errors import ConfigError, ResultError
from grounded.evaluation.cases import Case, pair
from grounded.evaluation.labels import LabelEvaluation, MeasureSettings, evaluate_labels
from grounded.evaluation.naming import ClassNames
from grounded.evaluation.truth import Truth, read_truth
from grounded.labelling.records import Record
from segany.utils.rle import decode_rle
from tests.grounded.evaluation.made import block, record, tight_box, truth

LEFT, RIGHT, LOW = block(0, 0, 4, 5), block(5, 0, 4, 5), block(0, 1, 4, 5)
ASKED = ("a dog", "a cat")


def measured(records: Sequence[Record], true: Truth, **settings) -> LabelEvaluation:
    paired = pair(records, true, ClassNames(true.classes), ASKED)
    return evaluate_labels(paired, MeasureSettings(**settings))


def test_truth_against_itself():
    true = truth({"a.jpg": [("dog", LEFT), ("cat", RIGHT)], "b.jpg": []})
    found = measured(
        [record("a.jpg", ASKED, [("a dog", LEFT, 1.0), ("a cat", RIGHT, 1.0)]), record("b.jpg", ASKED)], true
    )
    for kind in ("mask", "box"):
        overall = found.precision[kind].overall
        assert (overall.mean, overall.at_50, overall.at_75, overall.small) == pytest.approx((1.0,) * 4)
    counts = found.overall
    assert (counts.precision, counts.recall, counts.mean_iou, counts.boundary_f, counts.quality) == (1.0,) * 5
    assert found.pixels is not None and found.pixels.mean == 1.0
    assert (found.absence.overall.pictures, found.absence.overall.answered) == (2, 0)
    assert found.reliability.error == 0.0
    assert found.confusion.counts == {("dog", "a dog"): 1, ("cat", "a cat"): 1}
    assert found.worst == ()


def test_by_hand():
    true = truth({"a.jpg": [("dog", LEFT), ("dog", RIGHT)], "b.jpg": [("cat", LEFT)], "c.jpg": []})
    records = [
        record("a.jpg", ASKED, [("a dog", LOW, 0.8)]),  # IoU 4/6
        record("b.jpg", ASKED, [("a dog", LEFT, 0.6)]),
        record("c.jpg", ASKED),
    ]
    found = measured(records, true, boundary_tolerance=0.0)
    dog, cat = found.classes["dog"], found.classes["cat"]
    assert (dog.objects, dog.answers, dog.found, dog.mean_iou) == (2, 2, 1, pytest.approx(4 / 6))
    assert (cat.objects, cat.answers, cat.found, cat.mean_iou) == (1, 0, 0, None)
    # Inside the picture, the true rim is 8 pixels and the answered one 9 + 2, of which 4 on the right are common.
    assert dog.boundary_f == pytest.approx(2 * (4 / 11) * (4 / 8) / (4 / 11 + 4 / 8))
    assert found.pixels is not None and found.pixels.classes == pytest.approx({"dog": 16 / (44 + 20), "cat": 0.0})
    assert (found.absence.overall.pictures, found.absence.overall.answered) == (4, 1)
    assert found.reliability.error == pytest.approx((0.2 + 0.6) / 2)
    assert found.confusion.counts == {("dog", "a dog"): 1, ("cat", "a dog"): 1, ("dog", None): 1}
    assert [(one.case.file, one.counts.errors) for one in found.worst] == [("b.jpg", 2), ("a.jpg", 1)]
    assert found.phrases("dog") == ["a dog"]


def test_boxes_alone():
    true = truth({"a.jpg": [("dog", LEFT)]})
    found = measured([record("a.jpg", ASKED, [("a dog", LEFT, 1.0)])], true, kinds=("box",))
    assert list(found.precision) == ["box"] and found.pixels is None
    assert (found.overall.mean_iou, found.overall.boundary_f) == (1.0, None)


@pytest.mark.parametrize("found", [0, 1], ids=["nothing", "everything wrong"])
def test_empty_answers_and_empty_truth(found: int):
    true = truth({"a.jpg": [("dog", LEFT)], "b.jpg": []})
    records = [record("a.jpg", ASKED), record("b.jpg", ASKED, [("a cat", LEFT, 0.5)] * found)]
    evaluation = measured(records, true)
    assert evaluation.overall.recall == 0.0 and evaluation.overall.precision == (0.0 if found else None)
    assert evaluation.precision["mask"].overall.mean == 0.0
    assert evaluation.classes["cat"].recall is None and "cat" in evaluation.precision["mask"].classes


def test_missing_pictures_are_empty_answers():
    true = truth({"a.jpg": [("dog", LEFT)], "b.jpg": [("dog", LEFT)]})
    found = measured([record("a.jpg", ASKED, [("a dog", LEFT, 1.0)])], true)
    assert found.overall.recall == 0.5
    assert [(one.case.file, one.case.source) for one in found.worst] == [("b.jpg", None)]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        pytest.param([record("other.jpg", ["dog"])], "no picture in common", id="no picture"),
        pytest.param([record("a.jpg", ["unicorn"])], "no phrase that was asked is a class", id="no class"),
    ],
)
def test_nothing_to_measure(records: list[Record], message: str):
    true = truth({"a.jpg": [("dog", LEFT)]})
    paired = pair(records, true, ClassNames(true.classes), count_missing=False)
    with pytest.raises(ResultError, match=message):
        evaluate_labels(paired)


def test_masks_are_asked_of_a_truth_with_boxes_alone():
    true = truth({"a.jpg": [("dog", LEFT)]})
    paired = pair([record("a.jpg", ["dog"])], true, ClassNames(true.classes))
    (one,) = paired.cases
    boxes = dataclasses.replace(one, truths=tuple(dataclasses.replace(t, mask=None) for t in one.truths))
    paired = dataclasses.replace(paired, cases=(boxes,))
    with pytest.raises(ResultError, match="measure boxes alone"):
        evaluate_labels(paired)
    assert evaluate_labels(paired, MeasureSettings(kinds=("box",))).overall.recall == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"kinds": ()}, "kinds must name", id="kinds"),
        pytest.param({"iou_threshold": 0.0}, r"iou_threshold must lie in \(0, 1\], got 0", id="IoU"),
        pytest.param({"boundary_tolerance": 1.0}, "boundary_tolerance", id="tolerance"),
        pytest.param({"bins": 0}, "bins must be at least 1", id="bins"),
    ],
)
def test_settings_out_of_range(fields: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        MeasureSettings(**fields)


# Photographs


@pytest.fixture(scope="module")
def photographs() -> Truth:
    root = os.environ.get("GROUNDED_TEST_DATA")
    path = Path(root or "") / "coco-tiny/annotations/instances_val2017.json"
    if not root or not path.is_file():
        pytest.skip("needs coco-tiny: GROUNDED_TEST_DATA is not set, or has none")
    whole = read_truth(path)
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


def answered(true: Truth, change: Change) -> list[Record]:
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


def plainly(cases: Sequence[Case]) -> dict[str, float]:
    """The measures at IoU 0.5 by loops over full masks, for the classes that have objects."""
    ranked: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    objects: dict[str, int] = defaultdict(int)
    ious: list[float] = []
    for one in cases:
        masks = {id(thing): decode_rle([thing.mask])[0].numpy() for thing in (*one.truths, *one.answers)}
        taken: set[int] = set()
        for thing in one.truths:
            objects[thing.label] += not thing.is_crowd
        for answer in sorted(one.answers, key=lambda answer: -answer.score):
            mask, best, best_iou, in_crowd = masks[id(answer)], None, 0.5, False
            for thing in one.truths:
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
def test_photographs_against_a_plain_computation(name: str, photographs: Truth):
    paired = pair(answered(photographs, CHANGES[name]), photographs, ClassNames(photographs.classes))
    found = evaluate_labels(paired, MeasureSettings(boundary_tolerance=0.002))
    counts, overall = found.overall, found.precision["mask"].overall
    values = {
        "AP50": overall.at_50,
        "precision": counts.precision,
        "recall": counts.recall,
        "mean IoU": counts.mean_iou,
    }
    assert values == pytest.approx(plainly(paired.cases), abs=1e-9)
    if name == "nothing":
        for kind in ("mask", "box"):
            of_kind = found.precision[kind].overall
            assert (of_kind.mean, of_kind.small, of_kind.medium, of_kind.large) == pytest.approx((1.0,) * 4)
        assert counts.quality == pytest.approx(1.0) and counts.boundary_f == 1.0
        assert found.pixels is not None and found.pixels.mean == 1.0
        assert found.absence.overall.answered == 0 and found.worst == ()
    else:
        assert 0.1 < counts.quality < 0.95 and found.absence.overall.answered > 0
