"""Following objects with a memory of random weights: what holds whatever it has learned."""

import numpy as np
import pytest
import torch

from segany import ImageEmbedding, MaskPrediction, Predictor, PromptError, SegAny
from segany.video.memory import VideoMemory
from segany.video.predictor import ObjectMemory, TrackedMasks, VideoPredictor, visible_cells
from tests.segany.video.conftest import IMAGE, MEMORY

HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def predictor(image_model: SegAny, memory: VideoMemory) -> VideoPredictor:
    return VideoPredictor(Predictor(image_model), memory)


@pytest.fixture(scope="module")
def embeddings(predictor: VideoPredictor) -> list[ImageEmbedding]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, HEIGHT, WIDTH, 3), np.uint8)
    return predictor.predictor.encode_batch(list(frames))


def given(predictor: VideoPredictor, embedding: ImageEmbedding, objects: int = 2) -> torch.Tensor:
    masks = torch.zeros(objects, HEIGHT, WIDTH, dtype=torch.bool)
    for row in range(objects):
        masks[row, 5 : 20 + row, 8 + 9 * row : 30] = True
    return predictor.predictor.mask_prompts(embedding, masks)


def follow(
    predictor: VideoPredictor, embeddings: list[ImageEmbedding], memories: tuple[ObjectMemory, ...], first: int = 1
) -> list[TrackedMasks]:
    found = []
    for number, embedding in enumerate(embeddings[first:], first):
        found.append(predictor.track(number, embedding, memories))
        memories = found[-1].memories
    return found


def test_single_equals_batched(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    logits = given(predictor, embeddings[0])
    together = follow(predictor, embeddings, predictor.give(0, embeddings[0], logits))
    for row in range(2):
        alone = follow(predictor, embeddings, predictor.give(0, embeddings[0], logits[row : row + 1]))
        for one, both in zip(alone, together, strict=True):
            found, expected = one.prediction.low_res_logits[0], both.prediction.low_res_logits[row]
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_an_object_may_begin_later(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    (first,) = predictor.give(0, embeddings[0], given(predictor, embeddings[0], 1))
    tracked = predictor.track(1, embeddings[1], [first])
    (second,) = predictor.give(1, embeddings[1], given(predictor, embeddings[1], 1))
    both = predictor.track(2, embeddings[2], [*tracked.memories, second])
    alone = predictor.track(2, embeddings[2], [second])
    assert len(both.prediction) == 2
    torch.testing.assert_close(both.presence[1], alone.presence[0], atol=1e-4, rtol=1e-4)


def test_no_objects(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    assert predictor.give(0, embeddings[0], torch.zeros(0, 1, 32, 32)) == ()
    tracked = predictor.track(1, embeddings[1], [])
    assert len(tracked.prediction) == 0 and tracked.memories == ()
    assert tracked.prediction.masks.shape == (0, 1, HEIGHT, WIDTH)


def test_memory_is_bounded(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    logits = given(predictor, embeddings[0])
    memories = predictor.give(0, embeddings[0], logits)
    for number in range(1, 40):
        memories = predictor.track(number, embeddings[number % 6], memories).memories
        if number % 5 == 0:
            memories = predictor.give(number, embeddings[number % 6], logits, memories)
    for memory in memories:
        prompted = [one.frame for one in memory.frames if one.prompted]
        tracked = [one.frame for one in memory.frames if not one.prompted]
        assert prompted == [0, 30, 35]
        assert tracked == [36, 37, 38, 39]


def test_a_correction_takes_the_place_of_what_was_tracked(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    memories = predictor.give(0, embeddings[0], given(predictor, embeddings[0], 1))
    tracked = predictor.track(1, embeddings[1], memories)
    (corrected,) = predictor.give(1, embeddings[1], given(predictor, embeddings[1], 1), tracked.memories)
    assert [(one.frame, one.prompted) for one in corrected.frames] == [(0, True), (1, True)]


def test_an_empty_mask_says_that_the_object_is_not_there(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    nothing = torch.full((1, 1, 32, 32), -8.0)
    (absent,) = predictor.give(0, embeddings[0], nothing)
    pointer = predictor.memory.no_object_pointer.weight
    assert torch.equal(absent.frames[0].pointer, pointer) or absent.frames[0].prompted


def test_masks_cover_the_image(predictor: VideoPredictor, embeddings: list[ImageEmbedding]):
    memories = predictor.give(0, embeddings[0], given(predictor, embeddings[0]))
    prediction = predictor.track(1, embeddings[1], memories).prediction
    assert isinstance(prediction, MaskPrediction)
    assert prediction.masks.shape == (2, 1, HEIGHT, WIDTH)
    assert prediction.low_res_logits.shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("resized_size", "cells"),
    [((64, 64), (8, 8)), ((43, 64), (6, 8)), ((33, 64), (6, 8)), ((32, 64), (4, 8)), ((1, 64), (2, 8))],
)
def test_visible_cells(resized_size: tuple[int, int], cells: tuple[int, int]):
    assert visible_cells(IMAGE, MEMORY, resized_size) == cells


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, e: p.track(1, e, [ObjectMemory()]), "object 0 has no memory"),
        (lambda p, e: p.give(0, e, given(p, e, 2), [ObjectMemory()]), "one for each of 1 objects, got 2"),
    ],
    ids=["no memory", "other number"],
)
def test_bad_input(predictor: VideoPredictor, embeddings: list[ImageEmbedding], call, message: str):
    with pytest.raises(PromptError, match=message):
        call(predictor, embeddings[0])
