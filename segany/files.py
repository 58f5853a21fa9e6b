"""Reading and writing safetensors files: tensors by name, and metadata strings beside them."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PathLike = str | os.PathLike[str]


def write_safetensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file that is complete or absent: a temporary file beside it takes its name at the end."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={**metadata, "format": "pt"})
        os.chmod(temporary, 0o644)  # safetensors writes for the owner alone, which breaks installed packages
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_safetensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and metadata. Raises OSError or safetensors.SafetensorError for an unreadable file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
