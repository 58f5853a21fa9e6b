"""The losses of the one-stage detector: what cells of small and of large objects weigh, and images without objects."""

import pytest
import torch

from grounded.models.detectors.one_stage_head import OneStageConfig, OneStageHead
from grounded.training.one_stage_losses import CellTargets, cell_losses, cell_weights

GRID, NAMES = 16, 3
CONFIG = OneStageConfig(dim=8, width=12, groups=3, text_dim=6)


def targets(sides: list[int]) -> CellTargets:
    """Square objects of so many cells a side, one to an image, each of the first name."""
    boxes = torch.zeros(len(sides), GRID * GRID, 4)
    has_box = torch.zeros(len(sides), GRID, GRID, dtype=torch.bool)
    for row, side in enumerate(sides):
        boxes[row] = torch.tensor([0, 0, side, side]) / GRID
        has_box[row, :side, :side] = True
    named = has_box.flatten(1)[..., None] & (torch.arange(NAMES) == 0)
    return CellTargets(boxes, has_box.flatten(1), named, torch.ones_like(named))


def test_cells_of_a_small_object_weigh_more() -> None:
    asked = targets([2, 8, 0])
    weights = cell_weights(asked)
    small, large = weights[0, asked.has_box[0]], weights[1, asked.has_box[1]]
    assert small.unique().numel() == large.unique().numel() == 1
    assert (small[0] / large[0]).item() == pytest.approx((64 / 4) ** 0.75, rel=1e-4)
    # The large one still weighs more in all, and no object changes what the others' background weighs.
    assert large.sum() > small.sum()
    assert weights[asked.has_box].mean().item() == pytest.approx(1, rel=1e-5)
    assert bool((weights[~asked.has_box] == 1).all())


@pytest.mark.parametrize("sides", [[0], [3], [16, 1]])
def test_losses_are_finite_and_reach_every_part(sides: list[int]) -> None:
    torch.manual_seed(0)
    head = OneStageHead(CONFIG)
    cells = head(torch.randn(len(sides), CONFIG.dim, GRID, GRID))
    words = torch.nn.functional.normalize(torch.randn(NAMES, CONFIG.text_dim), dim=-1)
    parts = cell_losses(head, cells, targets(sides), words)
    assert set(parts) == {"sides", "quality", "word"} and all(part.isfinite() for part in parts.values())
    assert (parts["sides"] == 0) == (sides == [0])
    torch.stack(list(parts.values())).sum().backward()
    reached = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    assert {"word.weight", "sides.weight", "quality.weight", "scale", "bias"} <= reached
