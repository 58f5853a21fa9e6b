"""Memory attention: equal to the public implementation, and what positions and pointers mean."""

from dataclasses import replace

import pytest
import torch

from segany.video.memory import VideoMemory
from segany.video.memory_attention import position_angles, turn
from tests.segany.video import reference
from tests.segany.video.conftest import IMAGE, MEMORY


@pytest.mark.parametrize(("frames", "pointers"), [(1, 0), (3, 0), (2, 4)])
def test_equals_transformers(frames: int, pointers: int):
    torch.manual_seed(2)
    memory = VideoMemory(IMAGE, replace(MEMORY, memory_stride=1)).eval()
    size = 6, 8
    theirs = reference.memory_attention(memory, size)
    features = torch.randn(1, IMAGE.prompt_dim, *size)
    tokens = torch.randn(1, frames * 48 + pointers, MEMORY.memory_dim)
    code = torch.randn_like(tokens)
    with torch.no_grad():
        found = memory.memory_attention(features, tokens, code, size, pointers)
        expected = theirs(
            current_vision_features=features.flatten(2).permute(2, 0, 1),
            memory=tokens.transpose(0, 1),
            memory_posision_embeddings=code.transpose(0, 1),
            num_object_pointer_tokens=pointers,
        )
    expected = expected.reshape(1, *size, -1).permute(0, 3, 1, 2) if expected.shape[0] == 1 else expected
    torch.testing.assert_close(found.flatten(), expected.flatten(), atol=1e-5, rtol=1e-4)


def test_only_distances_count():
    """The product of a turned query and a turned key is the same wherever both are."""
    angles = position_angles(8, 8, 1, 16, torch.device("cpu")).unflatten(0, (8, 8))
    query, key = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def product(a: tuple[int, int], b: tuple[int, int]) -> float:
        return float((turn(query, angles[a][None]) * turn(key, angles[b][None])).sum())

    assert product((1, 2), (3, 5)) == pytest.approx(product((4, 1), (6, 4)), abs=1e-4)
    assert product((1, 2), (3, 5)) != pytest.approx(product((1, 2), (5, 3)), abs=1e-2)


def test_a_memory_cell_lies_in_the_middle_of_its_cells():
    fine = position_angles(4, 4, 1, 8, torch.device("cpu")).unflatten(0, (4, 4))
    coarse = position_angles(2, 2, 2, 8, torch.device("cpu")).unflatten(0, (2, 2))
    angle = torch.atan2(coarse[1, 0, :, 1], coarse[1, 0, :, 0])
    around = torch.atan2(fine[2:4, 0:2, :, 1], fine[2:4, 0:2, :, 0]).mean((0, 1))
    torch.testing.assert_close(angle, around)
