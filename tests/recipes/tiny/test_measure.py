"""The measurements measure what they say."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from recipes.tiny.measure import matched_iou, negative_phrases, paired_iou, present_phrases, query, scenes
from recipes.tiny.measure_chain import PhraseAveragePrecision
from recipes.tiny.scenes import draw_scene
from recipes.tiny.vocabulary import look_alikes


def square(x: int, side: int = 4) -> np.ndarray:
    mask = np.zeros((16, 32), bool)
    mask[4 : 4 + side, x : x + side] = True
    return mask


def stack(*masks: np.ndarray) -> np.ndarray:
    return np.stack(masks) if masks else np.zeros((0, 16, 32), bool)


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (stack(square(0)), stack(square(0)), [1.0]),
        (stack(square(20), square(0)), stack(square(0), square(20)), [1.0, 1.0]),
        (stack(square(0)), stack(square(0), square(20)), [1.0, 0.0]),
        (stack(square(2)), stack(square(0)), [1 / 3]),
        (stack(), stack(square(0)), [0.0]),
        (stack(square(0)), stack(), []),
    ],
    ids=["same", "any order", "one missing", "shifted", "nothing found", "nothing wanted"],
)
def test_matched_iou(found: np.ndarray, wanted: np.ndarray, expected: list[float]) -> None:
    assert matched_iou(found, wanted).tolist() == pytest.approx(expected)


def test_one_found_mask_serves_one_truth_only() -> None:
    both = square(0) | square(6)
    assert sorted(matched_iou(stack(both), stack(square(0), square(6)))) == pytest.approx([0.0, 0.5])


def test_paired_iou() -> None:
    assert paired_iou(stack(square(0), square(0)), stack(square(0), square(9))).tolist() == [1.0, 0.0]


def rle(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_average_precision_is_one_for_the_truth_and_falls_with_a_confident_false_positive() -> None:
    perfect, spoiled = PhraseAveragePrecision(), PhraseAveragePrecision()
    for measured in (perfect, spoiled):
        for x in (0, 8, 16):
            measured.add((16, 32), stack(square(x)), [rle(square(x))], np.array([0.8]))
    perfect.add((16, 32), stack(), [], np.zeros(0))
    spoiled.add((16, 32), stack(), [rle(square(3))], np.array([0.9]))
    assert perfect.result() == pytest.approx((1.0, 1.0))
    assert max(spoiled.result()) < 0.8


def test_average_precision_of_nothing_is_zero() -> None:
    measured = PhraseAveragePrecision()
    measured.add((16, 32), stack(square(0)), [], np.zeros(0))
    assert measured.result() == (0.0, 0.0)


@pytest.mark.parametrize("number", range(8))
def test_queries_are_true(number: int) -> None:
    scene = draw_scene("test", number)
    rng = np.random.default_rng(number)
    present = present_phrases(scene, rng)
    assert {id(o) for item in present for o in item.wanted} <= {id(o) for o in scene.objects}
    assert {o.noun for item in present for o in item.wanted} == {o.noun for o in scene.objects}
    nouns = {o.noun for o in scene.objects}
    kinds = [item.kind for item in negative_phrases(scene, rng)]
    assert set(kinds) >= {"random", "unknown words"}
    assert ("look-alike" in kinds) == any(set(look_alikes(noun)) - nouns for noun in nouns)


def test_a_query_repeats_itself_and_asks_each_phrase_once() -> None:
    for number, scene in scenes("test", 6):
        first, second = query(number, scene), query(number, scene)
        assert [item.phrase for item in first] == [item.phrase for item in second]
        assert len({item.phrase for item in first}) == len(first)
