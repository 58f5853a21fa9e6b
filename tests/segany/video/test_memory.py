"""What is remembered, and which memories are read."""

import pytest
import torch

from segany.video.memory import FrameMasks, FrameMemory, VideoMemory, choose_memories
from tests.segany.video.conftest import IMAGE, MEMORY

SIZE = 4, 6


def made_memory(frame: int, prompted: bool = False, objects: int = 2, seed: int = 0) -> FrameMemory:
    generator = torch.Generator().manual_seed(seed + frame)
    cells = torch.randn(objects, MEMORY.memory_dim, 2, 3, generator=generator)
    return FrameMemory(frame, prompted, cells, torch.randn(objects, IMAGE.prompt_dim, generator=generator))


def no_mask_code() -> torch.Tensor:
    return torch.zeros(1, IMAGE.prompt_dim, *SIZE)


@pytest.mark.parametrize(
    ("prompted", "tracked", "frame", "chosen"),
    [
        pytest.param([0], [1, 2, 3, 4, 5], 6, [0, 5, 4, 3], id="forwards"),
        pytest.param([9], [8, 7, 6, 5], 4, [9, 5, 6, 7], id="backwards"),
        pytest.param([0, 3, 6], [], 7, [0, 6], id="the first and the nearest prompted"),
        pytest.param([0], [], 1, [0], id="one"),
    ],
)
def test_choice(prompted, tracked, frame, chosen):
    memories = [made_memory(number, True) for number in prompted] + [made_memory(number) for number in tracked]
    found = choose_memories(memories, frame, MEMORY.prompted_frames, MEMORY.recent_frames)
    assert [memory.frame for memory in found] == chosen


@torch.no_grad()
def test_objects_do_not_see_each_other(memory: VideoMemory):
    features = torch.randn(1, IMAGE.prompt_dim, *SIZE)
    memories = [made_memory(0, True), made_memory(1), made_memory(2)]
    together = memory.recall(features, memories, 3)
    for row in range(2):
        alone = memory.recall(features, [one[row : row + 1] for one in memories], 3)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_order_of_memories_does_not_count(memory: VideoMemory):
    features = torch.randn(1, IMAGE.prompt_dim, *SIZE)
    memories = [made_memory(0, True), made_memory(1), made_memory(2)]
    expected = memory.recall(features, memories, 3)
    shuffled = [memories[0], memories[2], memories[1]]
    torch.testing.assert_close(memory.recall(features, shuffled, 3), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_how_long_ago_counts(memory: VideoMemory):
    features = torch.randn(1, IMAGE.prompt_dim, *SIZE)
    near, far = (memory.recall(features, [made_memory(0, True), made_memory(1)], frame) for frame in (2, 3))
    assert not torch.allclose(near, far)


@torch.no_grad()
def test_an_absent_object_is_remembered_as_absent(memory: VideoMemory):
    features, logits = torch.randn(1, IMAGE.prompt_dim, *SIZE), torch.randn(2, 1, 16, 24)
    pointer, iou = torch.randn(2, IMAGE.prompt_dim), torch.ones(2)
    here, gone = (
        memory.remember(4, features, FrameMasks(logits, iou, torch.tensor([3.0, logit]), pointer)) for logit in (3, -3)
    )
    torch.testing.assert_close(gone.cells[0], here.cells[0])
    added = memory.no_object_memory.weight[..., None, None].expand_as(gone.cells[1:])
    torch.testing.assert_close(gone.cells[1:] - here.cells[1:], added, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_decode(memory: VideoMemory):
    features, code = torch.randn(3, IMAGE.prompt_dim, *SIZE), torch.randn(1, IMAGE.prompt_dim, *SIZE)
    found = memory.decode(features, code, no_mask_code(), 3)
    assert found.logits.shape == (3, 1, 16, 24) and found.pointer.shape == (3, IMAGE.prompt_dim)
    alone = memory.decode(features[1:2], code, no_mask_code(), 1)
    torch.testing.assert_close(alone.logits, found.logits[1:2], atol=1e-5, rtol=1e-4)
    absent = found.pointer[found.presence <= 0]
    torch.testing.assert_close(absent, memory.no_object_pointer.weight.expand_as(absent))
