"""The folder of a training.

training.json   settings, data and models; a training goes on only with the same
state.pt        weights that learn, optimizer and step
log.jsonl       losses, and the figures on held-out images; tensorboard/ has the same
images.json     which images were decoded already
embeddings/     of images and crops, where the encoder does not learn
model/          the best model so far
preset.yaml     a configuration with that model, for --config
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grounded import __version__
from grounded.config import PipelineConfig, load, override
from grounded.errors import ConfigError, ResultError
from grounded.training.log import LOG_FILE, TENSORBOARD
from grounded.training.loop import STATE_FILE
from grounded.utils.files import json_bytes, write_atomically

TRAINING_FILE, CHECKED_FILE, EMBEDDINGS, MODEL, PRESET = (
    "training.json",
    "images.json",
    "embeddings",
    "model",
    "preset.yaml",
)
_MAY_CHANGE = frozenset({"version", "validate_every", "save_every", "log_every", "device"})


def check_training_folder(folder: Path) -> None:
    """Check that a folder is new, empty, or of a training. Raises ConfigError."""
    if not folder.is_dir() or (folder / TRAINING_FILE).is_file():
        return
    stem = Path(CHECKED_FILE).stem
    own = (".lock", EMBEDDINGS)
    holds = [one.name for one in folder.iterdir() if one.name not in own and not one.name.startswith(f"{stem}.")]
    if holds:
        raise ConfigError(f"{folder} must be new, empty, or of a training, got {', '.join(sorted(holds)[:3])} in it")


def open_training(folder: Path, settings: Mapping[str, Any], restart: bool) -> None:
    """Begin a training in a folder, or check that its settings are those of the one to go on with.

    Args:
        folder: see `check_training_folder`.
        settings: plain values, nested at most once.
        restart: remove the state and the results of an earlier training; its embeddings stay.

    Raises:
        ConfigError: the folder holds a training with other settings; names them.
        OutputError: it cannot be written.
    """
    path = folder / TRAINING_FILE
    if restart:
        for name in (STATE_FILE, LOG_FILE, TRAINING_FILE, PRESET):
            (folder / name).unlink(missing_ok=True)
        for name in (MODEL, TENSORBOARD):
            shutil.rmtree(folder / name, ignore_errors=True)
    plain = json.loads(json.dumps({**settings, "version": __version__}))
    if path.is_file():
        before = _flat(_read(path))
        changed = [
            f"{name} {before.get(name)!r} instead of {value!r}"
            for name, value in _flat(plain).items()
            if name.rsplit(".")[-1] not in _MAY_CHANGE and before.get(name) != value
        ]
        if changed:
            raise ConfigError(f"{folder} holds a training with {', '.join(changed)}; --restart begins anew")
    write_atomically(path, json_bytes(plain))


def write_preset(folder: Path, base: str, **sections: Mapping[str, Any]) -> None:
    """Write the preset of a training: a base configuration with the sections that name the trained model.

    Raises:
        ConfigError: there is no such base.
    """
    config: PipelineConfig = override(load(base), **sections)
    write_atomically(folder / PRESET, config.to_yaml().encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read: {error}; --restart begins anew") from error
    if not isinstance(found, dict):
        raise ResultError(f"{path} must hold an object, got {type(found).__name__}; --restart begins anew")
    return found


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat
