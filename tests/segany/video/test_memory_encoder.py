"""The memory encoder: equal to the public implementation, and its sizes."""

from dataclasses import replace

import pytest
import torch

from segany.video.memory import VideoMemory
from tests.segany.video import reference
from tests.segany.video.conftest import IMAGE, MEMORY


def test_equals_transformers():
    torch.manual_seed(3)
    memory = VideoMemory(IMAGE, replace(MEMORY, memory_stride=1)).eval()
    features, logits = torch.randn(2, IMAGE.prompt_dim, 6, 8), torch.randn(2, 1, 24, 32)
    with torch.no_grad():
        found = memory.memory_encoder(features, logits)
        expected, _ = reference.memory_encoder(memory, (6, 8))(features, logits.sigmoid() * 20 - 10)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "expected"), [((6, 8), (3, 4)), ((5, 8), (3, 4)), ((1, 1), (1, 1))])
def test_sizes(memory: VideoMemory, size: tuple[int, int], expected: tuple[int, int]):
    features, logits = torch.randn(1, IMAGE.prompt_dim, *size), torch.randn(3, 1, 4 * size[0], 4 * size[1])
    with torch.no_grad():
        assert memory.memory_encoder(features, logits).shape == (3, MEMORY.memory_dim, *expected)
