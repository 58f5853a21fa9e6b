"""Small tools that the measurements share: IoU of boolean masks, matching, and the queries asked about test scenes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from recipes.tiny.scenes import Recipe, Scene, SceneObject, draw_scene
from recipes.tiny.vocabulary import FOREIGN_TEST, invented_word, look_alikes, noun_phrase, nouns, word_phrase

NEGATIVE_KINDS = ("random", "look-alike", "unknown words")


@dataclass(frozen=True)
class Asked:
    """One phrase of a test query: what it should find, and which kind of negative it is when that is nothing."""

    phrase: str
    wanted: tuple[SceneObject, ...]
    kind: str  # "present" or one of NEGATIVE_KINDS


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of all pairs of (n, h, w) and (m, h, w) bool masks, (n, m); 0 where both are empty."""
    pixels = first.shape[1] * first.shape[2]  # stated, because it cannot be guessed for no masks
    a = first.reshape(len(first), pixels).astype(np.float32)
    b = second.reshape(len(second), pixels).astype(np.float32)
    both = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - both
    return both / np.maximum(union, 1)


def paired_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each mask with its partner, (n,)."""
    both = (first & second).sum((-2, -1))
    return both / np.maximum((first | second).sum((-2, -1)), 1)


def matched_iou(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted mask the IoU of the found mask assigned to it, one to one; 0 for those that stay alone."""
    result = np.zeros(len(wanted))
    if len(found) and len(wanted):
        overlaps = mask_iou(found, wanted)
        rows, columns = linear_sum_assignment(-overlaps)
        result[columns] = overlaps[rows, columns]
    return result


def scenes(split: str, count: int, recipe: Recipe | None = None) -> Iterator[tuple[int, Scene]]:
    """The first `count` scenes of a split that show anything, with their numbers."""
    number = 0
    while count:
        scene = draw_scene(split, number, recipe)
        if scene.objects:
            yield number, scene
            count -= 1
        number += 1


def present_phrases(scene: Scene, rng: np.random.Generator) -> list[Asked]:
    """Each noun that the scene shows, once; tinted ones half of the time by their colours."""
    asked = []
    for noun in sorted({o.noun for o in scene.objects}):
        colors = sorted({o.color for o in scene.objects if o.noun == noun and o.color})
        if colors and rng.random() < 0.5:
            asked += [Asked(noun_phrase(noun, c, rng), tuple(scene.matching(noun, c)), "present") for c in colors]
        else:
            asked.append(Asked(noun_phrase(noun, None, rng), tuple(scene.matching(noun)), "present"))
    return asked


def negative_phrases(scene: Scene, rng: np.random.Generator) -> list[Asked]:
    """One phrase of each kind for what the scene does not show; no look-alike where nothing has one."""
    present = {o.noun for o in scene.objects}
    others = [noun for noun in nouns() if noun not in present]
    alike = sorted({other for noun in present for other in look_alikes(noun)} - present)
    unknown = FOREIGN_TEST[rng.integers(len(FOREIGN_TEST))] if rng.random() < 0.5 else invented_word(rng)
    asked = [
        Asked(noun_phrase(others[rng.integers(len(others))], None, rng), (), "random"),
        Asked(word_phrase(unknown, rng), (), "unknown words"),
    ]
    if alike:
        asked.append(Asked(noun_phrase(alike[rng.integers(len(alike))], None, rng), (), "look-alike"))
    return asked


def query(number: int, scene: Scene) -> list[Asked]:
    """The query of a test scene: everything it shows and three kinds of negatives, in any order, each phrase once."""
    rng = np.random.default_rng([99, number])
    asked = present_phrases(scene, rng) + negative_phrases(scene, rng)
    unique = {item.phrase: item for item in reversed(asked)}
    return [list(unique.values())[i] for i in rng.permutation(len(unique))]


def stacked(objects: Sequence[SceneObject], shape: tuple[int, int]) -> np.ndarray:
    """The objects' masks as (n, h, w) bool."""
    return np.stack([o.mask for o in objects]) if objects else np.zeros((0, *shape), bool)
