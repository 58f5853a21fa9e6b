"""Read and write safetensors files: named tensors and metadata strings."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PathLike = str | os.PathLike[str]


def write_safetensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file atomically: a temporary file in the same folder is renamed at the end."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={**metadata, "format": "pt"})
        os.chmod(temporary, 0o644)  # safetensors makes files private to the owner, which breaks installed packages
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_safetensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors, on the CPU, and metadata.

    Raises:
        OSError, safetensors.SafetensorError: the file cannot be read.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
