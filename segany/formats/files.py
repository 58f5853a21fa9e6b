"""Read what a weights file holds, whichever of the usual formats it is in, and folders whose weights are in shards."""

import json
import pickle
from pathlib import Path
from typing import Any

from torch import Tensor

from segany.diagnose import SEGMENT_ANYTHING, describe_file
from segany.errors import CheckpointError
from segany.files import read_safetensors
from segany.formats.pickles import Foreign, load_pickle, pickle_names

WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder, in order of preference
INDEX_FILES = tuple(f"{name}.index.json" for name in WHOLE_FILES)  # the same in shards
# Where training scripts put the weights; for the advice on files that are not read.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net")


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a file of safetensors or of `torch.save`, told by its contents, with the metadata of the former.

    In the place of objects that are neither tensors nor plain values stand `Foreign` ones.

    Raises:
        CheckpointError: it is another kind of file, is damaged, or cannot be read without running code from it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":  # safetensors: after the length of its header, which is JSON
            return read_safetensors(path)
        if not head.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle as before PyTorch 1.6
            raise ValueError("neither safetensors nor a pickle")
        return load_pickle(path), {}
    except Exception as error:  # of a damaged file PyTorch raises nearly anything
        raise CheckpointError(_why_unreadable(path, error)) from error


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the shards that an index file (`*.index.json`) lists.

    Raises:
        CheckpointError: the index or a shard is damaged, or a shard is missing.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({Path(str(name)).name for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of shards, with a weight_map of tensors to files") from error
    absent = [name for name in shards if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(f"{index.parent}: {len(absent)} of {len(shards)} shards missing: {', '.join(absent)}")
    state: dict[str, Tensor] = {}
    for name in shards:
        content, _ = read_content(index.parent / name)
        if not isinstance(content, dict):
            raise CheckpointError(f"{index.parent / name}: must hold a dict of tensors, got {type(content).__name__}")
        state |= {key: value for key, value in content.items() if isinstance(value, Tensor)}
    lost = [name for name in weight_map if name not in state]
    if lost:
        raise CheckpointError(f"{index.parent}: the shards hold no {lost[0]}, which {index.name} promises")
    return state


def advise_saving_again(path: Path, key: str | None = None) -> str:
    """The command that saves the weights of a pickle alone, to be run by somebody who trusts its source."""
    entry = f"[{key!r}]" if key else ""
    return (
        "where its source is trusted, save the weights alone: "
        f'python -c "import torch; c = torch.load({str(path)!r}, map_location={"cpu"!r}, weights_only=False){entry}; '
        f'torch.save(c if isinstance(c, dict) else c.state_dict(), {path.stem + "-weights.pth"!r})"'
    )


def whole_objects(content: Any) -> list[tuple[str | None, str]]:
    """The foreign objects in a checkpoint in whose place weights may have been, as (key, class)."""
    entries = content.items() if isinstance(content, dict) else [(None, content)]
    return [
        (None if key is None else str(key), f"{type(value).__module__}.{type(value).__qualname__}")
        for key, value in entries
        if isinstance(value, Foreign)
    ]


def _why_unreadable(path: Path, error: Exception) -> str:
    described = describe_file(path, SEGMENT_ANYTHING)
    if described:
        return f"{path} {described}"
    if isinstance(error, pickle.PickleError):
        names = pickle_names(path)
        key = next((key for key in _USUAL_KEYS if key in names.texts), None)
        return f"{path}: holds Python objects that cannot be left out, and nothing but tensors is unpickled; " + (
            advise_saving_again(path, key)
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{path}: cannot be read: {error.strerror}"
    return f"{path}: cannot be read: it is neither a file of torch.save nor of safetensors, or it is damaged"
