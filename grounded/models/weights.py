"""Which weights a configuration stands for: names stay when files change, hashes do not."""

import hashlib
from pathlib import Path

from grounded.errors import ConfigError
from grounded.models.download import locate
from grounded.settings import PipelineConfig
from segany import CheckpointError
from segany.hub import HubModel

# Of a folder, what a model is made of; a training's logs and notes beside it may change.
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt")
_BLOCK = 1 << 20


def hashes(config: PipelineConfig) -> dict[str, str]:
    """Return 16 hexadecimal digits for each part that a configuration uses, which differ where its files do.

    Reads all of them, about a second per gigabyte. Parts that are not on this machine are left out.
    """
    files = {part: _files(part, config) for part, checkpoint in config.models.items() if checkpoint is not None}
    return {part: _hash(found) for part, found in files.items() if found}


def _files(part: str, config: PipelineConfig) -> list[Path]:
    try:
        place = locate(part, config)
    except (CheckpointError, ConfigError):  # loading tells why, and better
        return []
    if isinstance(place, HubModel):
        folder = place.cached()
        return [] if folder is None else place.files(folder)
    if place.is_file():
        return [place]
    return sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES and path.is_file())


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()[:16]
