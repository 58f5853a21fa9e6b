"""The losses of the one-stage detector: what cells of small and of large objects weigh, and images without objects."""

from dataclasses import replace

import pytest
import torch

from grounded.models.detectors.one_stage_head import OneStageConfig, OneStageHead
from grounded.training.one_stage_losses import CellTargets, cell_weights, cells_to_refine, kept_loss, one_stage_losses

GRID, NAMES = 16, 3
CONFIG = OneStageConfig(dim=8, width=12, groups=3, text_dim=6)
PARTS = {"sides", "quality", "word"}


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


def words() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(NAMES, CONFIG.text_dim), dim=-1)


@pytest.mark.parametrize("points", [0, 3])
@pytest.mark.parametrize("sides", [[0], [3], [16, 1]])
def test_losses_are_finite_and_reach_every_part(sides: list[int], points: int) -> None:
    torch.manual_seed(0)
    head = OneStageHead(replace(CONFIG, points=points))
    features = torch.randn(len(sides), CONFIG.dim, GRID, GRID)
    parts = one_stage_losses(head, features, head(features), targets(sides), words())
    assert set(parts) == PARTS | {f"refined {name}" for name in PARTS if points}
    assert all(part.isfinite() for part in parts.values())
    assert (parts["sides"] == 0) == (sides == [0])
    torch.stack(list(parts.values())).sum().backward()
    reached = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    last = ("word.weight", "sides.weight", "quality.weight")
    assert {*last, "scale", "bias"} <= reached
    assert not points or {f"refinement.{name}" for name in last} <= reached


def test_cells_to_refine_are_of_all_objects_and_of_the_likeliest_mistakes() -> None:
    torch.manual_seed(0)
    head = OneStageHead(CONFIG)
    cells, asked, names = head(torch.randn(3, CONFIG.dim, GRID, GRID)), targets([2, 14, 0]), words()
    cells.quality[:, -1], cells.embeddings[:, -1] = 9.0, names[1]  # the last cell is on no object, but sure of itself
    rows = cells_to_refine(head, cells, asked, names)
    on, beside = rows.chunk(2, dim=1)
    assert asked.has_box.gather(1, on).sum(dim=1).tolist() == [4, on.shape[1], 0]
    assert not asked.has_box.gather(1, beside[:1]).any() and (beside[:, 0] == GRID * GRID - 1).all()
    columns = on[1] % GRID
    assert columns.unique().numel() == 14 and on[1].unique().numel() == on.shape[1]


@pytest.mark.parametrize("points", [0, 3])
def test_a_head_that_has_not_changed_keeps_what_it_learnt(points: int) -> None:
    torch.manual_seed(0)
    head, other = (OneStageHead(replace(CONFIG, points=points)) for _ in range(2))
    features, names = torch.randn(2, CONFIG.dim, GRID, GRID), words()
    same, changed = (kept_loss(one, one(features), head, features, names) for one in (head, other))
    assert same < changed
    changed.backward()
    assert other.word.weight.grad is not None
