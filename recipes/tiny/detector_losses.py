"""The loss of the tiny detector that its fine-tuning does not have: a dense phrase loss on the encoder.

Set prediction and box denoising are in `grounded.training.grounding_dino_losses`.
"""

import torch.nn.functional as F
from torch import Tensor


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
