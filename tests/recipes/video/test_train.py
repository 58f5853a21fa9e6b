"""A training step of the video memory."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import segany
from recipes.video.clips import Clip, draw_clip
from recipes.video.pool import EncodedClip, encode_clip, open_pool, read_clip
from recipes.video.train import LENGTH, Codes, compute_loss, make_sequence, new_memory


@pytest.fixture(scope="module")
def model() -> segany.SegAny:
    return segany.load("tiny")


@pytest.fixture(scope="module")
def pool(model: segany.SegAny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pool")
    clip = draw_clip("train", 2)
    encoded = encode_clip(segany.Predictor(model), Clip(clip.frames[:LENGTH], clip.labels[:LENGTH], clip.objects))
    save_file({"features": encoded.features, "labels": encoded.labels}, folder / "00000.safetensors")
    return list(open_pool(folder))


@pytest.mark.slow
def test_a_step(model: segany.SegAny, pool: list[Path]):
    memory, sequence = new_memory(model), make_sequence(pool, 1)
    losses = compute_loss(memory, sequence, Codes(model))
    torch.stack([value for name, value in losses.items() if name[0] != "_"]).sum().backward()
    without = [name for name, value in memory.named_parameters() if value.grad is None]
    # The masks for ambiguous prompts are not used in tracking.
    assert all("output_hypernetworks_mlps" in name for name in without)


@pytest.mark.slow
def test_a_sequence_is_always_the_same(pool: list[Path]):
    one, other = make_sequence(pool, 7), make_sequence(pool, 7)
    assert torch.equal(one.features, other.features) and one.prompted == other.prompted


@pytest.mark.slow
def test_labels_fit_the_features(pool: list[Path]):
    clip: EncodedClip = read_clip(pool[0])
    rows, columns = clip.features.shape[-2:]
    assert clip.labels.shape == (LENGTH, 8 * rows, 8 * columns)
