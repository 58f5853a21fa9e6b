from collections.abc import Sequence

import numpy as np
import pytest

from grounded.data.instances import Instances
from grounded.labelling.tiling.merge import merge_views
from segany.utils.rle import encode_rle
from tests.grounded.labelling.painted import PHRASES, rectangle
from tests.grounded.test_pipeline import assert_same

SIZE = (60, 100)
# The whole, and two tiles that share the columns 40 to 60.
WHOLE, LEFT, RIGHT = 0, 1, 2
VIEWS = np.array([[0, 0, 100, 60], [0, 0, 60, 60], [40, 0, 100, 60]])
Sides = tuple[int, int, int, int]
Seen = tuple[int, float, Sides]  # view, score, xyxy of the mask


def parts(seen: Sequence[Seen], phrases: Sequence[int] | None = None) -> list[Instances]:
    """What each view shows; predicted IoU is the score as well."""
    by_view = []
    for view in range(len(VIEWS)):
        own = [i for i, (shown_in, _, _) in enumerate(seen) if shown_in == view]
        masks = np.array([rectangle(*seen[i][2], size=SIZE) for i in own], bool).reshape(len(own), *SIZE)
        ids = np.array([0 if phrases is None else phrases[i] for i in own], np.int64)
        scores = np.array([seen[i][1] for i in own], np.float32)
        by_view.append(Instances.from_masks(PHRASES, SIZE, encode_rle(masks), ids, scores, "text"))
    return by_view


def listed(instances: Instances) -> list[tuple[float, Sides]]:
    """Score and box of each; the box is that of the mask."""
    return [
        (round(float(score), 3), tuple(int(side) for side in box))
        for score, box in zip(instances.scores, instances.boxes, strict=True)
    ]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(WHOLE, 0.5, (5, 5, 15, 15))], [(0.5, (5, 5, 15, 15))], id="in the whole alone"),
        pytest.param([(LEFT, 0.5, (5, 5, 15, 15))], [(0.5, (5, 5, 15, 15))], id="in a tile alone"),
        pytest.param([(LEFT, 0.5, (30, 5, 60, 15))], [(0.5, (30, 5, 60, 15))], id="a piece alone"),
        pytest.param(
            [(WHOLE, 0.9, (4, 4, 16, 16)), (LEFT, 0.5, (5, 5, 15, 15))],
            [(0.9, (5, 5, 15, 15))],
            id="uncut, the tile's mask and the best score",
        ),
        pytest.param(
            [(WHOLE, 0.4, (10, 4, 90, 16)), (LEFT, 0.5, (11, 5, 60, 15)), (RIGHT, 0.6, (40, 5, 89, 15))],
            [(0.6, (10, 4, 90, 16))],
            id="cut everywhere, the mask of the whole",
        ),
        pytest.param(
            [(LEFT, 0.5, (11, 5, 60, 15)), (RIGHT, 0.6, (40, 5, 89, 15))],
            [(0.6, (11, 5, 89, 15))],
            id="cut everywhere and missed by the whole, the pieces together",
        ),
        pytest.param(
            [(LEFT, 0.5, (30, 5, 58, 15)), (RIGHT, 0.6, (40, 5, 58, 15))],
            [(0.6, (30, 5, 58, 15))],
            id="cut by one, uncut in the other",
        ),
        pytest.param(
            [(LEFT, 0.9, (45, 5, 55, 15)), (RIGHT, 0.6, (45, 5, 55, 14))],
            [(0.9, (45, 5, 55, 15))],
            id="uncut in both, the better",
        ),
        pytest.param(
            [(LEFT, 0.9, (42, 5, 50, 15)), (RIGHT, 0.6, (50, 5, 58, 15))],
            [(0.9, (42, 5, 50, 15)), (0.6, (50, 5, 58, 15))],
            id="side by side",
        ),
        pytest.param(
            [(LEFT, 0.9, (10, 5, 60, 15)), (RIGHT, 0.6, (40, 10, 90, 20))],
            [(0.9, (10, 5, 60, 15)), (0.6, (40, 10, 90, 20))],
            id="pieces that agree in a third of what both see",
        ),
        pytest.param(
            [(LEFT, 0.9, (10, 5, 60, 15)), (RIGHT, 0.6, (40, 7, 90, 17))],
            [(0.9, (10, 5, 90, 17))],
            id="pieces that agree in two thirds",
        ),
        pytest.param(
            [(WHOLE, 0.9, (10, 10, 30, 40)), (LEFT, 0.6, (10, 10, 30, 20))],
            [(0.9, (10, 10, 30, 40)), (0.6, (10, 10, 30, 20))],
            id="one uncut within another stays",
        ),
        pytest.param(
            [(WHOLE, 0.3, (10, 10, 90, 50)), (LEFT, 0.9, (50, 10, 60, 20))],
            [(0.3, (10, 10, 90, 50))],
            id="a piece within a whole is a part of it",
        ),
        pytest.param(
            [(WHOLE, 0.3, (10, 10, 55, 50)), (LEFT, 0.9, (52, 10, 60, 20))],
            [(0.9, (52, 10, 60, 20)), (0.3, (10, 10, 55, 50))],
            id="a piece that lies mostly elsewhere",
        ),
        pytest.param(
            [(WHOLE, 0.9, (0, 10, 40, 20)), (LEFT, 0.5, (0, 10, 13, 20)), (LEFT, 0.6, (14, 10, 27, 20))],
            [(0.6, (14, 10, 27, 20)), (0.5, (0, 10, 13, 20))],
            id="a group from afar",
        ),
        pytest.param(
            [(WHOLE, 0.9, (0, 10, 40, 20)), (LEFT, 0.5, (0, 10, 9, 20)), (LEFT, 0.6, (14, 10, 23, 20))],
            [(0.9, (0, 10, 40, 20)), (0.6, (14, 10, 23, 20)), (0.5, (0, 10, 9, 20))],
            id="no group, where they fill less than half of it",
        ),
        pytest.param(
            [(LEFT, 0.5, (45, 5, 55, 15)), (LEFT, 0.4, (45, 5, 55, 14)), (RIGHT, 0.6, (80, 5, 90, 15))],
            [(0.6, (80, 5, 90, 15)), (0.5, (45, 5, 55, 15)), (0.4, (45, 5, 55, 14))],
            id="what one view shows twice is left to it",
        ),
    ],
)
def test_merge_views(seen: list[Seen], expected: list[tuple[float, Sides]]):
    merged = merge_views(parts(seen), VIEWS)
    assert listed(merged) == expected
    whole_frame = [rectangle(*sides, size=SIZE) for _, sides in expected]
    assert all((mask & ~box).sum() == 0 for mask, box in zip(merged.masks, whole_frame, strict=True))


TWO_PIECES = [(LEFT, 0.5, (11, 5, 60, 15)), (RIGHT, 0.6, (40, 5, 89, 15))]


@pytest.mark.parametrize(
    ("phrases", "groups", "expected"),
    [
        pytest.param((0, 0), None, ["a dog"], id="one phrase"),
        pytest.param((0, 1), None, ["a cat", "a dog"], id="two phrases"),
        pytest.param((0, 2), (0, 1, 0), ["a hound"], id="synonyms, and the better of them"),
        pytest.param((0, 1), (0, 1, 0), ["a cat", "a dog"], id="no synonyms"),
    ],
)
def test_what_means_the_same_is_joined(phrases: tuple[int, ...], groups: tuple[int, ...] | None, expected: list[str]):
    assert merge_views(parts(TWO_PIECES, phrases), VIEWS, groups).labels.tolist() == expected


def test_pieces_together_are_all_their_pixels():
    merged = merge_views(parts([(LEFT, 0.9, (10, 5, 60, 15)), (RIGHT, 0.6, (40, 7, 90, 17))]), VIEWS)
    expected = rectangle(10, 5, 60, 15, size=SIZE) | rectangle(40, 7, 90, 17, size=SIZE)
    np.testing.assert_array_equal(merged.masks, expected[None])
    assert merged.rles[0] == encode_rle(expected[None])[0]


def test_nearly_one_box_is_one_object():
    """The second mask has lost most of its inside, so that the masks agree in less than half."""
    full = rectangle(42, 5, 58, 25, size=SIZE)
    hollow = full & ~rectangle(44, 7, 56, 23, size=SIZE)
    both = [
        Instances.from_masks(
            PHRASES, SIZE, encode_rle(mask[None]), np.array([0]), np.array([score], np.float32), "text"
        )
        for mask, score in ((full, 0.6), (hollow, 0.5))
    ]
    merged = merge_views([parts([])[0], *both], VIEWS)
    np.testing.assert_array_equal(merged.masks, full[None])


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)], ids=str)
def test_the_order_of_the_tiles_does_not_matter(order: tuple[int, ...]):
    seen = parts(
        [(WHOLE, 0.3, (1, 1, 9, 9)), *TWO_PIECES, (LEFT, 0.8, (45, 30, 55, 40)), (RIGHT, 0.7, (45, 30, 55, 41))]
    )
    assert_same(merge_views([seen[i] for i in order], VIEWS[list(order)]), merge_views(seen, VIEWS))


@pytest.mark.parametrize("gap", [0, 1, 2], ids=lambda gap: f"{gap} pixels before the border")
def test_a_mask_that_nearly_reaches_the_border_is_cut(gap: int):
    views = VIEWS * 10  # a hundredth of a tile is six pixels
    size = (600, 1000)
    masks = np.stack([rectangle(110, 50, 600 - gap, 150, size=size), rectangle(400 + gap, 50, 890, 150, size=size)])
    each = [
        Instances.from_masks(PHRASES, size, encode_rle(mask[None]), np.array([0]), np.array([0.5], np.float32), "text")
        for mask in masks
    ]
    merged = merge_views([Instances.empty(PHRASES, size), *each], views)
    np.testing.assert_array_equal(merged.masks, masks.any(axis=0)[None])


@pytest.mark.parametrize(
    ("given", "views", "message"),
    [
        pytest.param([], VIEWS[:0], "must be one or more with the same phrases and image size", id="no view"),
        pytest.param(parts([]), VIEWS[:2], "one per view, 2, got 3", id="a part too many"),
        pytest.param(
            [*parts([])[:2], Instances.empty(PHRASES, (5, 5))],
            VIEWS,
            "must be one or more with the same phrases and image size",
            id="another image",
        ),
    ],
)
def test_errors(given: list[Instances], views: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        merge_views(given, views)
