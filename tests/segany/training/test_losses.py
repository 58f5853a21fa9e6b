"""Losses: known values, the best of several masks, soft targets."""

import math

import pytest
import torch

from segany.training import losses

SQUARE = torch.zeros(1, 8, 8)
SQUARE[:, 2:6, 2:6] = 1
RIGHT = (SQUARE * 2 - 1)[:, None] * 20  # confident and correct logits


@pytest.mark.parametrize(
    ("logit", "target", "expected"), [(0.0, 1.0, 0.25 * math.log(2)), (0.0, 0.0, 0.25 * math.log(2)), (30.0, 1.0, 0.0)]
)
def test_sigmoid_focal_known_values(logit: float, target: float, expected: float) -> None:
    value = losses.sigmoid_focal(torch.tensor([logit]), torch.tensor([target]))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_alpha_weighs_positives() -> None:
    logits, targets = torch.zeros(2), torch.tensor([1.0, 0.0])
    positive, negative = losses.sigmoid_focal(logits, targets, alpha=0.25).tolist()
    assert positive * 3 == pytest.approx(negative)


@pytest.mark.parametrize("loss", [losses.focal_loss, losses.dice_loss, losses.mask_loss])
def test_losses_vanish_for_the_truth_and_not_for_its_opposite(loss) -> None:
    assert loss(RIGHT, SQUARE).item() == pytest.approx(0, abs=1e-4)
    assert loss(-RIGHT, SQUARE).item() > 0.5


@pytest.mark.parametrize(
    ("logits", "expected"),
    [(RIGHT, 1.0), (-RIGHT, 0.0), (RIGHT.roll(2, -1), 8 / 24)],
    ids=["same", "opposite", "shifted"],
)
def test_true_iou(logits: torch.Tensor, expected: float) -> None:
    assert losses.true_iou(logits, SQUARE).item() == pytest.approx(expected)


def test_true_iou_of_nothing_with_nothing() -> None:
    assert losses.true_iou(torch.full((1, 1, 4, 4), -1.0), torch.zeros(1, 4, 4)).item() == 0


def test_only_the_best_mask_gets_a_gradient() -> None:
    logits = torch.cat([RIGHT * 0.05, -RIGHT * 0.05, RIGHT * 0], 1).requires_grad_()
    losses.best_of_masks(losses.mask_loss(logits, SQUARE)).sum().backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum((-2, -1))[0]
    assert touched[0] > 0 and touched[1] == 0 and touched[2] == 0


def test_no_prompts_give_no_losses() -> None:
    assert losses.mask_loss(torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8)).shape == (0, 3)
