"""The checkpoint files that a configuration names: locate, download, check and hash them. For the command line.

Which files make up a checkpoint is known to the loader of each model. Here is what can be done with them unloaded.
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grounded.config import PipelineConfig, bundled_name, load
from grounded.errors import CheckpointError, ConfigError, one_line
from segany.diagnose import describe_file
from segany.hub import HubError, HubModel, commit_of, split_revision

PARTS = ("detector", "clip", "segmenter")  # the sections of a configuration that have a checkpoint, for images
VIDEO = "video"  # the one for clips
TIMEOUT = 30.0  # seconds before a silent hub counts as unreachable; long, since a download is waited for on purpose

# Files of a folder that are hashed; logs and notes of a training beside them may change.
_HASHED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt")
_BLOCK_SIZE = 1 << 20  # bytes that are read at a time


def locate(part: str, config: PipelineConfig) -> Path | HubModel:
    """Return where the checkpoint of a part is: a local file or folder, or a repository that may need a download.

    Raises:
        ConfigError: no bundled weights of that name.
        CheckpointError: a local file or folder is missing.
        ValueError: no such part.
    """
    # Loaders import heavy libraries, each of them only where its part is needed.
    if part == "detector":
        from grounded.models import detectors

        return detectors.locate(config.detector)
    if part == "clip":
        from grounded.models import clip_checkpoint

        return clip_checkpoint.locate(config.clip.checkpoint)
    if part == "segmenter":
        from grounded.models import segmenters

        return segmenters.locate(config.segmenter)
    if part == VIDEO:
        from grounded.models import trackers

        return trackers.locate(config.video)
    raise ValueError(f"parts must be among {', '.join(PARTS)} and {VIDEO}, got {part!r}")


def offered_parts(config: PipelineConfig) -> tuple[str, ...]:
    """Return `PARTS`, and `VIDEO` where the configuration names weights for clips that are not bundled."""
    weights = config.video.weights
    return PARTS if weights is None or bundled_name(weights) is not None else (*PARTS, VIDEO)


def used_parts(config: PipelineConfig) -> tuple[str, ...]:
    """Return those of `offered_parts` that a configuration has a use for."""
    return tuple(part for part in offered_parts(config) if part == VIDEO or config.models[part] is not None)


def resolve_models(config: PipelineConfig) -> dict[str, str | None]:
    """Return the checkpoint of each part, None for one that is not used, with the commit of one that is from the hub.

    "owner/name" becomes "owner/name@COMMIT" by the folder in the local cache that a model is loaded from, so that a
    result states what it was made with. Without such a folder the checkpoint is as configured.
    """
    models = {part: checkpoint and _add_commit(part, checkpoint, config) for part, checkpoint in config.models.items()}
    if models["segmenter"] is not None:
        models["segmenter"] = " + ".join((models["segmenter"], *config.segmenter.additions))
    return models


def _add_commit(part: str, checkpoint: str, config: PipelineConfig) -> str:
    try:
        place = locate(part, config)
    except (CheckpointError, ConfigError):  # loading the model reports the reason
        return checkpoint
    folder = place.cached() if isinstance(place, HubModel) else None
    commit = None if folder is None else commit_of(folder)
    return checkpoint if commit is None else f"{split_revision(checkpoint)[0]}@{commit}"


# ---- Download and check ----


@dataclass(frozen=True)
class LocalCheckpoint:
    """The checkpoint of one part of a configuration, on this machine."""

    part: str  # one of PARTS, or VIDEO
    checkpoint: str  # as configured
    path: Path  # the file, or the folder of the files
    files: tuple[str, ...]  # their names
    bytes: int  # of all files together
    downloaded: bool  # by this call; False if the files were here before
    verified: tuple[str, ...] = ()  # the files whose contents were compared with the hashes that the hub states
    commit: str | None = None  # on the hub, of what was found in its cache


def fetch(
    source: str | PathLike[str] | PipelineConfig,
    parts: Sequence[str] | None = None,
    timeout: float = TIMEOUT,
    verify: bool = False,
) -> list[LocalCheckpoint]:
    """Download the checkpoints of a configuration that are not here yet from the Hugging Face hub, and check all.

    An interrupted download is resumed by the next call. What is downloaded is compared with the hashes that the hub
    states, and a file that was damaged on its way is fetched once more. Of all files it is checked that they are
    complete: JSON can be parsed, and weights are as long as their header states. Models are not loaded.

    Args:
        source: a preset, the path of a YAML file, or a configuration.
        parts: which of `PARTS` and `VIDEO` to fetch; None for those that the configuration uses.
        timeout: seconds before a hub that does not answer counts as unreachable.
        verify: compare also files that were downloaded before with the hashes by which the cache of the hub names them,
            about a second per gigabyte. A damaged one is fetched again.

    Returns:
        one value per part, in the order of `parts`.

    Raises:
        ConfigError: the configuration is wrong, or there are no bundled weights of a name in it.
        CheckpointError: a local file or folder is missing, a file is damaged, or the hub cannot be reached; then the
            message names all missing checkpoints.
    """
    config = load(source)
    places = {part: locate(part, config) for part in (used_parts(config) if parts is None else parts)}
    paths = {part: place.cached() if isinstance(place, HubModel) else place for part, place in places.items()}
    absent = {part: place for part, place in places.items() if isinstance(place, HubModel) and paths[part] is None}
    for part, model in absent.items():
        try:
            paths[part] = model.download(timeout)
        except HubError as error:
            missing = {name: model for name, model in absent.items() if paths[name] is None}
            raise CheckpointError(_describe_missing(missing, error.reason)) from error
    checkpoints = []
    for part, place in places.items():
        path = paths[part]
        assert path is not None  # a download either returns a path or raises
        verified = _verify(place, path, timeout) if isinstance(place, HubModel) and verify else ()
        files = _list_files(place, path)
        for file in files:
            if reason := _find_damage(file):
                # In the cache of the hub the name is a link: only without its target is the file downloaded again.
                raise CheckpointError(f"{file} is damaged ({reason}): remove {file.resolve()} and get it again")
        names = tuple(file.name for file in files)
        checkpoints.append(
            LocalCheckpoint(
                part=part,
                checkpoint=str(getattr(config, part).checkpoint),
                path=path,
                files=names,
                bytes=sum(file.stat().st_size for file in files),
                downloaded=part in absent,
                verified=names if part in absent else verified,
                commit=commit_of(path),
            )
        )
    return checkpoints


def _verify(model: HubModel, folder: Path, timeout: float) -> tuple[str, ...]:
    """Compare a model in the cache of the hub with its hashes, fetch what is damaged again, and name what was compared.

    Raises:
        CheckpointError: a file is damaged, and cannot be fetched again.
    """
    compared = model.find_damaged(folder)
    damaged = [file for file, is_damaged in compared.items() if is_damaged]
    if damaged:
        try:
            model.download(timeout, replaced=damaged)
        except HubError as error:
            names = " and ".join(str(file) for file in damaged)
            raise CheckpointError(
                f"{names} is damaged: its contents do not have the hash that the hub states, and it cannot be fetched "
                f"again, {error.reason}"
            ) from error
    return tuple(file.name for file in compared)


def _list_files(place: Path | HubModel, path: Path) -> list[Path]:
    """The files of a checkpoint whose file or folder on this machine is `path`."""
    if isinstance(place, HubModel):
        return place.files(path)
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _find_damage(file: Path) -> str | None:
    """Say why a file is damaged, as far as can be seen without reading all of it; None for a file without fault."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy"):  # compares the length of the file with its header
                return None
        if file.name.endswith(".index.json"):
            shards = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
            absent = sorted(name for name in shards if not (file.parent / name).is_file())
            return f"it names {absent[0]}, which is missing" if absent else None
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix in (".bin", ".pt", ".pth"):
            with file.open("rb") as stream:
                start = stream.read(2)
            # PyTorch writes zip archives, whose table of contents is at the end; its old format was a bare pickle.
            if not zipfile.is_zipfile(file) and not start.startswith(b"\x80"):
                return describe_file(file) or "not a file of PyTorch"
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        return (file.suffix == ".safetensors" and describe_file(file)) or one_line(error, 200)
    return None


def _describe_missing(missing: dict[str, HubModel], reason: str) -> str:
    """One line: which checkpoints are missing, why, and how to get them."""
    models = "; ".join(f"{part} {model.name} ({model.wanted})" for part, model in missing.items())
    copies = ", ".join(f"{model.local_copy} as {part}" for part, model in missing.items())
    return (
        f"cannot get weights, {reason}. Missing in the local cache: {models}. "
        f"Run `grounded download` where there is a connection, or name local copies, {copies}: "
        f'{next(iter(missing))}={{"checkpoint": PATH}} in Python, '
        f"{next(iter(missing))}: {{checkpoint: PATH}} in a YAML file"
    )


# ---- Hash ----


def hash_checkpoints(config: PipelineConfig, parts: Sequence[str] | None = None) -> dict[str, str]:
    """Return 16 hexadecimal digits for each of these parts, which change whenever its files do.

    Results state them, because weights may change under an old name. All files are read, about a second per gigabyte.

    Args:
        config: names the checkpoints.
        parts: "detector", "clip", "segmenter"; None for those that the configuration uses. Parts that are not on this
            machine are left out.
    """
    used = [part for part, checkpoint in config.models.items() if checkpoint is not None]
    hashes = {}
    for part in used if parts is None else parts:
        if files := _find_hashed_files(part, config):
            digest = hashlib.sha256()
            for path in files:
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
                with path.open("rb") as file:
                    while block := file.read(_BLOCK_SIZE):
                        digest.update(block)
            hashes[part] = digest.hexdigest()[:16]
    return hashes


def _find_hashed_files(part: str, config: PipelineConfig) -> list[Path]:
    try:
        place = locate(part, config)
    except (CheckpointError, ConfigError):  # loading the model reports the reason
        return []
    path = place.cached() if isinstance(place, HubModel) else place
    if path is None:
        return []
    files = _list_files(place, path)
    if not (isinstance(place, HubModel) or path.is_file()):
        files = [file for file in files if file.suffix in _HASHED_SUFFIXES]
    for addition in map(Path, config.segmenter.additions if part == "segmenter" else ()):
        files += (
            [addition] if addition.is_file() else sorted(file for file in addition.glob("adapter_*") if file.is_file())
        )
    return files
