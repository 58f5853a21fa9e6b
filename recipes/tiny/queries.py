"""What to ask about a drawn scene: phrases for what is there, in any order, and for what is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recipes.tiny.vocabulary import (
    COLORS,
    FOREIGN_TRAIN,
    invented_word,
    is_held_out,
    look_alikes,
    noun_phrase,
    nouns,
    word_phrase,
)


class Named(Protocol):
    """Anything with a noun and perhaps a colour."""

    @property
    def noun(self) -> str: ...
    @property
    def color(self) -> str | None: ...


@dataclass(frozen=True)
class Query:
    """Phrases, and for each object the index of the phrase that names it or -1."""

    phrases: tuple[str, ...]
    answers: tuple[int, ...]


def ask(objects: Sequence[Named], rng: np.random.Generator, positives: float = 0.85, negatives: float = 3.0) -> Query:
    """A query as training sees it: most of what is there, and on average `negatives` phrases of what is not."""
    asked: list[tuple[str, list[int]]] = []
    colors_of: dict[str, list[str]] = {}
    for thing in objects:
        if thing.color is not None:
            colors_of.setdefault(thing.noun, []).append(thing.color)
    present = {thing.noun for thing in objects}
    for noun in sorted(present):
        if rng.random() >= positives:
            continue
        if noun in colors_of and rng.random() < 0.75:
            for color in sorted(set(colors_of[noun])):
                rows = [i for i, o in enumerate(objects) if o.noun == noun and o.color == color]
                asked.append((noun_phrase(noun, color, rng), rows))
            others = [c for c in COLORS if c not in colors_of[noun] and not is_held_out(c, noun)]
            if others and rng.random() < 0.6:
                asked.append((noun_phrase(noun, others[rng.integers(len(others))], rng), []))
        else:
            asked.append((noun_phrase(noun, None, rng), [i for i, o in enumerate(objects) if o.noun == noun]))
    for _ in range(rng.poisson(negatives) + (not asked)):
        asked.append((_absent_phrase(present, rng), []))
    order = rng.permutation(len(asked))
    answers = [-1] * len(objects)
    for index, position in enumerate(order):
        for row in asked[position][1]:
            answers[row] = index
    return Query(tuple(asked[position][0] for position in order), tuple(answers))


def _absent_phrase(present: set[str], rng: np.random.Generator) -> str:
    """Of ten, three are look-alikes of what is there, five other nouns, two words that have to be spelled."""
    similar = sorted({other for noun in present for other in look_alikes(noun)} - present)
    chance = rng.random()
    if chance < 0.3 and similar:
        return noun_phrase(similar[rng.integers(len(similar))], None, rng)
    if chance < 0.8:
        others = [noun for noun in nouns() if noun not in present]
        noun = others[rng.integers(len(others))]
        color = COLORS[rng.integers(len(COLORS))]
        return noun_phrase(noun, color if rng.random() < 0.2 and not is_held_out(color, noun) else None, rng)
    word = FOREIGN_TRAIN[rng.integers(len(FOREIGN_TRAIN))] if rng.random() < 0.5 else invented_word(rng)
    return word_phrase(word, rng)
