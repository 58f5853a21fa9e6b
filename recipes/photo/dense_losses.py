"""The losses of the one-stage detector, over all cells of an embedding."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from grounded.models.detectors.one_stage_head import OneStageHead
from grounded.training.one_stage_losses import CellTargets, one_stage_losses
from recipes.photo.augment import Batch

MIDDLE = 0.6  # of a teacher's box along each side, in which it is taken to be right


def dense_losses(
    head: OneStageHead,
    features: Float[Tensor, "b c h w"],
    batch: Batch,
    words: Float[Tensor, "v d"],
    absent: Bool[Tensor, "sources v"],
) -> dict[str, Tensor]:
    """Return the parts of the loss by name.

    Args:
        head: of the detector.
        features: embeddings of the images of the batch.
        batch: images, objects and hints.
        words: embeddings of all names, of unit length.
        absent: which names may be told to be absent in the images of each source.
    """
    side, grid = batch.labels.shape[-1], features.shape[-1]
    cell = side // grid
    middle = batch.labels[:, cell // 2 :: cell, cell // 2 :: cell].flatten(1)  # (b, cells), the object of each
    hidden = head.tower(features)
    cells = head.read(hidden)
    parts = {
        "fore": F.binary_cross_entropy_with_logits(head.fore(hidden)[:, 0].flatten(1).float(), (middle > 0).float()),
        "edge": _edge_loss(head.edge(features).float(), batch.labels),
    }
    hints = _hinted_cells(batch.hints, middle, side, grid, len(words))
    truth = object_boxes(batch.labels).gather(1, middle[..., None].expand(-1, -1, 4))
    truth = torch.where(hints.is_sure[..., None], hints.boxes, truth)
    own = batch.names.gather(1, middle)
    named = F.one_hot(own.clamp(min=0), len(words)) * (own >= 0)[..., None]
    target = named.bool() | hints.named
    known = (own >= 0) | hints.is_sure
    counts = (absent[batch.sources][:, None] & ~hints.doubtful) | target
    counts = counts & ~((middle > 0) & ~known)[..., None]  # an object without a name says nothing
    targets = CellTargets(truth, (middle > 0) | hints.is_sure, target, counts)
    return parts | one_stage_losses(head, features, cells, targets, words)


def object_boxes(labels: Int64[Tensor, "b s s"]) -> Float[Tensor, "b 256 4"]:
    """Tight boxes of the objects, xyxy in sides of the frame; those that are not there are inverted."""
    b, side, _ = labels.shape
    rows = (labels + 256 * torch.arange(b, device=labels.device)[:, None, None]).flatten()
    steps = torch.arange(side, device=labels.device, dtype=torch.float32)
    x, y = steps[None].expand(side, -1), steps[:, None].expand(-1, side)

    def extreme(values: Tensor, how: str, start: float) -> Tensor:
        empty = torch.full((b * 256,), start, device=labels.device)
        return empty.scatter_reduce(0, rows, values.expand(b, -1, -1).flatten(), how).view(b, 256)

    low = [extreme(values, "amin", float(side)) for values in (x, y)]
    high = [extreme(values, "amax", -1.0) + 1 for values in (x, y)]
    return torch.stack([*low, *high], dim=-1) / side


def _edge_loss(edges: Float[Tensor, "b 16 h w"], labels: Int64[Tensor, "b s s"]) -> Tensor:
    """Outlines of objects at half the resolution of the frame; they are rare, and weigh four times."""
    half = labels[:, 1::2, 1::2]
    truth = torch.zeros_like(half, dtype=torch.float32)
    truth[:, :, 1:] = (half[:, :, 1:] != half[:, :, :-1]).float()
    truth[:, 1:] = torch.maximum(truth[:, 1:], (half[:, 1:] != half[:, :-1]).float())
    weight = torch.tensor(4.0, device=edges.device)
    return F.binary_cross_entropy_with_logits(F.pixel_shuffle(edges, 4)[:, 0], truth, pos_weight=weight)


@dataclass(frozen=True, eq=False)
class _HintedCells:
    """What a teacher's boxes say of each cell.

    is_sure   whether it lies in the middle of a box that is sure, and on no annotated object
    boxes     the smallest such box, xyxy in sides of the frame
    named     which names these boxes have
    doubtful  which names any box around it has, so that they cannot be told to be absent
    """

    is_sure: Bool[Tensor, "b cells"]
    boxes: Float[Tensor, "b cells 4"]
    named: Bool[Tensor, "b cells v"]
    doubtful: Bool[Tensor, "b cells v"]


def _hinted_cells(
    hints: Float[Tensor, "b j 6"], objects: Int64[Tensor, "b cells"], side: int, grid: int, names: int
) -> _HintedCells:
    centres = (torch.arange(grid, device=hints.device) + 0.5) / grid
    x, y = centres.repeat(grid), centres.repeat_interleave(grid)
    boxes, ids = hints[..., :4] / side, hints[..., 4]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2

    def within(share: float) -> Bool[Tensor, "b j cells"]:
        near_x = (x - middle[..., :1]).abs() < share * half[..., :1]
        near_y = (y - middle[..., 1:]).abs() < share * half[..., 1:]
        return near_x & near_y & (ids >= 0)[..., None]

    sure = within(MIDDLE) & (hints[..., 5:] > 0) & (objects == 0)[:, None]
    one_hot = F.one_hot(ids.clamp(min=0).long(), names).float()
    areas = torch.where(sure, half.prod(dim=-1)[..., None], torch.inf)
    smallest = areas.argmin(dim=1)
    return _HintedCells(
        is_sure=sure.any(dim=1),
        boxes=boxes.gather(1, smallest[..., None].expand(-1, -1, 4)),
        named=torch.einsum("bjn,bjv->bnv", sure.float(), one_hot) > 0,
        doubtful=torch.einsum("bjn,bjv->bnv", within(1.0).float(), one_hot) > 0,
    )
