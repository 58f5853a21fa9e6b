"""Losses of Grounding DINO: set prediction for every layer, and the boxes of its denoising pass.

The loss inside transformers is not used: it shifts the targets of differing prompts in a batch and leaves the first
stage without gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segany.training.losses import sigmoid_focal
from segany.utils.boxes import cxcywh_to_xyxy, generalised_iou

Pairs = tuple[Int[Tensor, "m"], Int[Tensor, "m"]]
"""Rows of the predictions and of the truth that belong together."""


@dataclass(frozen=True)
class Truth:
    """One image's objects: boxes cxcywh in 0..1 and the tokens of the phrase that names each."""

    boxes: Float[Tensor, "k 4"]
    tokens: Bool[Tensor, "k t"]


def giou(first: Float[Tensor, "*#n 4"], second: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n"]:
    """Generalised IoU (Rezatofighi et al., 2019) of cxcywh boxes whose leading axes broadcast."""
    return generalised_iou(cxcywh_to_xyxy(first), cxcywh_to_xyxy(second))[1]


def pairwise_giou(first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Generalised IoU of all pairs of cxcywh boxes."""
    return giou(first[:, None], second[None])


@torch.no_grad()
def match(logits: Float[Tensor, "q t"], boxes: Float[Tensor, "q 4"], truth: Truth) -> Pairs:
    """Hungarian matching (Carion et al., 2020) of one image, by the costs of DINO: focal, L1 and generalised IoU."""
    tokens = truth.tokens.float()
    probability = logits.sigmoid()
    positive = 0.25 * (1 - probability) ** 2 * -(probability + 1e-8).log()
    negative = 0.75 * probability**2 * -(1 - probability + 1e-8).log()
    kind = (positive - negative) @ (tokens / tokens.sum(-1, keepdim=True).clamp(min=1)).T
    cost = 2 * kind + 5 * torch.cdist(boxes, truth.boxes, p=1) - 2 * pairwise_giou(boxes, truth.boxes)
    return _assign(cost)


@torch.no_grad()
def match_by_place(references: Float[Tensor, "q 4"], truth: Truth) -> Pairs:
    """Each true box gets the reference box that lies on it best."""
    return _assign(-pairwise_giou(references, truth.boxes))


def _assign(cost: Float[Tensor, "q k"]) -> Pairs:
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


def set_loss(
    logits: Float[Tensor, "b q t"],
    boxes: Float[Tensor, "b q 4"],
    text_mask: Bool[Tensor, "b t"],
    truths: Sequence[Truth],
    pairs: Sequence[Pairs],
) -> Float[Tensor, ""]:
    """Focal loss over tokens, L1 and generalised IoU of matched boxes, per true object; boxes are cxcywh in 0..1."""
    targets = torch.zeros_like(logits)
    predicted, wanted = [], []
    for index, (truth, (rows, columns)) in enumerate(zip(truths, pairs, strict=True)):
        targets[index, rows] = truth.tokens[columns].float()
        predicted.append(boxes[index, rows])
        wanted.append(truth.boxes[columns])
    count = max(sum(len(truth.boxes) for truth in truths), 1)
    kind = (sigmoid_focal(logits, targets, alpha=0.25) * text_mask[:, None]).sum() / count
    first, second = torch.cat(predicted), torch.cat(wanted)
    distance = F.l1_loss(first, second, reduction="sum") / count
    overlap = (1 - giou(first, second)).sum() / count
    return 2 * kind + 5 * distance + 2 * overlap


def noised_references(
    truths: Sequence[Truth], queries: int, generator: torch.Generator | None = None
) -> Float[Tensor, "b q 4"]:
    """Boxes around the true ones for the denoising pass (DN-DETR, Li et al., 2022), on the CPU.

    The noise grows from copy to copy; images without objects get boxes anywhere.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    references = uniform(len(truths), queries, 4) * torch.tensor([1.0, 1.0, 0.4, 0.4])
    references[..., 2:] += 0.05
    for index, truth in enumerate(truths):
        count = len(truth.boxes)
        if count == 0:
            continue
        source = truth.boxes.cpu().repeat(-(-queries // count), 1)[:queries]
        strength = torch.linspace(0.05, 0.6, queries)[:, None]
        size = source[:, 2:]
        centre = source[:, :2] + (uniform(queries, 2) * 2 - 1) * size * 0.5 * strength
        references[index] = torch.cat([centre, size * (1 + (uniform(queries, 2) * 2 - 1) * strength)], -1)
    return references.clamp(0.01, 0.99)
