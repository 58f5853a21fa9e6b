"""Dataclasses that check their values, and reading the mappings of YAML and JSON files into them. For configurations.

pydantic does the checking. Its report of several lines becomes one line, which names the file and the dotted key, and
states what was expected and what came: "X.yaml: detector.box_threshold must lie in [0, 1], got 1.5".
"""

import functools
import inspect
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, Strict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

from grounded.errors import ConfigError

T = TypeVar("T")

# Types of fields. nan lies in no range.
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
TextTuple = Annotated[tuple[str, ...], Strict(False)]  # not strict: YAML and JSON write a tuple as a list
IntTuple = Annotated[tuple[int, ...], Strict(False)]

_SHORT = reprlib.Repr()  # aliases of YAML may stand for billions of values
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 10
_UNKNOWN_KEY = ("unexpected_keyword_argument", "invalid_key")
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


@dataclass_transform(frozen_default=True)
def checked_dataclass(cls: type[T]) -> type[T]:
    """Decorate a class as a frozen dataclass whose constructor checks every value against the type of its field.

    An int is taken for a float, and a mapping for a nested dataclass. A bool is no number, and text is never parsed.
    What no type can say is checked in `__post_init__`, which raises a ConfigError that begins with the field's name.

    The constructor raises a ConfigError of one line for a wrong value, and Python's TypeError for wrong arguments.
    """

    # In strict mode pydantic takes nothing but instances for a nested dataclass. Its fields stay strict.
    def accept_mappings(cls: type[T], source: Any, handler: GetCoreSchemaHandler) -> Any:
        return {**handler(source), "strict": False}

    cls.__get_pydantic_core_schema__ = classmethod(accept_mappings)  # type: ignore[attr-defined]
    checked: Any = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))(cls)
    signature, validating_init = inspect.signature(checked), checked.__init__

    @functools.wraps(validating_init)
    def init(self: T, *args: Any, **kwargs: Any) -> None:
        values = signature.bind(*args, **kwargs).arguments
        try:
            validating_init(self, **values)
        except ValidationError as error:
            raise ConfigError(_describe_first_error(checked, error)) from None

    checked.__init__ = init
    return typing.cast(type[T], checked)


def read_as(cls: type[T], data: Any, where: str) -> T:
    """Build `cls`, a `checked_dataclass`, from the mapping `data`; absent keys keep their defaults.

    Args:
        cls: the class to build.
        data: nested mappings, lists and scalars, as YAML and JSON hold them.
        where: starts every error message, as a rule the path of the file.

    Raises:
        ConfigError: not a mapping, an unknown or missing key, a wrong type, or a value out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: the file must be a mapping, got {typed_repr(data)}")
    try:
        return typing.cast(T, cls.__pydantic_validator__.validate_python(dict(data)))  # type: ignore[attr-defined]
    except ValidationError as error:
        raise ConfigError(f"{where}: {_describe_first_error(cls, error)}") from None


def typed_repr(value: Any) -> str:
    """Return a value with its type, for error messages: "str 'much'". A long one is shortened."""
    return "null" if value is None else f"{type(value).__name__} {_SHORT.repr(value)}"


def _describe_first_error(cls: type, report: ValidationError) -> str:
    """One line on the first error that pydantic found in values of `cls`; unknown keys come before all others, since a
    misspelt key explains a missing one."""
    errors = report.errors(include_url=False)
    error = next((error for error in errors if error["type"] in _UNKNOWN_KEY), errors[0])
    kind, value = error["type"], error["input"]
    # From the outside in: the type of the value at `key`, and the dataclass that holds it.
    key, hint, holder = "", typing.cast(Any, cls), cls
    for part in error["loc"]:
        if kind != "invalid_key" and isinstance(part, int):
            key, hint = f"{key}[{part}]", typing.get_args(hint)[0]
        else:
            holder = hint
            key, hint = f"{key}.{part}", typing.get_type_hints(holder).get(str(part))
    key = key.removeprefix(".")

    if kind in _UNKNOWN_KEY:
        return f"unknown key {key}: expected one of {', '.join(field.name for field in fields(holder))}"
    if kind == "missing":
        return f"the key {key} is missing"
    if kind == "dataclass_type":
        return f"{key} must be a mapping, got {typed_repr(value)}"
    if kind == "value_error":  # of a __post_init__
        return f"{key}.{error['ctx']['error']}".removeprefix(".")
    if kind in _OUT_OF_RANGE:
        name = str(error["loc"][-1])
        return f"{key} must {_describe_range(typing.get_type_hints(holder, include_extras=True)[name])}, got {value}"
    return f"{key} must be {_describe_type(hint)}, got {typed_repr(value)}"


def _describe_type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (types.UnionType, Union):
        return " or ".join(_describe_type(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of {arguments[0].__name__}"
    return "null" if hint is type(None) else str(hint.__name__)


def _describe_range(hint: Any) -> str:
    """The range that `Field(ge=..., le=...)` states within a type, as in "lie in [0, 1]"."""
    infos = [part for option in (hint, *typing.get_args(hint)) for part in typing.get_args(option)]
    limits = [limit for info in infos if isinstance(info, FieldInfo) for limit in info.metadata]
    bounds = {name: getattr(limit, name) for limit in limits for name in ("ge", "gt", "le") if hasattr(limit, name)}
    if "le" in bounds:
        return f"lie in [{bounds['ge']}, {bounds['le']}]"
    if "gt" in bounds:
        return "be positive" if bounds["gt"] == 0 else f"be above {bounds['gt']}"
    return "not be negative" if bounds["ge"] == 0 else f"be at least {bounds['ge']}"
