"""The tiny detector's vocabulary, targets and losses."""

import numpy as np
import pytest
import torch

from recipes.tiny import detector_losses as losses
from recipes.tiny.detector_model import FIXED, build_tokenizer, vocabulary
from recipes.tiny.queries import Query
from recipes.tiny.train_detector import encode_query, phrase_ids
from recipes.tiny.vocabulary import nouns

BOXES = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]])
TOKENS = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], dtype=torch.bool)
TRUTH = losses.Truth(BOXES, TOKENS)
MASK = torch.ones(1, 6, dtype=torch.bool)


def test_special_tokens_stand_where_the_model_expects_them() -> None:
    known = vocabulary()
    assert {token: known[token] for token in FIXED} == FIXED
    assert sorted(known.values()) == list(range(len(known)))


@pytest.mark.parametrize("noun", nouns())
def test_every_noun_is_whole_words(noun: str) -> None:
    tokens = build_tokenizer().tokenize(noun)
    assert " ".join(tokens) == noun


def test_other_words_are_spelled() -> None:
    assert build_tokenizer().tokenize("Zebu") == ["z", "##e", "##b", "##u"]


def test_spans_hold_the_ids_of_their_phrases() -> None:
    query = Query(("a dog", "hot dogs", "the blue car"), ())
    ids, spans = encode_query(query, 64)
    assert ids == build_tokenizer()("a dog. hot dogs. the blue car.")["input_ids"]
    assert [tuple(ids[start:stop]) for start, stop in spans] == [phrase_ids(phrase) for phrase in query.phrases]


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


def test_a_image_without_objects() -> None:
    nothing = losses.Truth(torch.zeros(0, 4), torch.zeros(0, 6, dtype=torch.bool))
    logits, boxes = perfect()
    pairs = [losses.match(logits[0], boxes[0], nothing)]
    loss = losses.set_loss(logits, boxes, MASK, [nothing], pairs)
    assert torch.isfinite(loss) and loss > 1  # confident queries that found nothing are wrong


def test_giou_of_equal_and_distant_boxes() -> None:
    values = losses.pairwise_giou(BOXES, BOXES)
    assert values.diagonal().tolist() == pytest.approx([1, 1], abs=1e-5)
    assert values[0, 1] < 0


def test_noised_references_lie_around_the_truth() -> None:
    references = losses.noised_references([TRUTH], 10)[0]
    nearest = losses.pairwise_giou(references, BOXES).max(1).values
    assert (nearest[:4] > 0.3).all() and np.isfinite(references.numpy()).all()
