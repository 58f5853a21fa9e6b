"""Losses of the tiny detector: set prediction for every layer, box denoising, and a dense phrase loss on the encoder.

The loss inside transformers is not used: it shifts the targets of differing prompts in a batch and leaves the first
stage without gradient.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segany.training.losses import sigmoid_focal
from segany.utils.boxes import cxcywh_to_xyxy


@dataclass(frozen=True)
class Truth:
    """One image's objects: boxes cxcywh in 0..1 and the tokens of the phrase that names each."""

    boxes: Tensor  # (k, 4)
    tokens: Tensor  # (k, t) bool


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of cxcywh boxes whose leading axes broadcast."""
    a, b = cxcywh_to_xyxy(first), cxcywh_to_xyxy(second)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area_a + area_b - inner
    return inner / union.clamp(min=1e-7) - (outer - union) / outer.clamp(min=1e-7)


def pairwise_giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of all pairs of (n, 4) and (m, 4) cxcywh boxes, (n, m)."""
    return giou(first[:, None], second[None])


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Hungarian matching (Carion et al. 2020) of one image: rows of the predictions and of the truth."""
    tokens = truth.tokens.float()
    probability = logits.sigmoid()
    positive = 0.25 * (1 - probability) ** 2 * -(probability + 1e-8).log()
    negative = 0.75 * probability**2 * -(1 - probability + 1e-8).log()
    kind = (positive - negative) @ (tokens / tokens.sum(-1, keepdim=True)).T
    cost = 2 * kind + 5 * torch.cdist(boxes, truth.boxes, p=1) - 2 * pairwise_giou(boxes, truth.boxes)
    rows, columns = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


@torch.no_grad()
def match_by_place(references: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Each true box gets the reference box that lies on it best."""
    rows, columns = linear_sum_assignment(-pairwise_giou(references, truth.boxes).numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def set_loss(
    logits: Tensor, boxes: Tensor, text_mask: Tensor, truths: list[Truth], pairs: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Focal loss over tokens, L1 and generalised IoU of matched boxes, per true object.

    logits (b, q, t), boxes (b, q, 4) cxcywh, text_mask (b, t) bool.
    """
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


def noised_references(truths: list[Truth], queries: int) -> Tensor:
    """Boxes around the true ones for the denoising pass (DN-DETR, Li et al. 2022), (b, queries, 4) cxcywh.

    The noise grows from copy to copy; images without objects get boxes anywhere.
    """
    references = torch.rand(len(truths), queries, 4) * torch.tensor([1.0, 1.0, 0.4, 0.4])
    references[..., 2:] += 0.05
    for index, truth in enumerate(truths):
        count = len(truth.boxes)
        if count == 0:
            continue
        source = truth.boxes.repeat(-(-queries // count), 1)[:queries]
        strength = torch.linspace(0.05, 0.6, queries)[:, None]
        size = source[:, 2:]
        center = source[:, :2] + (torch.rand(queries, 2) * 2 - 1) * size * 0.5 * strength
        references[index] = torch.cat([center, size * (1 + (torch.rand(queries, 2) * 2 - 1) * strength)], -1)
    return references.clamp(0.01, 0.99)


def dense_phrase_loss(
    vision: Tensor, text: Tensor, text_mask: Tensor, coverage: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Every cell should agree with the tokens of what covers it, and with no others.

    vision (b, n, d), text (b, t, d), coverage (b, n, t): the share of the cell covered by objects that the token's
    phrase names. This one-to-many task teaches the backbone and encoder long before the set loss does (in the spirit of
    Co-DETR, Zong et al. 2023).
    """
    logits = F.normalize(vision, dim=-1) @ F.normalize(text, dim=-1).transpose(1, 2) * scale.exp() + bias
    weights = text_mask[:, None].float()
    loss = F.binary_cross_entropy_with_logits(logits, coverage, reduction="none") * (coverage - logits.sigmoid()).abs()
    return (loss * weights).sum() / coverage.sum().clamp(min=1)
