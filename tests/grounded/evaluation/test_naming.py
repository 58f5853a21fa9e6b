import pytest

from grounded.errors import ConfigError
from grounded.evaluation.naming import ClassNames, normalised

CLASSES = ("dog", "Hot Dog", "fire_hydrant", "the end", "Äpfel")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("A Dog", "dog", id="article and case"),
        pytest.param("an  old\tdog", "old dog", id="white space"),
        pytest.param("the_dog", "dog", id="underscore"),
        pytest.param("ant", "ant", id="begins like an article"),
        pytest.param("a", "a", id="an article alone"),
        pytest.param("A\u0308pfel", "äpfel", id="composed"),
        pytest.param("", "", id="empty"),
    ],
)
def test_normalised(name: str, expected: str):
    assert normalised(name) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        pytest.param("a dog", "dog", id="article"),
        pytest.param("hot dog", "Hot Dog", id="case"),
        pytest.param("A fire hydrant", "fire_hydrant", id="underscore"),
        pytest.param("end", "the end", id="article in the class"),
        pytest.param("dogs", None, id="another word"),
        pytest.param("a puppy", "dog", id="mapped"),
        pytest.param("The Puppy", "dog", id="mapped in another spelling"),
        pytest.param("sausage", "Hot Dog", id="mapped to a class in another spelling"),
    ],
)
def test_the_class_of_a_phrase(phrase: str, expected: str | None):
    assert ClassNames(CLASSES, {"puppy": "dog", "a sausage": "a hot dog"}).of(phrase) == expected


def test_a_mapping_goes_before_a_name():
    assert ClassNames(CLASSES, {"a dog": "hot dog"}).of("dog") == "Hot Dog"


def test_a_mapping_to_no_class_is_refused():
    with pytest.raises(ConfigError, match="cannot map 'puppy' to 'dgo': the truth has no such class; there is 'dog'"):
        ClassNames(CLASSES, {"puppy": "dgo"})
