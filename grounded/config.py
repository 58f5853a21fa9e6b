"""Pipeline configuration: frozen dataclasses <-> YAML presets.

A preset is a file in the `configs` folder and is named without its suffix ("tiny"). Unknown keys, wrong types and
values out of range are errors that name the key and the file.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from grounded import schema
from grounded.errors import ConfigError
from grounded.settings import PipelineConfig

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the presets inside the package; a clone and an editable install have them beside it.
_CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_BUNDLED = "bundled:"
_NAME = re.compile(r"[\w-]+")


def load(source: str | PathLike[str] | PipelineConfig) -> PipelineConfig:
    """Read a preset by name ("tiny") or a YAML file by path; a `PipelineConfig` is returned as it is.

    A string of letters, digits, `_` and `-` is the name of a preset; anything else is a path.

    Raises:
        ConfigError: no such preset or file, or its contents are wrong.
    """
    if isinstance(source, PipelineConfig):
        return source
    path = _find(source)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return schema.read(PipelineConfig, {} if data is None else data, where=str(path))


def from_dict(data: Mapping[str, Any], where: str = "config") -> PipelineConfig:
    """Build a configuration from nested mappings; absent keys keep their defaults. `where` starts error messages.

    Raises:
        ConfigError: unknown key, wrong type, or a value out of range.
    """
    return schema.read(PipelineConfig, data, where)


def override(config: PipelineConfig, **overrides: Any) -> PipelineConfig:
    """Return `config` with fields replaced.

    An override is a field of one section by its own name (`box_threshold=0.4`, `mode="text"`), `device`, or a section
    with a mapping or a section value (`detector={"checkpoint": "folder"}`), which is needed for names that several
    sections share.

    Raises:
        ConfigError: unknown or shared name, wrong type, or a value out of range.
    """
    data = config.to_dict()
    sections = {f.name: getattr(config, f.name) for f in fields(config) if is_dataclass(getattr(config, f.name))}
    for name, value in overrides.items():
        if name in sections:
            changes = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            if not isinstance(changes, Mapping):
                raise ConfigError(f"overrides: {name} must be a mapping, got {schema.shown(value)}")
            data[name] = {**data[name], **changes}
        elif name in data:
            data[name] = value
        else:
            data[_owner(name, sections)][name] = value
    return from_dict(data, where="overrides")


def bundled_folder(checkpoint: str) -> Path | None:
    """Return the folder of weights inside this package that `bundled:NAME` means, or None for other checkpoints.

    Raises:
        ConfigError: there are no bundled weights of that name.
    """
    name = bundled_name(checkpoint)
    if name is None:
        return None
    folder = _PACKAGE / "weights" / name
    if not _NAME.fullmatch(name) or not folder.is_dir():
        raise ConfigError(f"no bundled weights named {name!r}: expected a folder {folder}")
    return folder


def bundled_name(checkpoint: str) -> str | None:
    """Return NAME of `bundled:NAME`, or None for other checkpoints."""
    return checkpoint.removeprefix(_BUNDLED) if checkpoint.startswith(_BUNDLED) else None


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that are shipped, sorted."""
    return tuple(sorted(path.stem for path in _presets().glob("*.yaml")))


def _presets() -> Path:
    for folder in _CONFIG_FOLDERS:
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder of presets is missing: looked for {' and '.join(map(str, _CONFIG_FOLDERS))}")


def _find(source: str | PathLike[str]) -> Path:
    if isinstance(source, str) and _NAME.fullmatch(source):
        preset = _presets() / f"{source}.yaml"
        if not preset.is_file():
            raise ConfigError(f"no preset named {source!r}: expected one of {', '.join(preset_names())} or a path")
        return preset
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"no such config file: {path}")
    return path


def _owner(name: str, sections: Mapping[str, Any]) -> str:
    owners = [key for key, section in sections.items() if name in {f.name for f in fields(section)}]
    if not owners:
        raise ConfigError(f"overrides: unknown field {name!r}")
    if len(owners) > 1:
        example = f"{owners[0]}={{{name!r}: ...}}"
        raise ConfigError(f"overrides: {name!r} is a field of {', '.join(owners)}: write for instance {example}")
    return owners[0]
