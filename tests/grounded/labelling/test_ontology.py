from pathlib import Path

import pytest

from grounded.errors import ConfigError
from grounded.labelling import ontology
from grounded.labelling.ontology import Asked, LabelClass, Ontology


def write(folder: Path, text: str) -> Path:
    path = folder / "vocabulary.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plain(*names: str) -> Ontology:
    return Ontology(tuple(LabelClass(name, (Asked(name),)) for name in names))


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
            "classes: {car: [car, taxi]}", Ontology((LabelClass("car", (Asked("car"), Asked("taxi"))),)), id="synonyms"
        ),
        pytest.param(
            "classes: [{name: car, phrases: taxi, threshold: 1}]",
            Ontology((LabelClass("car", (Asked("taxi", 1.0),)),)),
            id="other words, and a threshold",
        ),
        pytest.param(
            "{threshold: 0.1, classes: {a: , b: {threshold: 0.2, phrases: [c, {phrase: d, threshold: 1}, e]}}}",
            Ontology(
                (
                    LabelClass("a", (Asked("a", 0.1),)),
                    LabelClass("b", (Asked("c", 0.2), Asked("d", 1.0), Asked("e", 0.2))),
                )
            ),
            id="the narrower threshold counts",
        ),
        pytest.param(
            "{threshold: 0.1, classes: {a: {threshold: 0}}}",
            Ontology((LabelClass("a", (Asked("a", 0.0),)),)),
            id="a threshold of nothing",
        ),
        pytest.param(
            "{negatives: [toy  dog], classes: [dog]}", Ontology(plain("dog").classes, ("toy dog",)), id="negatives"
        ),
        pytest.param(
            "classes: {a: {phrases: b}, b: a}",
            Ontology((LabelClass("a", (Asked("b"),)), LabelClass("b", (Asked("a"),)))),
            id="names are not phrases",
        ),
        pytest.param(
            "classes:\n  a: &x {threshold: 0.5}\n  b: {<<: *x, phrases: c}",
            Ontology((LabelClass("a", (Asked("a", 0.5),)), LabelClass("b", (Asked("c", 0.5),)))),
            id="anchors",
        ),
    ],
)
def test_load(text: str, expected: Ontology, tmp_path: Path):
    loaded = ontology.load(write(tmp_path, text))
    assert loaded == expected
    assert ontology.read(loaded.to_dict(), "again") == loaded


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
        pytest.param("classes: [no]", "classes[0] must be text, got bool False: put it in quotes", id="bare no"),
        pytest.param("classes: {1: a}", "classes must be text, got int 1: put it in quotes", id="bare number"),
        pytest.param("classes: {a: [b, 2]}", "classes.a: phrases must be text, got int 2", id="number for a phrase"),
        pytest.param("classes: [null]", "classes[0] must be text, got null", id="null for a name"),
        pytest.param("classes: ['...']", "classes[0]: the text holds no phrase", id="nothing but punctuation"),
        pytest.param("{classes: [a], negatives: b}", "negatives must be a list of str, got str 'b'", id="negatives"),
        pytest.param("{classes: [a], negatives: ['']}", "negatives: the text holds no phrase", id="empty negative"),
        pytest.param("{classes: [a], threshold: 1.5}", "threshold must lie in [0, 1], got 1.5", id="too high"),
        pytest.param("{classes: [a], threshold: .nan}", "threshold must lie in [0, 1], got nan", id="not a number"),
        pytest.param("{classes: [a], threshold: yes}", "threshold must be float or null, got bool True", id="a bool"),
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
    ],
)
def test_a_message_names_file_and_key(text: str, message: str, tmp_path: Path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        ontology.load(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unreadable_files(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read vocabulary .*none\.yaml: No such file"):
        ontology.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"classes: [caf\xe9]")
    with pytest.raises(ConfigError, match=r"latin\.yaml is not valid YAML"):
        ontology.load(tmp_path / "latin.yaml")
