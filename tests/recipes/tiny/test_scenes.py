"""Drawn scenes: the same everywhere, with masks that are true."""

import numpy as np
import pytest

from recipes.tiny.glyphs import atlas, tinted
from recipes.tiny.scenes import MAX_SIDE, MIN_SIDE, Recipe, draw_scene
from recipes.tiny.vocabulary import is_held_out, nouns

NUMBERS = range(12)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_scene_is_a_function_of_its_number(split: str) -> None:
    first, second = draw_scene(split, 4), draw_scene(split, 4)
    assert np.array_equal(first.image, second.image)
    assert [o.noun for o in first.objects] == [o.noun for o in second.objects]


def test_splits_differ() -> None:
    images = [draw_scene(split, 4).image for split in ("train", "validation", "test")]
    assert len({image.tobytes() for image in images}) == 3


@pytest.mark.parametrize("number", NUMBERS)
def test_masks_are_disjoint_and_inside_their_boxes(number: int) -> None:
    scene = draw_scene("test", number)
    height, width = scene.image.shape[:2]
    assert min(height, width) >= MIN_SIDE and max(height, width) <= MAX_SIDE
    assert sum(o.mask.astype(int) for o in scene.objects).max() <= 1
    for thing in scene.objects:
        x0, y0, x1, y1 = map(int, thing.box)
        assert thing.mask[y0:y1, x0:x1].sum() == thing.mask.sum() > 0


@pytest.mark.parametrize("number", NUMBERS)
def test_truths_are_nested(number: int) -> None:
    for thing in draw_scene("train", number).objects:
        for inner, outer in zip(thing.truths, thing.truths[1:], strict=False):
            assert not (inner & ~outer).any()


def test_a_mask_is_what_the_object_changed() -> None:
    background = np.full((300, 400, 3), 90, np.uint8)
    recipe = Recipe(cast=(("dog", None),), background=background, plate_share=0, badge_share=0, group_share=0)
    scene = draw_scene("test", 0, recipe)
    changed = (scene.image != background).any(-1)
    mask = scene.objects[0].mask
    assert not (mask & ~changed).any()
    # Soft edges change a thin rim of pixels outside the mask, no more.
    assert (changed & ~mask).sum() < 0.15 * mask.sum()


@pytest.mark.slow
def test_training_never_draws_a_held_out_pair() -> None:
    drawn = [o for number in range(60) for o in draw_scene("train", number).objects if o.color]
    assert drawn
    assert not any(is_held_out(o.color, o.noun) for o in drawn)


def test_held_out_scenes_show_a_held_out_pair_beside_another_color() -> None:
    shown = 0
    for number in range(10):
        scene = draw_scene("test", number, Recipe(color_pairs="held-out"))
        pairs = [(o.color, o.noun) for o in scene.objects if o.color and is_held_out(o.color, o.noun)]
        shown += any(len({o.color for o in scene.matching(noun)}) > 1 for _, noun in pairs)
    assert shown >= 5


def test_a_tint_keeps_the_outline_and_changes_the_hue() -> None:
    glyph = atlas()["car"]
    blue, yellow = tinted(glyph, "blue"), tinted(glyph, "yellow")
    opaque = glyph[..., 3] > 127
    assert np.array_equal(blue[..., 3], glyph[..., 3])
    assert blue[opaque][:, 2].mean() > blue[opaque][:, 0].mean() + 40
    assert yellow[opaque][:, 0].mean() > yellow[opaque][:, 2].mean() + 40


def test_every_noun_has_a_glyph() -> None:
    assert set(atlas()) == set(nouns()) and len(nouns()) == 149
