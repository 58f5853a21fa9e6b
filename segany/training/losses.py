"""Training losses of Segment Anything (Kirillov et al. 2023, section 3 and appendix A), each with one value per mask.

Ground-truth masks may be soft: the fraction of a low-resolution pixel that the mask covers.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FOCAL_WEIGHT, DICE_WEIGHT = 20.0, 1.0


def sigmoid_focal(
    logits: Float[Tensor, "*n"], targets: Float[Tensor, "*n"], alpha: float | None = None, gamma: float = 2.0
) -> Float[Tensor, "*n"]:
    """Focal loss of each element (Lin et al. 2017).

    Args:
        logits: of the positive class.
        targets: 0 to 1.
        alpha: weight of positives, 1 - alpha being that of negatives; None weights both by 1.
        gamma: focusing exponent.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = (logits.sigmoid() - targets).abs() ** gamma * cross_entropy
    return loss if alpha is None else loss * (alpha * targets + (1 - alpha) * (1 - targets))


def focal_loss(logits: Float[Tensor, "n m h w"], truths: Float[Tensor, "n h w"]) -> Float[Tensor, "n m"]:
    """Focal loss of each mask against its prompt's ground truth, averaged over pixels."""
    return sigmoid_focal(logits, truths[:, None].expand_as(logits)).mean((-2, -1))


def dice_loss(logits: Float[Tensor, "n m h w"], truths: Float[Tensor, "n h w"]) -> Float[Tensor, "n m"]:
    """One minus the Dice coefficient of probabilities and truth (Milletari et al. 2016), smoothed by one pixel."""
    probabilities = logits.sigmoid()
    overlap = torch.einsum("nmhw,nhw->nm", probabilities, truths)
    total = probabilities.sum((-2, -1)) + truths.sum((-2, -1))[:, None]
    return 1 - (2 * overlap + 1) / (total + 1)


def mask_loss(logits: Float[Tensor, "n m h w"], truths: Float[Tensor, "n h w"]) -> Float[Tensor, "n m"]:
    """Weighted sum of focal and Dice loss, 20 : 1."""
    return FOCAL_WEIGHT * focal_loss(logits, truths) + DICE_WEIGHT * dice_loss(logits, truths)


@torch.no_grad()
def true_iou(logits: Float[Tensor, "n m h w"], truths: Float[Tensor, "n h w"]) -> Float[Tensor, "n m"]:
    """IoU of each thresholded mask with its ground truth, thresholded at one half; 0 where both are empty."""
    masks, true_masks = logits > 0, truths[:, None] > 0.5
    union = (masks | true_masks).sum((-2, -1))
    return (masks & true_masks).sum((-2, -1)) / union.clamp(min=1)


def iou_loss(
    predicted_iou: Float[Tensor, "n m"], logits: Float[Tensor, "n m h w"], truths: Float[Tensor, "n h w"]
) -> Float[Tensor, "n m"]:
    """Squared error of the predicted IoU of each mask."""
    return (predicted_iou - true_iou(logits, truths)) ** 2


def best_of_masks(losses: Float[Tensor, "n m"]) -> Float[Tensor, "n"]:
    """The lowest loss among each prompt's masks, so that masks of an ambiguous prompt can show different objects."""
    return losses.min(dim=1).values
