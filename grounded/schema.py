"""Nested mappings, as YAML and JSON hold them, <-> frozen dataclasses, with every key and type checked.

Understands the field types that configurations are made of: bool, int, float, str, None, Literal, unions of these,
`tuple[X, ...]` (a list in YAML) and nested dataclasses.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar

from grounded.errors import ConfigError

T = TypeVar("T")


def read(cls: type[T], data: Any, where: str) -> T:
    """Build dataclass `cls` from the mapping `data`; absent keys keep their defaults. `where` starts every error
    message.

    Raises:
        ConfigError: not a mapping, unknown key, wrong type, or a value that the dataclass itself refuses with a
        ConfigError.
    """
    return typing.cast(T, _read(cls, data, "", where))


def to_mapping(value: Any) -> dict[str, Any]:
    """Return a dataclass as plain dicts, lists and scalars; `read` takes them back."""
    return typing.cast(dict[str, Any], _plain(asdict(value)))


def shown(value: Any) -> str:
    """Return a value with its type, for error messages: "str 'much'"."""
    return "null" if value is None else f"{type(value).__name__} {value!r}"


def _read(cls: type, data: Any, prefix: str, where: str) -> Any:
    """Build dataclass `cls` from a mapping; `prefix` is the dotted key so far, with its dot."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'the file'} must be a mapping, got {shown(data)}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {prefix}{key}: expected one of {', '.join(known)}")
    values = {key: _read_value(hints[key], value, f"{prefix}{key}", where) for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {prefix}{error}") from None


def _read_value(hint: Any, value: Any, key: str, where: str) -> Any:
    if is_dataclass(hint):
        return _read(typing.cast(type, hint), value, f"{key}.", where)
    if not _matches(hint, value):
        raise ConfigError(f"{where}: {key} must be {_expected(hint)}, got {shown(value)}")
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    # YAML writes 1 for 1.0; a field of type float then still holds a float.
    return float(value) if float in (hint, *typing.get_args(hint)) and value is not None else value


def _matches(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin in (types.UnionType, typing.Union):
        return any(_matches(argument, value) for argument in arguments)
    if origin is tuple:  # tuple[X, ...], a list in YAML
        return isinstance(value, (list, tuple)) and all(_matches(arguments[0], entry) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_expected(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of {arguments[0].__name__}"
    return "null" if hint is type(None) else str(hint.__name__)


def _plain(value: Any) -> Any:
    """Tuples as lists, since YAML and JSON have no tuples."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
