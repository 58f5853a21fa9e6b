import colorsys
import re
from itertools import pairwise

import pytest

from grounded.ui.palette import own_colours


@pytest.mark.parametrize("count", [0, 1, 300])
def test_every_mask_has_a_colour_of_its_own(count: int):
    colours = own_colours(count)
    assert len(set(colours)) == count
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


def test_more_masks_leave_the_colours_of_the_others():
    assert own_colours(30)[:10] == own_colours(10)


def test_neighbours_are_far_apart():
    hues = [colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0] for c in own_colours(100)]
    assert min(min(abs(a - b), 1 - abs(a - b)) for a, b in pairwise(hues)) > 0.3
