"""Damaged checkpoints and images: refused in one line, whatever is wrong with them."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import segany
from segany.utils.images import read_image
from tests.fuzzing import FUZZ_COUNTS, fuzz
from tests.segany.reference import SMALL


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    model = segany.SegAny(SMALL)
    segany.save(model, folder / "whole.safetensors")
    torch.save(model.state_dict(), folder / "plain.pth")
    tensors = load_file(folder / "whole.safetensors")
    torch.save({"model": {f"module.{key}": value for key, value in tensors.items()}, "epoch": 3}, folder / "run.pth")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def quiet() -> Iterator[None]:
    """What was left out of a checkpoint would be said a thousand times; other tests want to hear it."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", ["whole.safetensors", "plain.pth", "run.pth"])
@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.usefixtures("quiet")
def test_checkpoints(files: dict[str, bytes], tmp_path: Path, name: str, count: int):
    def read(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        segany.load(tmp_path / name)

    fuzz([files[name]], read, count)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_configurations(files: dict[str, bytes], tmp_path: Path, count: int):
    (tmp_path / "model.safetensors").write_bytes(files["whole.safetensors"])

    def read(content: bytes) -> None:
        (tmp_path / "config.json").write_bytes(content)
        segany.load(tmp_path)

    fuzz([json.dumps({"model_type": "sam", "mask_decoder_config": {"num_attention_heads": 2}}).encode()], read, count)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_images(kind: str, count: int):
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(buffer, kind)
    fuzz([buffer.getvalue()], lambda content: read_image(content), count)
