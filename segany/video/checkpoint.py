"""Save and load the weights of a video memory: one safetensors file with its configuration, and its image model's."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError

from segany.config import SegAnyConfig
from segany.errors import CheckpointError, ForeignMemoryError
from segany.files import PathLike, read_safetensors, write_safetensors
from segany.model import SegAny
from segany.video.config import MemoryConfig
from segany.video.memory import VideoMemory

BUNDLED = {"tiny": Path(__file__).parents[1] / "weights" / "tiny-video.safetensors"}


def save(memory: VideoMemory, path: PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and configuration to one safetensors file, atomically.

    Raises:
        CheckpointError: a tensor is not finite in `dtype`.
    """
    state = {key: value.to(dtype) for key, value in memory.state_dict().items()}
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{key} is not finite as {dtype}")
    metadata = {
        "memory_config": json.dumps(memory.config.to_dict()),
        "image_config": json.dumps(memory.image.to_dict()),
    }
    write_safetensors(path, state, metadata)


def load(source: PathLike, image_model: SegAny) -> VideoMemory:
    """Load the video memory that was trained for an image model, in evaluation mode, on its device.

    Args:
        source: "tiny", the weights bundled with this package, or a file from `save`.
        image_model: makes the embeddings and the masks of prompted frames.

    Raises:
        CheckpointError: the weights are not found, cannot be read, or do not fit.
        ForeignMemoryError: they belong to another image model.
    """
    path = BUNDLED.get(str(source), Path(source))
    if not path.is_file():
        what = "the bundled video memory is not installed" if str(source) in BUNDLED else "no such file"
        raise CheckpointError(f"{source}: {what}: {path}")
    try:
        state, metadata = read_safetensors(path)
        config = MemoryConfig.from_dict(json.loads(metadata["memory_config"]))
        image = SegAnyConfig.from_dict(json.loads(metadata["image_config"]))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a video memory: missing or malformed {error}") from error
    if image != image_model.config:
        ours, given = asdict(image), asdict(image_model.config)
        different = ", ".join(f"{key} {ours[key]}, not {given[key]}" for key in ours if ours[key] != given[key])
        raise ForeignMemoryError(f"{path}: was trained for another image model: {different}")
    memory = VideoMemory(image, config)
    expected = memory.state_dict()
    wrong = [key for key in expected.keys() | state.keys() if key not in state or key not in expected]
    wrong += [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    if wrong:
        raise CheckpointError(f"{path}: {len(wrong)} tensors are missing, unexpected or of another shape: {wrong[0]}")
    memory.load_state_dict({key: value.float() for key, value in state.items()})
    return memory.eval().to(next(image_model.parameters()).device)
