"""The losses of the one-stage detector: what each cell of an embedding is, and where its object ends.

The box of a cell learns by generalised IoU, its quality by the IoU that it reaches, and its embedding by a focal loss
against the embeddings of names (Li et al., 2020, quality focal loss, with hard targets). A large object covers hundreds
of cells and a small one a dozen: the cells of an object weigh less the more of them there are.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from grounded.models.detectors.one_stage_head import Cells, OneStageHead, cell_boxes
from segany.utils.boxes import generalised_iou

FOCUS = 1.5  # exponent of the distance from the truth
_FEWEST = 50  # cells by which the loss of words is divided at least, so that images with little in them count little
_BOXES, _WORDS = 2.0, 0.5  # weights
_BALANCE = 0.75  # 0: all cells weigh alike; 1: all objects do


@dataclass(frozen=True, eq=False)
class CellTargets:
    """What the n cells of b embeddings are to say.

    boxes    of their objects, xyxy in sides of the model frame
    has_box  where there is one
    named    the names of the object
    counts   the names that are known to be right or wrong there; about the others a cell may say anything
    """

    boxes: Float[Tensor, "b n 4"]
    has_box: Bool[Tensor, "b n"]
    named: Bool[Tensor, "b n v"]
    counts: Bool[Tensor, "b n v"]


def cell_losses(
    head: OneStageHead, cells: Cells, targets: CellTargets, words: Float[Tensor, "v d"]
) -> dict[str, Tensor]:
    """Return the parts of the loss by name: "sides", "quality" and "word".

    Args:
        head: gives logits from embeddings.
        cells: its answers.
        targets: the truth.
        words: embeddings of the v names, of unit length.
    """
    on = targets.has_box.float()
    weights = cell_weights(targets)
    iou, giou = generalised_iou(cell_boxes(cells.reaches), targets.boxes)
    quality = iou.detach().clamp(0, 1) * on
    logits = head.logits(cells.words.flatten(2).transpose(1, 2), words)
    loss = focal_loss(logits, targets.named.float()) * targets.counts * weights[..., None]
    return {
        "sides": _BOXES * ((1 - giou) * on * weights).sum() / on.sum().clamp(min=1),
        "quality": F.binary_cross_entropy_with_logits(cells.quality.flatten(1), quality, weights),
        "word": _WORDS * loss.sum() / targets.named.any(dim=-1).sum().clamp(min=_FEWEST),
    }


def cell_weights(targets: CellTargets) -> Float[Tensor, "b n"]:
    """Return the weights of cells: 1 beside all objects, and 1 on average on those, more on small ones."""
    cells = targets.boxes.shape[1] * (targets.boxes[..., 2:] - targets.boxes[..., :2]).clamp(min=0).prod(dim=-1)
    weights = cells.clamp(min=1) ** -_BALANCE * targets.has_box
    mean = weights.sum() / targets.has_box.sum().clamp(min=1)
    return torch.where(targets.has_box, weights / mean.clamp(min=1e-9), 1.0)


def focal_loss(logits: Float[Tensor, "*n"], target: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Cross entropy with a target from 0 to 1, small where the answer is nearly right."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss * (target - logits.sigmoid()).abs() ** FOCUS


def kept_loss(
    head: OneStageHead,
    cells: Cells,
    before: OneStageHead,
    features: Float[Tensor, "b c h w"],
    words: Float[Tensor, "v d"],
) -> Tensor:
    """Return how far the answers for v names are from those of a head before training.

    Learning without forgetting (Li and Hoiem, 2016): what was learnt before needs no images of its own.
    """
    with torch.no_grad():
        old = before(features)
        target = before.logits(old.words.flatten(2).transpose(1, 2), words).sigmoid()
    loss = focal_loss(head.logits(cells.words.flatten(2).transpose(1, 2), words), target)
    return _WORDS * loss.sum() / target.sum().clamp(min=_FEWEST)
