"""Queries about drawn scenes name what is there and nothing else."""

import numpy as np
import pytest

from recipes.tiny.queries import ask
from recipes.tiny.scenes import SceneObject
from recipes.tiny.vocabulary import FOREIGN_TEST, FOREIGN_TRAIN, LOOK_ALIKES, look_alikes, nouns, plural

EMPTY = np.zeros((2, 2), bool)
OBJECTS = tuple(
    SceneObject(noun, color, EMPTY) for noun, color in [("dog", None), ("car", "blue"), ("car", "red"), ("dog", None)]
)


@pytest.mark.parametrize("seed", range(20))
def test_answers_point_at_phrases_that_name_the_object(seed: int) -> None:
    query = ask(OBJECTS, np.random.default_rng(seed))
    assert len(query.answers) == len(OBJECTS) and query.phrases
    for thing, answer in zip(OBJECTS, query.answers, strict=True):
        if answer >= 0:
            phrase = query.phrases[answer]
            assert thing.noun in phrase
            assert thing.color is None or thing.color in phrase or not any(c in phrase for c in ("blue", "red"))


def test_twins_get_the_same_answer() -> None:
    for seed in range(20):
        answers = ask(OBJECTS, np.random.default_rng(seed)).answers
        assert answers[0] == answers[3]


def test_an_empty_scene_is_asked_for_what_it_does_not_show() -> None:
    query = ask((), np.random.default_rng(0))
    assert query.phrases and query.answers == ()


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("strawberry", "strawberries"),
        ("leaf", "leaves"),
        ("cup of coffee", "cups of coffee"),
        ("key", "keys"),
    ],
)
def test_plural(noun: str, expected: str) -> None:
    assert plural(noun) == expected


def test_foreign_words_are_outside_the_vocabulary_and_apart() -> None:
    assert not set(FOREIGN_TRAIN) & set(FOREIGN_TEST)
    assert not set(FOREIGN_TRAIN + FOREIGN_TEST) & set(nouns())


def test_look_alikes_are_nouns_and_mutual() -> None:
    assert {noun for row in LOOK_ALIKES for noun in row} <= set(nouns())
    assert all(noun in look_alikes(other) for noun in nouns() for other in look_alikes(noun))
