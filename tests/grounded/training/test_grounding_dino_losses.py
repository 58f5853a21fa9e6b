"""The losses of detectors: matching, the set loss, and noised boxes."""

import numpy as np
import pytest
import torch

from grounded.training import grounding_dino_losses as losses

BOXES = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]])
TOKENS = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], dtype=torch.bool)
TRUTH = losses.Truth(BOXES, TOKENS)
MASK = torch.ones(1, 6, dtype=torch.bool)


def perfect() -> tuple[torch.Tensor, torch.Tensor]:
    """Three queries, the last two right, in reverse order of the truth."""
    logits = torch.full((1, 3, 6), -12.0)
    logits[0, 2, TOKENS[0]], logits[0, 1, TOKENS[1]] = 12.0, 12.0
    boxes = torch.stack([torch.tensor([0.1, 0.9, 0.1, 0.1]), BOXES[1], BOXES[0]])[None]
    return logits, boxes


def test_matching_finds_the_right_queries() -> None:
    logits, boxes = perfect()
    rows, columns = losses.match(logits[0], boxes[0], TRUTH)
    assert dict(zip(columns.tolist(), rows.tolist(), strict=True)) == {0: 2, 1: 1}


def test_set_loss_vanishes_only_for_the_truth() -> None:
    logits, boxes = perfect()
    pairs = [losses.match(logits[0], boxes[0], TRUTH)]
    assert losses.set_loss(logits, boxes, MASK, [TRUTH], pairs).item() < 1e-3
    assert losses.set_loss(-logits, boxes, MASK, [TRUTH], pairs).item() > 1
    assert losses.set_loss(logits, boxes * 0.8, MASK, [TRUTH], pairs).item() > 0.1


def test_padding_of_a_prompt_has_no_loss() -> None:
    logits, boxes = perfect()
    pairs = [losses.match(logits[0], boxes[0], TRUTH)]
    logits[..., 5] = 9.0  # sure of a token that is padding
    masked = MASK.clone()
    masked[0, 5] = False
    assert losses.set_loss(logits, boxes, masked, [TRUTH], pairs).item() < 1e-3
    assert losses.set_loss(logits, boxes, MASK, [TRUTH], pairs).item() > 1


def test_an_image_without_objects() -> None:
    nothing = losses.Truth(torch.zeros(0, 4), torch.zeros(0, 6, dtype=torch.bool))
    logits, boxes = perfect()
    pairs = [losses.match(logits[0], boxes[0], nothing)]
    loss = losses.set_loss(logits, boxes, MASK, [nothing], pairs)
    assert torch.isfinite(loss) and loss > 1  # confident queries that found nothing are wrong


def test_more_objects_than_queries() -> None:
    many = losses.Truth(BOXES.repeat(4, 1), TOKENS.repeat(4, 1))
    logits, boxes = perfect()
    rows, columns = losses.match(logits[0], boxes[0], many)
    assert len(rows) == 3 and len(set(columns.tolist())) == 3


def test_giou_of_equal_and_distant_boxes() -> None:
    values = losses.pairwise_giou(BOXES, BOXES)
    assert values.diagonal().tolist() == pytest.approx([1, 1], abs=1e-5)
    assert values[0, 1] < 0


def test_noised_references_lie_around_the_truth() -> None:
    references = losses.noised_references([TRUTH], 10, torch.Generator().manual_seed(0))
    nearest = losses.pairwise_giou(references[0], BOXES).max(1).values
    assert (nearest[:4] > 0.3).all() and np.isfinite(references.numpy()).all()
    assert torch.equal(references, losses.noised_references([TRUTH], 10, torch.Generator().manual_seed(0)))
