"""Boxes and clicks as maps: where they lie to the pixel, and what the prompt encoder makes of them."""

from dataclasses import replace

import pytest
import torch

from segany import Prompts, SegAny
from segany.modeling.prompt_maps import BOX_LOGIT, box_maps, click_maps
from tests.segany import reference
from tests.segany.reference import SMALL, assert_close

IMAGE, SIZE = 64, 16  # a pixel of the map covers four of the frame along a side


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([8, 16, 24, 32], [(4, 8, 2, 6, 1.0)]),
        ([8, 16, 26, 32], [(4, 8, 2, 6, 1.0), (4, 8, 6, 7, 0.5)]),
        ([9, 17, 11, 18], [(4, 5, 2, 3, 2 / 16)]),  # within one pixel of the map
        ([-40, -40, 100, 8], [(0, 2, 0, 16, 1.0)]),  # beyond the frame
        ([24, 24, 24, 24], []),
        ([30, 30, 20, 20], []),  # inverted
    ],
)
def test_a_box_covers_its_share_of_each_pixel(box, inside) -> None:
    covered = torch.zeros(SIZE, SIZE)
    for top, bottom, left, right, share in inside:
        covered[top:bottom, left:right] = share
    (found,) = box_maps(torch.tensor([box], dtype=torch.float32), IMAGE, SIZE)[:, 0]
    assert_close(found, BOX_LOGIT * (2 * covered - 1), 1e-6)


def test_clicks_are_where_they_were_made() -> None:
    points = torch.tensor([[[9.5, 29.5], [53.5, 5.5]], [[9.5, 29.5], [0, 0]], [[5, 5], [9, 9]]])
    given = torch.tensor([[True, True], [True, False], [False, False]])
    maps = click_maps(points, given, IMAGE, SIZE)
    assert maps.shape == (3, SIZE, SIZE)
    assert maps[0, 7, 2].item() == maps[1, 7, 2].item() == pytest.approx(1)  # pixel 2 has its centre at 9.5
    assert maps[0, 1, 13].item() == pytest.approx(1)
    assert maps[1].sum() < maps[0].sum() and not maps[2].any()
    assert maps.max() <= 1 and not click_maps(points[:, :0], given[:, :0], IMAGE, SIZE).any()


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return reference.perturb(SegAny(replace(SMALL, dense_prompts=True))).prompt_encoder


@torch.no_grad()
def test_a_box_is_a_mask_prompt_unless_there_is_one(encoder) -> None:
    boxes = torch.tensor([[10.0, 20, 200, 90], [5, 5, 9, 9]])
    filled = box_maps(boxes, SMALL.image_size, SMALL.low_res_size)
    dense = encoder(Prompts(boxes=boxes)).dense
    assert_close(dense, encoder(Prompts(masks=filled)).dense, 1e-6)
    masks = torch.randn(2, 1, SMALL.low_res_size, SMALL.low_res_size)
    assert torch.equal(encoder(Prompts(boxes=boxes, masks=masks)).dense, encoder(Prompts(masks=masks)).dense)


@torch.no_grad()
def test_padding_is_no_click(encoder) -> None:
    points = torch.tensor([[[10.0, 20], [30, 40]], [[10, 20], [30, 40]], [[10, 20], [30, 40]]])
    dense = encoder(Prompts(points=points, point_labels=[[1, -1], [1, 0], [-1, -1]])).dense
    alone = encoder(Prompts(points=points[:1, :1], point_labels=[[1]])).dense
    assert torch.equal(dense[0], alone[0]) and not torch.equal(dense[1], alone[0])
    nothing = encoder.no_mask_embed.weight[0, :, None, None]
    assert torch.equal(dense[2], nothing.expand_as(dense[2]))


@torch.no_grad()
def test_at_first_clicks_change_nothing() -> None:
    with_maps, without = (SegAny(replace(SMALL, dense_prompts=on)).prompt_encoder for on in (True, False))
    without.load_state_dict({key: value for key, value in with_maps.state_dict().items() if "click" not in key})
    prompts = Prompts(points=torch.rand(3, 2, 2) * SMALL.image_size, point_labels=[[1, 0]] * 3)
    assert torch.equal(with_maps(prompts).dense, without(prompts).dense.expand(3, -1, -1, -1))


@pytest.mark.parametrize("on", [False, True])
def test_which_prompts_change_the_cells(on: bool) -> None:
    encoder = SegAny(replace(SMALL, dense_prompts=on, text_dim=8)).prompt_encoder
    assert encoder.has_dense(Prompts(boxes=torch.rand(1, 4))) is on
    assert encoder.has_dense(Prompts(points=torch.rand(1, 1, 2), point_labels=[[1]])) is on
    assert not encoder.has_dense(Prompts(text=torch.rand(1, 1, 8)))
    assert encoder.has_dense(Prompts(masks=torch.rand(1, 1, 4, 4)))
