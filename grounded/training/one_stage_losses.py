"""The losses of the one-stage detector: what each cell of an embedding is, and where its object ends.

The box of a cell learns by generalised IoU, its quality by the IoU that it reaches, and its embedding by a focal loss
against the embeddings of names (Li et al., 2020, quality focal loss, with hard targets). A large object covers hundreds
of cells and a small one a dozen: the cells of an object weigh less the more of them there are. Where the head refines
boxes, some cells of every object and the likeliest mistakes are looked at again, with the same losses.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from grounded.models.detectors.one_stage_head import Cells, OneStageHead, take_rows
from segany.training.losses import sigmoid_focal
from segany.utils.boxes import generalised_iou

_FOCUS = 1.5  # exponent of the distance from the truth
_FEWEST = 50  # cells by which the loss of words is divided at least, so that images with little in them count little
_BOXES, _WORDS = 2.0, 0.5  # weights
_BALANCE = 0.75  # 0: all cells weigh alike; 1: all objects do
_REFINED = 128  # cells on objects of an embedding, and beside them, that are looked at again
_GOLDEN = 0.6180339887  # its multiples scatter evenly


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

    def at(self, rows: Int64[Tensor, "b m"]) -> "CellTargets":
        """Return those of m cells of each embedding."""
        return CellTargets(*(take_rows(values, rows) for values in vars(self).values()))


def one_stage_losses(
    head: OneStageHead,
    features: Float[Tensor, "b c h w"],
    cells: Cells,
    targets: CellTargets,
    words: Float[Tensor, "v d"],
) -> dict[str, Tensor]:
    """Return the parts of the loss by name: those of `cell_losses`, and as "refined ..." the mean of those of each
    round of refinement.

    Args:
        head: the network.
        features: the embeddings.
        cells: its answers for all of their cells.
        targets: the truth.
        words: embeddings of the v names, of unit length.
    """
    parts = cell_losses(head, cells, targets, words, cell_weights(targets))
    if head.refinement is None:
        return parts
    rows = cells_to_refine(head, cells, targets, words)
    rounds, own = head.refine(features, cells, rows), targets.at(rows)
    losses = [cell_losses(head, refined, own, words, torch.ones_like(refined.quality)) for refined in rounds]
    return parts | {f"refined {name}": torch.stack([one[name] for one in losses]).mean() for name in parts}


def cell_losses(
    head: OneStageHead,
    cells: Cells,
    targets: CellTargets,
    words: Float[Tensor, "v d"],
    weights: Float[Tensor, "b n"],
) -> dict[str, Tensor]:
    """Return the parts of the loss of these cells, of given weights: "sides", "quality" and "word"."""
    on = targets.has_box.float()
    iou, giou = generalised_iou(cells.boxes, targets.boxes)
    quality = iou.detach().clamp(0, 1) * on
    loss = sigmoid_focal(head.logits(cells.embeddings, words), targets.named.float(), gamma=_FOCUS)
    loss = loss * targets.counts * weights[..., None]
    return {
        "sides": _BOXES * ((1 - giou) * on * weights).sum() / on.sum().clamp(min=1),
        "quality": F.binary_cross_entropy_with_logits(cells.quality, quality, weights),
        "word": _WORDS * loss.sum() / targets.named.any(dim=-1).sum().clamp(min=_FEWEST),
    }


@torch.no_grad()
def cells_to_refine(
    head: OneStageHead, cells: Cells, targets: CellTargets, words: Float[Tensor, "v d"]
) -> Int64[Tensor, "b m"]:
    """Return which cells of each embedding to look at again: as many on objects as beside them.

    Those on objects are scattered over them, more to a large one but not in proportion; those beside are the ones with
    the highest scores.
    """
    count = min(_REFINED, cells.quality.shape[1] // 2)
    steps = torch.arange(cells.quality.shape[1], device=words.device)
    scattered = ((steps + 1) * _GOLDEN).frac().clamp(1e-6, 1 - 1e-6)
    # The highest of log weight plus Gumbel noise are a sample by weight (Vieira, 2014); the noise is that of the place.
    keys = cell_weights(targets).log() - (-scattered.log()).log()
    on = keys.masked_fill(~targets.has_box, -torch.inf).topk(count).indices
    logits = head.logits(cells.embeddings, words).masked_fill(~targets.counts, -torch.inf)
    scores = logits.amax(dim=-1).sigmoid() * cells.quality.sigmoid()
    beside = scores.masked_fill(targets.has_box, -1.0).topk(count).indices
    return torch.cat([on, beside], dim=1)


def cell_weights(targets: CellTargets) -> Float[Tensor, "b n"]:
    """Return the weights of cells: 1 beside all objects, and 1 on average on those, more on small ones."""
    cells = targets.boxes.shape[1] * (targets.boxes[..., 2:] - targets.boxes[..., :2]).clamp(min=0).prod(dim=-1)
    weights = cells.clamp(min=1) ** -_BALANCE * targets.has_box
    mean = weights.sum() / targets.has_box.sum().clamp(min=1)
    return torch.where(targets.has_box, weights / mean.clamp(min=1e-9), 1.0)


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

    def distance(own: Cells, old: Cells) -> Tensor:
        target = before.logits(old.embeddings, words).sigmoid()
        loss = sigmoid_focal(head.logits(own.embeddings, words), target, gamma=_FOCUS)
        return _WORDS * loss.sum() / target.sum().clamp(min=_FEWEST)

    with torch.no_grad():
        old = before(features)
    if head.refinement is None:
        return distance(cells, old)
    # Of refined boxes, the answers where the old head is the surest.
    with torch.no_grad():
        sure = before.logits(old.embeddings, words).amax(dim=-1).sigmoid() * old.quality.sigmoid()
        rows = sure.topk(min(2 * _REFINED, sure.shape[1])).indices
        old_refined = before.refine(features, old, rows)[-1]
    return distance(cells, old) + distance(head.refine(features, cells, rows)[-1], old_refined)
