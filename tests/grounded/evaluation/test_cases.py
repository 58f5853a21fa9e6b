import pytest

from grounded.errors import ResultError
from grounded.evaluation.cases import pair
from grounded.evaluation.naming import ClassNames
from tests.grounded.evaluation.made import block, record, truth

MASK = block(1, 1, 3, 3)
TRUTH = truth({"a.jpg": [("dog", MASK), ("cat", MASK)], "b/c.jpg": [("dog", MASK)]})
NAMES = ClassNames(TRUTH.classes)


def test_answers_come_beside_what_is_there():
    (found,) = pair([record("a.jpg", ["a dog"], [("a dog", MASK, 0.5)])], TRUTH, NAMES, count_missing=False).cases
    assert (found.file, found.source, found.size, found.asked) == ("a.jpg", "a.jpg", (10, 10), {"a dog": "dog"})
    assert [thing.label for thing in found.truths] == ["dog", "cat"]
    assert [thing.label for thing in found.wanted] == ["dog"]  # nobody asked for a cat
    (answer,) = found.answers
    assert (answer.label, answer.phrase, answer.score, answer.box) == ("dog", "a dog", 0.5, (1, 1, 4, 4))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param("a.jpg", "a.jpg", id="equal"),
        pytest.param("train/a.jpg", "a.jpg", id="folder before the record"),
        pytest.param("c.jpg", "b/c.jpg", id="folder before the truth"),
        pytest.param("x/c.jpg", None, id="another folder"),
        pytest.param("ba.jpg", None, id="ends alike"),
    ],
)
def test_names_with_folders(file: str, expected: str | None):
    paired = pair([record(file, ["dog"])], TRUTH, NAMES, count_missing=False)
    assert [one.file for one in paired.cases] == ([expected] if expected else [])
    assert paired.without_truth == (() if expected else (file,))


def test_what_is_left_out_is_listed():
    records = [
        record("a.jpg", ["dog", "unicorn"], [("unicorn", MASK, 0.9)]),
        record("b/c.jpg", ["dog"], size=(20, 10)),
        record("other.jpg", ["dog"]),
    ]
    paired = pair(records, TRUTH, NAMES, phrases=("dog", "griffin"))
    assert paired.asked == {"dog": "dog"}
    assert paired.unknown_phrases == {"griffin": 0, "unicorn": 1}
    assert paired.classes_not_asked == ("cat",)
    assert paired.without_truth == ("other.jpg",)
    assert paired.other_size == ("b/c.jpg",)
    assert [len(one.answers) for one in paired.cases] == [0]
    assert paired.missing == ()


@pytest.mark.parametrize(("count", "expected"), [(True, ["a.jpg", "b/c.jpg"]), (False, ["b/c.jpg"])])
def test_pictures_without_a_record(count: bool, expected: list[str]):
    paired = pair([record("b/c.jpg", ["dog"])], TRUTH, NAMES, phrases=("a cat",), count_missing=count)
    assert [one.file for one in paired.cases] == expected
    assert paired.missing == ("a.jpg",) and paired.missing_counted is count
    if count:
        missing = paired.cases[0]
        assert missing.source is None and missing.answers == () and missing.asked == {"a cat": "cat", "dog": "dog"}


def test_no_records():
    paired = pair([], TRUTH, NAMES, phrases=("dog",))
    assert len(paired.cases) == 2 and paired.missing == ("a.jpg", "b/c.jpg")


def test_two_records_of_one_picture_are_refused():
    with pytest.raises(ResultError, match=r"x/a.jpg and y/a.jpg would both be measured against a.jpg"):
        pair([record("x/a.jpg", ["dog"]), record("y/a.jpg", ["dog"])], TRUTH, NAMES)
