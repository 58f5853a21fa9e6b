"""Decoding within windows: the same answers where a window is the whole frame, and the same frame everywhere."""

import pytest
import torch

from recipes.tiny.segany_size import config_for
from recipes.tiny.windows import WindowDecoder, cut, place_windows
from segany import Prompts, SegAny
from segany.training.rounds import interactive_rounds

CONFIG = config_for(256)
GRID, CELL = CONFIG.grid_size, CONFIG.patch_size
POINTS = {"points": [[[70.0, 60.0]], [[90.0, 100.0]]], "point_labels": [[1], [1]]}


@pytest.fixture(scope="module")
def model() -> SegAny:
    torch.manual_seed(0)
    return SegAny(CONFIG)


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(2, CONFIG.prompt_dim, GRID, GRID, generator=torch.Generator().manual_seed(1))


def test_windows_hold_the_boxes_that_fit() -> None:
    torch.manual_seed(2)
    corner = torch.rand(500, 2) * GRID * 0.6
    boxes = torch.cat([corner, corner + torch.rand(500, 2) * 11 + 1], 1)
    first = place_windows(boxes, GRID, 13)
    assert ((first >= 0) & (first <= GRID - 13)).all()
    assert (first <= boxes[:, :2]).all() and (boxes[:, 2:] <= first + 13).all()
    assert len(first.unique(dim=0)) > 200  # they are not always in the same place


def test_a_window_lies_within_a_box_that_does_not_fit() -> None:
    first = place_windows(torch.tensor([[2.0, 3.0, 30.0, 31.0]] * 50), GRID, 16)
    assert (first >= torch.tensor([2, 3])).all() and (first + 16 <= torch.tensor([30, 31])).all()


def test_parts_start_at_their_corners() -> None:
    maps = torch.arange(2 * 6 * 6).view(2, 1, 6, 6)
    parts = cut(maps, torch.tensor([[1, 2], [3, 0]]), 3)
    assert parts.shape == (2, 1, 3, 3)
    assert parts[0, 0, 0, 0] == maps[0, 0, 2, 1] and parts[1, 0, 2, 2] == maps[1, 0, 2, 5]


@pytest.mark.parametrize("multimask_output", [True, False, None])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_the_whole_frame_gives_the_answers_of_the_model(model, features, multimask_output, masked) -> None:
    masks = torch.randn(2, 1, CONFIG.low_res_size, CONFIG.low_res_size) if masked else None
    prompts = Prompts(**POINTS, masks=masks)
    expected, expected_iou = model.decode(features, prompts, multimask_output)
    decoder = WindowDecoder(model, torch.zeros(2, 2, dtype=torch.int64), GRID)
    logits, predicted_iou = decoder.decode(features, prompts, multimask_output)
    assert logits.dtype == predicted_iou.dtype == torch.float32 and logits.shape == expected.shape
    # It decodes in bfloat16, which keeps eight bits.
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    assert (predicted_iou - expected_iou).abs().max() < 0.05 * expected_iou.abs().max()


@torch.no_grad()
def test_positions_stay_those_in_the_whole_frame(model, features) -> None:
    """Where the cells outside of a window count for little, its logits are those parts of the whole frame's."""
    corners = torch.tensor([[3, 5], [8, 2]])
    decoder = WindowDecoder(model, corners, 20)
    prompts = Prompts(**POINTS, boxes=[[40, 44, 90, 88], [70, 60, 140, 130]])
    moved = decoder.shift(prompts, -1)
    assert torch.equal(moved.points[:, 0], prompts.points[:, 0] - corners * CELL)
    assert torch.equal(decoder.shift(moved, 1).boxes, prompts.boxes)
    tokens = model.prompt_encoder(decoder.shift(moved, 1)).sparse
    assert torch.equal(tokens, model.prompt_encoder(prompts).sparse)
    code = model.prompt_encoder.dense_position_code()[0]
    assert torch.equal(decoder.position_code[0], code[:, 5:25, 3:23])


def test_the_rounds_run_in_windows(model, features) -> None:
    corners = torch.tensor([[2, 2], [4, 6]])
    decoder = WindowDecoder(model, corners, 16)
    truths = torch.zeros(2, 64, 64)
    truths[:, 20:40, 20:40] = 1
    prompts = decoder.shift(Prompts(**POINTS), -1)
    answers = list(interactive_rounds(decoder, cut(features, corners, 16), prompts, truths, 4, middle_share=1.0))
    assert len(answers) == 4
    for answer in answers:
        assert answer.logits.shape == (2, 1, 64, 64) and torch.isfinite(answer.total)
    answers[-1].total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.mask_decoder.parameters() if p.grad is not None)
