"""Fetching the weights of a configuration before they are needed, and checking those that are there."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grounded.config import bundled_name, load
from grounded.errors import ConfigError
from grounded.settings import DetectorConfig, PipelineConfig
from segany import CheckpointError
from segany.hub import HubError, HubModel

PARTS = ("detector", "clip", "segmenter")
# Whoever asks for a download means to wait for it, be the connection ever so slow.
PATIENCE = 30.0


@dataclass(frozen=True)
class Fetched:
    """The weights of one part of a configuration, which are on this machine."""

    part: str  # one of PARTS
    checkpoint: str  # as configured
    path: Path  # the file, or the folder of the files
    files: tuple[str, ...]  # their names
    bytes: int  # of all files together
    downloaded: bool  # whether this call fetched them, or they were there before


def fetch(
    source: str | PathLike[str] | PipelineConfig, parts: Sequence[str] = PARTS, patience: float = PATIENCE
) -> list[Fetched]:
    """Download what a configuration needs from the Hugging Face hub and is not here yet, and check all of it.

    An interrupted download is resumed by the next call. Checked is that files are whole: that JSON is JSON, and that
    weights are as long as they say; not that a model takes them.

    Args:
        source: a preset, the path of a YAML file, or a configuration.
        parts: which of `PARTS` to fetch.
        patience: seconds until a hub that does not answer counts as out of reach.

    Returns:
        one value per part, in the order of `parts`.

    Raises:
        ConfigError: the configuration is wrong, or names bundled weights that there are not.
        CheckpointError: a local file or folder is missing, a file is damaged, or the hub cannot be reached; then the
            message names all that is missing.
    """
    config = load(source)
    places = {part: locate(part, config) for part in parts}
    folders = {part: place.cached() if isinstance(place, HubModel) else place for part, place in places.items()}
    absent = {part: place for part, place in places.items() if isinstance(place, HubModel) and folders[part] is None}
    for part, model in absent.items():
        try:
            folders[part] = model.download(patience)
        except HubError as error:
            missing = {name: model for name, model in absent.items() if folders[name] is None}
            raise CheckpointError(_describe(missing, error.reason)) from error
    return [
        _examine(part, _checkpoint(part, config), places[part], path, downloaded=part in absent)
        for part, path in folders.items()
        if path is not None
    ]


def locate(part: str, config: PipelineConfig) -> Path | HubModel:
    """Where the weights of a part are: a file or folder here, or a repository that may have to be downloaded.

    Raises:
        ConfigError: no bundled weights of that name.
        CheckpointError: a local file or folder is missing.
        ValueError: no such part.
    """
    # Each part knows the names of its own files; its library is imported only where the part is asked for.
    if part == "detector":
        return _locate_detector(config.detector)
    if part == "clip":
        from grounded.models import clip

        return clip.locate(config.clip.checkpoint)
    if part == "segmenter":
        from segany import checkpoint as segmenter

        return segmenter.locate(bundled_name(config.segmenter.checkpoint) or config.segmenter.checkpoint)
    raise ValueError(f"parts must be among {', '.join(PARTS)}, got {part!r}")


def _locate_detector(config: DetectorConfig) -> Path | HubModel:
    from grounded.models.detectors import KINDS

    if config.kind == "groundingdino-py":
        from grounded.models.detectors.original import checkpoint as original

        return original.find_file(config.checkpoint)

    from grounded.models.detectors import checkpoint

    families = {"grounding-dino": checkpoint.GROUNDING_DINO, "owl": checkpoint.OWL}
    if config.kind not in families:
        raise ConfigError(f"detector kind must be one of {', '.join(KINDS)}, got {config.kind!r}")
    return checkpoint.locate(config.checkpoint, families[config.kind])


def _checkpoint(part: str, config: PipelineConfig) -> str:
    return str(getattr(config, part).checkpoint)


def _examine(part: str, checkpoint: str, place: Path | HubModel, path: Path, downloaded: bool) -> Fetched:
    """Check and count the files of a part."""
    if isinstance(place, HubModel):
        files = place.files(path)
    else:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        reason = _damage(file)
        if reason:
            # In the cache of the hub, the name is a link: only without what it points to is the file fetched again.
            raise CheckpointError(f"{file} is damaged ({reason}): remove {file.resolve()} and get it again")
    return Fetched(
        part=part,
        checkpoint=checkpoint,
        path=path,
        files=tuple(file.name for file in files),
        bytes=sum(file.stat().st_size for file in files),
        downloaded=downloaded,
    )


def _damage(file: Path) -> str | None:
    """What is wrong with a file, as far as can be told without reading all of it."""
    try:
        if file.suffix == ".safetensors":
            # Opening compares the length of the file with what its header states.
            with safe_open(file, framework="numpy"):
                return None
        if file.name.endswith(".index.json"):
            parts = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
            absent = sorted(name for name in parts if not (file.parent / name).is_file())
            return f"it names {absent[0]}, which is missing" if absent else None
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix in (".bin", ".pt", ".pth"):
            with file.open("rb") as stream:
                start = stream.read(2)
            # PyTorch writes zip archives, whose table of contents is at the end; its old format was a bare pickle.
            if not zipfile.is_zipfile(file) and not start.startswith(b"\x80"):
                return "cut short" if start == b"PK" else "not a file of PyTorch"
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def _describe(missing: dict[str, HubModel], reason: str) -> str:
    """One line on what is missing, why, and what to do."""
    models = "; ".join(f"{part} {model.repo_id} ({model.wanted})" for part, model in missing.items())
    return (
        f"cannot get weights, {reason}. Missing in the local cache: {models}. "
        f"Run `grounded download` where there is a connection, or name local folders that hold these files: "
        f'{next(iter(missing))}={{"checkpoint": FOLDER}} in Python, '
        f"{next(iter(missing))}: {{checkpoint: FOLDER}} in a YAML file"
    )
