"""Weights of the video memory, saved and loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segany import CheckpointError, SegAny
from segany.video.checkpoint import load, save
from segany.video.memory import VideoMemory
from tests.segany.video.conftest import IMAGE


def test_round_trip(tmp_path: Path, memory: VideoMemory, image_model: SegAny):
    save(memory, tmp_path / "memory.safetensors", torch.float32)
    loaded = load(tmp_path / "memory.safetensors", image_model)
    assert loaded.config == memory.config and not loaded.training
    for key, value in memory.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_another_image_model(tmp_path: Path, memory: VideoMemory):
    save(memory, tmp_path / "memory.safetensors")
    other = SegAny(replace(IMAGE, encoder_depth=3))
    with pytest.raises(CheckpointError, match="trained for another image model: encoder_depth 2, not 3"):
        load(tmp_path / "memory.safetensors", other)


def test_missing_tensor(tmp_path: Path, memory: VideoMemory, image_model: SegAny):
    path = tmp_path / "memory.safetensors"
    save(memory, path)
    from segany.files import read_safetensors

    _, metadata = read_safetensors(path)
    tensors = load_file(path)
    del tensors["time_code.weight"]
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"missing, unexpected or of another shape: time_code\.weight"):
        load(path, image_model)


@pytest.mark.parametrize("content", [b"", b"not weights"], ids=["empty", "text"])
def test_damaged(tmp_path: Path, image_model: SegAny, content: bytes):
    (tmp_path / "memory.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "memory.safetensors", image_model)


def test_absent(tmp_path: Path, image_model: SegAny):
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "memory.safetensors", image_model)


def test_not_finite(tmp_path: Path, image_model: SegAny):
    broken = VideoMemory(IMAGE)
    torch.nn.init.constant_(broken.time_code.weight, float("nan"))
    with pytest.raises(CheckpointError, match=r"time_code\.weight is not finite"):
        save(broken, tmp_path / "memory.safetensors")
