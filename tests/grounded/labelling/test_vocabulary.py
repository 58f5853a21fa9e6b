import json
import pickle
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import ConfigError, PromptError
from grounded.labelling.vocabulary import ClassPhrase, LabelClass, Vocabulary
from grounded.pipeline import Pipeline
from segany.utils.rle import encode_rle
from tests.data import PICNIC, ROOT
from tests.fuzzing import FUZZ_COUNTS, fuzz

NAN = float("nan")
Found = tuple[int, float, tuple[int, int]]  # index of the query, score, first and last column of the mask


def instances(queries: tuple[str, ...], found: list[Found], matrix: list[list[float]] | None = None) -> Instances:
    """Masks of whole columns of an image of 10 x 100; without a matrix, the detector has scored own phrases alone."""
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


def listed(instances: Instances) -> list[tuple[str, float, int]]:
    """Class, score and first column of each instance."""
    return [
        (str(label), round(float(score), 3), int(box[0]))
        for label, score, box in zip(instances.labels, instances.scores, instances.boxes, strict=True)
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
def test_to_classes(vocabulary: dict, found: list[Found], expected: list[tuple[str, float, int]]):
    words = Vocabulary.from_dict(vocabulary)
    labelled = words.to_classes(instances(words.queries, found))
    assert labelled.phrases == words.class_names
    assert labelled.phrase_scores.shape == (len(labelled), len(words.class_names))
    assert str(listed(labelled)) == str(expected)  # nan is unlike itself


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
    words = Vocabulary.from_dict(vocabulary)
    labelled = words.to_classes(instances(words.queries, [(0, 0.5, (0, 10))], [row]))
    np.testing.assert_allclose(labelled.phrase_scores, np.empty((0, 2)) if expected is None else [expected], rtol=1e-6)


def test_a_phrase_that_found_nothing_of_its_own_is_no_rival():
    words = Vocabulary.from_dict({"classes": {"car": ["car", "taxi"]}, "negatives": ["toy"]})
    rows = [[0.5, 0.7, 0.6]]  # the toy is likelier than the car, and less so than the taxi
    assert len(words.to_classes(instances(words.queries, [(0, 0.5, (0, 10))], rows))) == 1


@pytest.mark.parametrize("text", ["a dog. pizza", ["a dog", "pizza. with cheese", "A Dog"], "dog"], ids=repr)
def test_text_leaves_instances_as_they_are(text: str | list[str]):
    words = Vocabulary.from_text(text)
    assert words.queries == words.class_names == parse(text)
    found = instances(words.queries, [(0, 0.1, (0, 10)), (0, 0.9, (0, 10))])
    assert words.to_classes(found) is found


def test_a_file_that_says_no_more_than_a_text_is_that_text():
    words = Vocabulary.from_dict({"classes": {"a dog": None, "pizza": ["pizza"]}, "negatives": []})
    assert words == Vocabulary.from_text("a dog. pizza")
    assert words.to_dict() == Vocabulary.from_text("a dog. pizza").to_dict()


def test_groups_number_the_classes():
    words = Vocabulary.from_dict({"classes": {"car": ["car", "taxi"], "dog": None}, "negatives": ["toy", "statue"]})
    assert words.queries == ("car", "taxi", "dog", "toy", "statue")
    assert words.groups == (0, 0, 1, 2, 3)


@pytest.mark.parametrize("data", [SYNONYMS, THRESHOLDS, NEGATIVES], ids=["synonyms", "thresholds", "negatives"])
def test_round_trips(data: dict):
    words = Vocabulary.from_dict(data)
    assert Vocabulary.from_dict(json.loads(json.dumps(words.to_dict()))) == words
    assert pickle.loads(pickle.dumps(words)) == words
    reordered = (
        {**data, "classes": dict(reversed(data["classes"].items()))} if isinstance(data["classes"], dict) else {}
    )
    assert reordered == {} or Vocabulary.from_dict(reordered).to_dict() != words.to_dict()


def test_errors():
    words = Vocabulary.from_text("dog. cat")
    with pytest.raises(ValueError, match=r"must be of the phrases \('dog', 'cat'\), got \('cat', 'dog'\)"):
        words.to_classes(Instances.empty(("cat", "dog"), (4, 5)))
    with pytest.raises(PromptError, match="holds no phrase"):
        Vocabulary.from_text(" . ")
    with pytest.raises(ConfigError, match="vocabulary: unknown key names"):
        Vocabulary.from_dict({"names": ["dog"]})


def test_the_example_of_the_documentation(tmp_path: Path):
    text = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "vocabulary.yaml").write_text(example, encoding="utf-8")
    words = Vocabulary.from_yaml(tmp_path / "vocabulary.yaml")
    assert words.class_names == ("dog", "cat", "car", "bus")
    phrases = ("dog", "a sleeping cat", "car", "taxi", "van", "bus", "minibus")
    assert words.queries == (*phrases, "toy car", "statue of a dog")
    thresholds = [entry["threshold"] for one in words.to_dict()["classes"] for entry in one["phrases"]]
    assert thresholds == [0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.5]


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "vocabulary.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plain(*names: str) -> Vocabulary:
    return Vocabulary(tuple(LabelClass(name, (ClassPhrase(name),)) for name in names))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("classes: [dog, a cat]", plain("dog", "a cat"), id="a list of names"),
        pytest.param("classes: {dog: , a cat: }", plain("dog", "a cat"), id="names without more"),
        pytest.param("classes: {dog: {}, a cat: {}}", plain("dog", "a cat"), id="empty entries"),
        pytest.param("classes: {dog: dog, a cat: [a cat]}", plain("dog", "a cat"), id="names stated again"),
        pytest.param("classes: ['  dog ', \"a\\n cat\"]", plain("dog", "a cat"), id="needless white space"),
        pytest.param("classes: [{name: dog}, a cat]", plain("dog", "a cat"), id="a list of both"),
        pytest.param("classes: [a dog. a cat]", plain("a dog. a cat"), id="a phrase is not split"),
        pytest.param(
            "classes: {car: [car, taxi]}",
            Vocabulary((LabelClass("car", (ClassPhrase("car"), ClassPhrase("taxi"))),)),
            id="synonyms",
        ),
        pytest.param(
            "classes: [{name: car, phrases: taxi, threshold: 1}]",
            Vocabulary((LabelClass("car", (ClassPhrase("taxi", 1.0),)),)),
            id="other words, and a threshold",
        ),
        pytest.param(
            "{threshold: 0.1, classes: {a: , b: {threshold: 0.2, phrases: [c, {phrase: d, threshold: 1}, e]}}}",
            Vocabulary(
                (
                    LabelClass("a", (ClassPhrase("a", 0.1),)),
                    LabelClass("b", (ClassPhrase("c", 0.2), ClassPhrase("d", 1.0), ClassPhrase("e", 0.2))),
                )
            ),
            id="the narrower threshold counts",
        ),
        pytest.param(
            "{threshold: 0.1, classes: {a: {threshold: 0}}}",
            Vocabulary((LabelClass("a", (ClassPhrase("a", 0.0),)),)),
            id="a threshold of nothing",
        ),
        pytest.param(
            "{negatives: [toy  dog], classes: [dog]}", Vocabulary(plain("dog").classes, ("toy dog",)), id="negatives"
        ),
        pytest.param(
            "classes: {a: {phrases: b}, b: a}",
            Vocabulary((LabelClass("a", (ClassPhrase("b"),)), LabelClass("b", (ClassPhrase("a"),)))),
            id="names are not phrases",
        ),
        pytest.param(
            "classes:\n  a: &x {threshold: 0.5}\n  b: {<<: *x, phrases: c}",
            Vocabulary((LabelClass("a", (ClassPhrase("a", 0.5),)), LabelClass("b", (ClassPhrase("c", 0.5),)))),
            id="anchors",
        ),
    ],
)
def test_files(text: str, expected: Vocabulary, tmp_path: Path):
    loaded = Vocabulary.from_yaml(write_yaml(tmp_path, text))
    assert loaded == expected
    assert Vocabulary.from_dict(loaded.to_dict()) == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "classes must hold at least one class, got none", id="empty file"),
        pytest.param("classes: []", "classes must hold at least one class, got none", id="no class"),
        pytest.param("negatives: [a]", "classes must hold at least one class, got none", id="negatives alone"),
        pytest.param("- dog", "the file must be a mapping, got list ['dog']", id="not a mapping"),
        pytest.param("clases: [a]", "unknown key clases: expected one of classes, negatives, threshold", id="key"),
        pytest.param("classes: dog", "classes must be a mapping or a list, got str 'dog'", id="classes is text"),
        pytest.param(
            "classes: {a: {phrase: b}}",
            "classes.a: unknown key phrase: expected one of phrases, threshold",
            id="in class",
        ),
        pytest.param("classes: [{phrases: b}]", "classes[0] must have the key name, got phrases", id="no name"),
        pytest.param("classes: {a: []}", "classes.a: phrases must hold at least one phrase, got none", id="no phrase"),
        pytest.param(
            "classes: {a: [{phrase: b, weight: 1}]}",
            "classes.a: phrases: unknown key weight: expected one of phrase, threshold",
            id="in phrase",
        ),
        pytest.param(
            "classes: {a: [{threshold: 1}]}",
            "classes.a: phrases must each have the key phrase, got threshold",
            id="no words",
        ),
        pytest.param("classes: [!!bool no]", "classes[0] must be text, got bool False: put it in quotes", id="a bool"),
        pytest.param("classes: {1: a}", "classes must be text, got int 1: put it in quotes", id="bare number"),
        pytest.param("classes: {a: [b, 2]}", "classes.a: phrases must be text, got int 2", id="number for a phrase"),
        pytest.param("classes: [null]", "classes[0] must be text, got null", id="null for a name"),
        pytest.param("classes: ['...']", "classes[0]: the text holds no phrase", id="nothing but punctuation"),
        pytest.param("{classes: [a], negatives: b}", "negatives must be a list of str, got str 'b'", id="negatives"),
        pytest.param("{classes: [a], negatives: ['']}", "negatives: the text holds no phrase", id="empty negative"),
        pytest.param("{classes: [a], threshold: 1.5}", "threshold must lie in [0, 1], got 1.5", id="too high"),
        pytest.param("{classes: [a], threshold: .nan}", "threshold must lie in [0, 1], got nan", id="not a number"),
        pytest.param("{classes: [a], threshold: yes}", "threshold must be float or null, got str 'yes'", id="a word"),
        pytest.param("classes: {a: {threshold: -1}}", "classes.a: threshold must lie in [0, 1], got -1", id="too low"),
        pytest.param(
            "classes: {a: [{phrase: b, threshold: 2}]}",
            "phrases: threshold must lie in [0, 1], got 2",
            id="of a phrase",
        ),
        pytest.param("classes: {a: b, c: B}", "the phrase 'B' appears twice, in class 'a' and class 'c'", id="phrases"),
        pytest.param("classes: {a: [b, b]}", "the phrase 'b' appears twice, in class 'a'", id="within one class"),
        pytest.param("classes: [a, A]", "the name 'A' appears twice, in classes", id="names"),
        pytest.param("classes: {Straße: a, STRASSE: b}", "the name 'STRASSE' appears twice", id="names, by any case"),
        pytest.param(
            "{classes: [a], negatives: [a]}", "the phrase 'a' appears twice, in class 'a' and negatives", id="negative"
        ),
        pytest.param("classes: {a: b, a: c}", "is not valid YAML: the key 'a' is stated twice", id="a key twice"),
        pytest.param("classes: [a", "is not valid YAML", id="not YAML"),
        pytest.param("classes: {? [a] : b}", "is not valid YAML", id="a key that is a list"),
        pytest.param("classes: " + "[" * 5000, "is not valid YAML", id="deep"),
        pytest.param("classes: [" + "1" * 5000 + "]", "is not valid YAML", id="a long number"),
        pytest.param(
            "a: &a [x, x]\n"
            + "".join(
                f"{name}: &{name} [*{before}, *{before}]\n" for before, name in pairwise("abcdefghijklmnopqrstuvwxyz")
            )
            + "classes: [*z]",
            "unknown key a",
            id="aliases that stand for millions of words",
        ),
    ],
)
def test_a_message_names_file_and_key(text: str, message: str, tmp_path: Path):
    path = write_yaml(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        Vocabulary.from_yaml(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("classes: [a dog, no, Yes, on, OFF, n]", ("a dog", "no", "Yes", "on", "OFF", "n"), id="words"),
        pytest.param("classes: {no: null, y: [yes, true]}", ("no", "y"), id="keys and phrases"),
        pytest.param("classes: [2024-05-01]", ("2024-05-01",), id="a date"),
    ],
)
def test_bare_words_are_text(text: str, expected: tuple[str, ...], tmp_path: Path):
    assert Vocabulary.from_yaml(write_yaml(tmp_path, text)).class_names == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("classes: [日本, a dog]", encoding=encoding)
    assert Vocabulary.from_yaml(tmp_path / "a.yaml").class_names == ("日本", "a dog")


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    path = tmp_path / "a.yaml"
    whole = b"threshold: 0.2\nclasses:\n  dog:\n  cat: a cat\n  bus: {phrases: [bus, {phrase: b, threshold: 1}]}\n"
    listed = json.dumps(
        {"classes": ["dog", {"name": "cat", "phrases": ["a cat"], "threshold": 0.5}], "negatives": ["t"]}
    )

    def read(content: bytes) -> None:
        path.write_bytes(content)
        Vocabulary.from_yaml(path)

    fuzz([whole, listed.encode()], read, count)


def test_unreadable_files(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read vocabulary .*none\.yaml: No such file"):
        Vocabulary.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"classes: [caf\xe9]")
    with pytest.raises(ConfigError, match=r"latin\.yaml is not valid YAML"):
        Vocabulary.from_yaml(tmp_path / "latin.yaml")


@pytest.fixture(scope="module")
def boxes_alone(bundled: Pipeline) -> Pipeline:
    """The bundled models without what makes masks better and takes longer."""
    return bundled.with_config(mode="box", zoom=None, filtering={"enabled": False})


def test_with_the_bundled_models(boxes_alone: Pipeline):
    words = Vocabulary.from_dict(
        {"classes": {"party": ["balloon", "dog"], "food": "pizza"}, "negatives": ["watermelon"]}
    )
    found = boxes_alone.segment(PICNIC, words.queries, box_threshold=0.4)
    assert sorted(found.labels.tolist()) == ["balloon", "dog", "pizza", "watermelon"]
    assert sorted(words.to_classes(found).labels.tolist()) == ["food", "party", "party"]


@pytest.mark.slow
def test_three_hundred_phrases(boxes_alone: Pipeline):
    """They do not fit into one prompt; what is there is found all the same."""
    others = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    words = Vocabulary.from_text(["dog", *others, "pizza"])
    assert len(words.queries) == 302
    labelled = words.to_classes(boxes_alone.segment(PICNIC, words.queries, box_threshold=0.3))
    assert {"dog", "pizza"} <= set(labelled.labels.tolist())
    assert labelled.phrase_scores.shape == (len(labelled), 302)
    assert len(labelled) <= boxes_alone.config.detector.max_detections  # which bounds the matrix


COLOURS = "black white grey silver golden pink violet brown beige turquoise wooden metal plastic paper glass".split()
THINGS = """helicopter tractor television bicycle train rocket ship guitar trumpet drum violin laptop phone hammer
scissors book pencil umbrella shoe shirt""".split()
