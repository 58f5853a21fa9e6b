import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import ConfigError, PromptError
from grounded.labelling.vocabulary import Vocabulary
from grounded.pipeline import Pipeline
from segany.utils.rle import encode_rle
from tests.data import PICNIC, ROOT

NAN = float("nan")
Found = tuple[int, float, tuple[int, int]]  # index of the query, score, first and last column of the mask


def instances(queries: tuple[str, ...], found: list[Found], matrix: list[list[float]] | None = None) -> Instances:
    """Masks of whole columns of a picture of 10 x 100; without a matrix, the detector has scored own phrases alone."""
    masks = np.zeros((len(found), 10, 100), bool)
    own = np.full((len(found), len(queries)), NAN, np.float32)
    for row, (query, score, (start, end)) in enumerate(found):
        masks[row, :, start:end] = True
        own[row, query] = score
    scores = np.array([score for _, score, _ in found], np.float32)
    return Instances(
        phrases=queries,
        image_size=(10, 100),
        phrase_ids=np.array([query for query, _, _ in found], np.int64),
        boxes=np.array([(start, 0, end, 10) for _, _, (start, end) in found], np.float32).reshape(-1, 4),
        rles=tuple(encode_rle(masks)),
        scores=scores,
        detector_scores=scores,
        clip_scores=np.full(len(found), NAN, np.float32),
        predicted_iou=scores,
        phrase_scores=own if matrix is None else np.array(matrix, np.float32).reshape(own.shape),
        sources=np.array(["detector"] * len(found), np.str_),
    )


def listed(answer: Instances) -> list[tuple[str, float, int]]:
    """Class, score and first column of each instance."""
    return [
        (str(label), round(float(score), 3), int(box[0]))
        for label, score, box in zip(answer.labels, answer.scores, answer.boxes, strict=True)
    ]


SYNONYMS = {"classes": {"car": ["car", "taxi"], "dog": None}}  # queries: car, taxi, dog
THRESHOLDS = {
    "threshold": 0.2,
    "classes": {"car": {"threshold": 0.4, "phrases": ["car", {"phrase": "taxi", "threshold": 0.6}]}, "dog": None},
}
NEGATIVES = {"classes": ["dog", "cat"], "negatives": ["toy", "statue"]}  # queries: dog, cat, toy, statue


@pytest.mark.parametrize(
    ("vocabulary", "found", "expected"),
    [
        pytest.param(SYNONYMS, [], [], id="nothing"),
        pytest.param(SYNONYMS, [(1, 0.5, (0, 10))], [("car", 0.5, 0)], id="a synonym is its class"),
        pytest.param(
            SYNONYMS,
            [(0, 0.9, (0, 10)), (1, 0.8, (1, 10)), (1, 0.7, (50, 60))],
            [("car", 0.9, 0), ("car", 0.7, 50)],
            id="one object under two synonyms",
        ),
        pytest.param(
            SYNONYMS,
            [(0, 0.8, (1, 10)), (1, 0.9, (0, 10))],
            [("car", 0.9, 0)],
            id="the better synonym stays",
        ),
        pytest.param(
            SYNONYMS,
            [(0, 0.9, (0, 10)), (1, 0.8, (5, 15))],
            [("car", 0.9, 0), ("car", 0.8, 5)],
            id="little in common is two objects",
        ),
        pytest.param(
            SYNONYMS,
            [(0, 0.9, (0, 10)), (2, 0.8, (0, 10))],
            [("car", 0.9, 0), ("dog", 0.8, 0)],
            id="classes do not compete",
        ),
        pytest.param(
            SYNONYMS,
            [(2, 0.9, (0, 10)), (2, 0.8, (0, 9))],
            [("dog", 0.9, 0), ("dog", 0.8, 0)],
            id="what one phrase found has been told apart before",
        ),
        pytest.param(SYNONYMS, [(2, 0.1, (0, 9)), (1, 0.9, (0, 9))], [("car", 0.9, 0), ("dog", 0.1, 0)], id="sorted"),
        pytest.param(
            THRESHOLDS,
            [(0, 0.41, (0, 10)), (0, 0.39, (20, 30)), (1, 0.61, (40, 50)), (1, 0.59, (60, 70)), (2, 0.1, (80, 90))],
            [("car", 0.61, 40), ("car", 0.41, 0)],
            id="below the threshold of the phrase, the class, the file",
        ),
        pytest.param(
            THRESHOLDS, [(1, 0.5, (0, 10)), (0, 0.45, (0, 10))], [("car", 0.45, 0)], id="what is dropped drops no other"
        ),
        pytest.param(THRESHOLDS, [(0, NAN, (0, 10))], [("car", NAN, 0)], id="an unknown score is not below"),
        pytest.param(NEGATIVES, [(2, 0.9, (0, 10))], [], id="a negative alone"),
        pytest.param(
            NEGATIVES,
            [(2, 0.9, (0, 10)), (0, 0.8, (1, 10)), (0, 0.7, (20, 30)), (1, 0.6, (5, 15))],
            [("dog", 0.7, 20), ("cat", 0.6, 5)],
            id="a better negative has the same mask",
        ),
        pytest.param(NEGATIVES, [(0, 0.9, (0, 9)), (3, 0.8, (0, 9))], [("dog", 0.9, 0)], id="a worse negative has it"),
        pytest.param(NEGATIVES, [(3, 0.8, (0, 9)), (0, 0.8, (0, 9))], [("dog", 0.8, 0)], id="as good a negative"),
    ],
)
def test_answer(vocabulary: dict, found: list[Found], expected: list[tuple[str, float, int]]):
    asked = Vocabulary.from_dict(vocabulary)
    answer = asked.answer(instances(asked.queries, found))
    assert answer.phrases == asked.classes
    assert answer.phrase_scores.shape == (len(answer), len(asked.classes))
    assert str(listed(answer)) == str(expected)  # nan is unlike itself


@pytest.mark.parametrize(
    ("vocabulary", "row", "expected"),
    [
        pytest.param(SYNONYMS, [0.5, 0.4, 0.1], [0.5, 0.1], id="best of the synonyms"),
        pytest.param(SYNONYMS, [0.5, 0.7, 0.1], [0.7, 0.1], id="also of one that did not find it"),
        pytest.param(SYNONYMS, [0.5, NAN, NAN], [0.5, NAN], id="unknown"),
        pytest.param(NEGATIVES, [0.5, 0.1, 0.4, 0.0], [0.5, 0.1], id="more than the negatives"),
        pytest.param(NEGATIVES, [0.5, 0.1, 0.0, 0.6], None, id="less than a negative"),
        pytest.param(NEGATIVES, [NAN, NAN, NAN, NAN], [NAN, NAN], id="nothing known"),
    ],
)
def test_scores_of_classes(vocabulary: dict, row: list[float], expected: list[float] | None):
    asked = Vocabulary.from_dict(vocabulary)
    answer = asked.answer(instances(asked.queries, [(0, 0.5, (0, 10))], [row]))
    np.testing.assert_allclose(answer.phrase_scores, np.empty((0, 2)) if expected is None else [expected], rtol=1e-6)


def test_a_phrase_that_found_nothing_of_its_own_is_no_rival():
    asked = Vocabulary.from_dict({"classes": {"car": ["car", "taxi"]}, "negatives": ["toy"]})
    rows = [[0.5, 0.7, 0.6]]  # the toy is likelier than the car, and less so than the taxi
    assert len(asked.answer(instances(asked.queries, [(0, 0.5, (0, 10))], rows))) == 1


@pytest.mark.parametrize("text", ["a dog. pizza", ["a dog", "pizza. with cheese", "A Dog"], "dog"], ids=repr)
def test_text_answers_as_it_is(text: str | list[str]):
    asked = Vocabulary.from_text(text)
    assert asked.queries == asked.classes == parse(text)
    found = instances(asked.queries, [(0, 0.1, (0, 10)), (0, 0.9, (0, 10))])
    assert asked.answer(found) is found


def test_a_file_that_says_no_more_than_a_text_is_that_text():
    asked = Vocabulary.from_dict({"classes": {"a dog": None, "pizza": ["pizza"]}, "negatives": []})
    assert asked == Vocabulary.from_text("a dog. pizza")
    assert asked.to_dict() == Vocabulary.from_text("a dog. pizza").to_dict()


def test_groups_are_what_means_the_same():
    asked = Vocabulary.from_dict({"classes": {"car": ["car", "taxi"], "dog": None}, "negatives": ["toy", "statue"]})
    assert asked.queries == ("car", "taxi", "dog", "toy", "statue")
    assert asked.groups == (0, 0, 1, 2, 3)


@pytest.mark.parametrize("data", [SYNONYMS, THRESHOLDS, NEGATIVES], ids=["synonyms", "thresholds", "negatives"])
def test_round_trips(data: dict):
    asked = Vocabulary.from_dict(data)
    assert Vocabulary.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    assert pickle.loads(pickle.dumps(asked)) == asked
    reordered = (
        {**data, "classes": dict(reversed(data["classes"].items()))} if isinstance(data["classes"], dict) else {}
    )
    assert reordered == {} or Vocabulary.from_dict(reordered).to_dict() != asked.to_dict()


def test_errors():
    asked = Vocabulary.from_text("dog. cat")
    with pytest.raises(ValueError, match=r"must be of the phrases \('dog', 'cat'\), got \('cat', 'dog'\)"):
        asked.answer(Instances.empty(("cat", "dog"), (4, 5)))
    with pytest.raises(PromptError, match="holds no phrase"):
        Vocabulary.from_text(" . ")
    with pytest.raises(ConfigError, match="vocabulary: unknown key names"):
        Vocabulary.from_dict({"names": ["dog"]})


def test_the_example_of_the_documentation(tmp_path: Path):
    text = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "vocabulary.yaml").write_text(example, encoding="utf-8")
    asked = Vocabulary.from_yaml(tmp_path / "vocabulary.yaml")
    assert asked.classes == ("dog", "cat", "car", "bus")
    phrases = ("dog", "a sleeping cat", "car", "taxi", "van", "bus", "minibus")
    assert asked.queries == (*phrases, "toy car", "statue of a dog")
    thresholds = [entry["threshold"] for one in asked.to_dict()["classes"] for entry in one["phrases"]]
    assert thresholds == [0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.5]


@pytest.fixture(scope="module")
def boxes_alone(bundled: Pipeline) -> Pipeline:
    """The bundled models without what makes masks better and takes longer."""
    return bundled.with_config(mode="box", zoom=None, filtering={"enabled": False})


def test_a_real_answer(boxes_alone: Pipeline):
    asked = Vocabulary.from_dict(
        {"classes": {"party": ["balloon", "dog"], "food": "pizza"}, "negatives": ["watermelon"]}
    )
    found = boxes_alone.segment(PICNIC, asked.queries, box_threshold=0.4)
    assert sorted(found.labels.tolist()) == ["balloon", "dog", "pizza", "watermelon"]
    assert sorted(asked.answer(found).labels.tolist()) == ["food", "party", "party"]


def test_three_hundred_phrases(boxes_alone: Pipeline):
    """They do not fit into one prompt; what is there is found all the same."""
    others = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    asked = Vocabulary.from_text(["dog", *others, "pizza"])
    assert len(asked.queries) == 302
    answer = asked.answer(boxes_alone.segment(PICNIC, asked.queries, box_threshold=0.3))
    assert {"dog", "pizza"} <= set(answer.labels.tolist())
    assert answer.phrase_scores.shape == (len(answer), 302)
    assert len(answer) <= boxes_alone.config.detector.max_detections  # which bounds the matrix, whatever is asked


COLOURS = "black white grey silver golden pink violet brown beige turquoise wooden metal plastic paper glass".split()
THINGS = """helicopter tractor television bicycle train rocket ship guitar trumpet drum violin laptop phone hammer
scissors book pencil umbrella shoe shirt""".split()
