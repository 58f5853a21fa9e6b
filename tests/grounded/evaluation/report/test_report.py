"""The JSON and the page of one and the same evaluation."""

import json

import pytest

from grounded.evaluation.dataset import ClassNames, match_records
from grounded.evaluation.evaluate import EvaluationConfig, LabelEvaluation, evaluate_labels
from grounded.evaluation.report.report import to_dict, to_markdown
from grounded.utils.files import json_bytes
from tests.grounded.evaluation.made import block, ground_truth, record

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)


def evaluated(found: list, iou_types: tuple = ("mask", "box"), phrases: tuple = ("a dog", "kit|cat", "unicorn")):
    true = ground_truth({"a.jpg": [("dog", LEFT), ("fox", LEFT)], "b.jpg": []}, ("dog", "cat", "fox"))
    records = [record("a.jpg", phrases, found), record("z.jpg", phrases)]
    dataset = match_records(records, true, ClassNames(true.classes, {"kit|cat": "cat"}))
    return evaluate_labels(dataset, EvaluationConfig(iou_types=iou_types))


@pytest.fixture(scope="module")
def evaluation() -> LabelEvaluation:
    return evaluated([("a dog", LEFT, 0.75), ("kit|cat", LEFT, 0.5), ("unicorn", RIGHT, 0.5)])


def test_json(evaluation: LabelEvaluation):
    data = json.loads(json_bytes(to_dict(evaluation)))
    assert data["images"] == {
        "measured": 2,
        "missing": ["b.jpg"],
        "missing_counted": True,
        "without_truth": ["z.jpg"],
        "other_size": [],
    }
    assert data["asked"] == {
        "classes": {"a dog": "dog", "kit|cat": "cat"},
        "phrases_without_class": {"unicorn": 1},
        "classes_not_asked": ["fox"],
    }
    assert data["settings"]["iou_threshold"] == 0.5 and data["settings"]["kinds"] == ["mask", "box"]
    assert data["average_precision"]["mask"]["mean"] == pytest.approx(1.0)
    assert (data["overall"]["precision"], data["overall"]["recall"], data["class_iou"]) == (0.5, 1.0, 1.0)
    dog, cat = data["classes"]
    assert (dog["class"], dog["phrases"], dog["found"], dog["class_iou"]) == ("dog", ["a dog"], 1, 1.0)
    assert dog["average_precision"]["box"]["at_50"] == pytest.approx(1.0)
    assert (cat["objects"], cat["answers"], cat["recall"], cat["class_iou"]) == (0, 1, None, 0.0)
    assert cat["average_precision"]["mask"]["mean"] is None
    assert data["absent"]["phrases"]["kit|cat"] == {"images": 2, "answered": 1, "share": 0.5}
    assert {"class": "dog", "phrase": "kit|cat", "count": 1} in data["confusion"]
    assert sum(one["count"] for one in data["reliability"]["bins"]) == 2
    assert [(one["file"], one["record"], one["found"]) for one in data["worst"]] == [("a.jpg", "a.jpg", 1)]


def test_page(evaluation: LabelEvaluation):
    page = to_markdown(evaluation, ("reliability.png",))
    for line in (
        "2 images, 2 classes.",
        "- images of the ground truth without a record, counted as empty: 1 (b.jpg)",
        "- phrases that are no class of the ground truth, left out: 1 (unicorn)",
        "- classes of the ground truth that no phrase asks for, left out: 1 (fox)",
        "| masks | 100.0 | 100.0 | 100.0 | 100.0 | – | – |",
        "| dog | 100.0 | 100.0 | 1 | 1 | 1 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 |",
        r"| cat (kit\|cat) | – | – | 0 | 1 | 0 | 0.0 | – | – | – | 0.0 | 0.0 |",
        "Of 3 pairs of an image and a phrase whose class is absent there, 1 (33.3%) have at least one prediction.",
        r"| dog | kit\|cat | 1 |",
        "| 0.70 to 0.80 | 1 | 75.0 | 100.0 |",
        "The expected calibration error is 37.5%.",
        "![reliability.png](reliability.png)",
    ):
        assert line in page.splitlines(), line


@pytest.mark.parametrize(
    ("found", "iou_types", "lines"),
    [
        pytest.param(
            [],
            ("mask",),
            ["No prediction has a score; 0 have none.", "| masks | 0.0 | 0.0 | 0.0 | 0.0 | – | – |"],
            id="empty",
        ),
        pytest.param(
            [("a dog", LEFT, float("nan"))], ("mask",), ["No prediction has a score; 1 have none."], id="no scores"
        ),
        pytest.param(
            [("a dog", LEFT, 1.0)],
            ("box",),
            ["No image has an error.", "No prediction lies on an object of another class."],
            id="boxes without a flaw",
        ),
    ],
)
def test_pages_of_little(found: list, iou_types: tuple, lines: list[str]):
    evaluation = evaluated(found, iou_types)
    page = to_markdown(evaluation)
    assert set(lines) <= set(page.splitlines())
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    json_bytes(to_dict(evaluation))  # no nan


def test_long_lists_are_cut_on_the_page():
    true = ground_truth({f"{i}.jpg": [("dog", LEFT)] for i in range(15)})
    dataset = match_records([record("0.jpg", ["dog"])], true, ClassNames(true.classes), count_missing=False)
    page = to_markdown(evaluate_labels(dataset))
    line = next(line for line in page.splitlines() if "without a record" in line)
    assert line.startswith("- images of the ground truth without a record, left out: 14 (1.jpg, 2.jpg,")
    assert line.endswith(" 10.jpg, and 4 more)")
