import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from types import MappingProxyType
from typing import Literal

import pytest

from grounded.errors import ConfigError
from grounded.utils.validation import (
    Count,
    Fraction,
    IntTuple,
    TextTuple,
    checked_dataclass,
    read_as,
    typed_repr,
)


@checked_dataclass
class Size:
    sides: IntTuple
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.sides:
            raise ConfigError("sides must hold at least one, got none")


@checked_dataclass
class Job:
    name: str
    size: Size = field(default_factory=lambda: Size((1,)))
    share: Fraction | None = None
    count: Count = 1
    kind: Literal["a", "b"] = "a"
    fast: bool = False
    words: TextTuple = ()
    anything: object = None


def test_values_are_taken_as_yaml_and_json_write_them():
    data = {"name": "x", "size": {"sides": [1, 2], "scale": 2}, "share": 1, "words": ["v", "w"], "anything": [1]}
    job = read_as(Job, MappingProxyType(data), "F")
    assert job == Job("x", Size((1, 2), 2.0), share=1.0, words=("v", "w"), anything=[1])
    assert [type(job.share), type(job.size.scale)] == [float, float]
    assert Job("x", size={"sides": [1, 2], "scale": 2}).size == job.size  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(3, "F: the file must be a mapping, got int 3", id="no mapping"),
        pytest.param({}, "F: the key name is missing", id="missing"),
        pytest.param({"nam": 1}, "F: unknown key nam: expected one of name, size", id="unknown key"),
        pytest.param({"name": "x", 1: 2}, "F: unknown key 1: expected one of name, size", id="a number as key"),
        pytest.param({"name": "x", "size": {}}, "F: the key size.sides is missing", id="missing within"),
        pytest.param({"name": "x", "size": None}, "F: size must be a mapping, got null", id="null for a mapping"),
        pytest.param({"name": "x", "size": {"sides": []}}, "F: size.sides must hold at least one, got none", id="own"),
        pytest.param({"name": "x", "size": {"sides": ["a"]}}, "F: size.sides[0] must be int, got str 'a'", id="item"),
        pytest.param({"name": "x", "size": {"sides": 1}}, "F: size.sides must be a list of int, got int 1", id="list"),
        pytest.param({"name": b"x"}, "F: name must be str, got bytes b'x'", id="bytes"),
        pytest.param({"name": "x", "count": True}, "F: count must be int, got bool True", id="bool for int"),
        pytest.param({"name": "x", "count": "1"}, "F: count must be int, got str '1'", id="text for int"),
        pytest.param({"name": "x", "count": 1.0}, "F: count must be int, got float 1.0", id="float for int"),
        pytest.param({"name": "x", "share": True}, "F: share must be float or null, got bool True", id="bool"),
        pytest.param({"name": "x", "fast": 1}, "F: fast must be bool, got int 1", id="int for bool"),
        pytest.param({"name": "x", "kind": "c"}, "F: kind must be one of a, b, got str 'c'", id="choice"),
        pytest.param({"name": "x", "share": 2}, "F: share must lie in [0, 1], got 2", id="range"),
        pytest.param({"name": "x", "share": float("nan")}, "F: share must lie in [0, 1], got nan", id="nan"),
        pytest.param({"name": "x", "count": 0}, "F: count must be at least 1, got 0", id="count"),
    ],
)
def test_errors_are_one_line(data: object, message: str):
    with pytest.raises(ConfigError) as raised:
        read_as(Job, data, "F")
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        pytest.param(lambda: Job("x", count=0), ConfigError, "^count must be at least 1, got 0$", id="value"),
        pytest.param(lambda: Job(1), ConfigError, "^name must be str, got int 1$", id="by position"),
        pytest.param(lambda: Size(()), ConfigError, "^sides must hold at least one, got none$", id="own check"),
        pytest.param(lambda: replace(Job("x"), share=2), ConfigError, r"^share must lie in \[0, 1\], got 2$", id="new"),
        pytest.param(lambda: Job(), TypeError, "name", id="too few arguments"),
        pytest.param(lambda: Size((1,), 1.0, 2), TypeError, "too many", id="too many arguments"),
        pytest.param(lambda: Size((1,), scal=1.0), TypeError, "scal", id="unknown argument"),
    ],
)
def test_constructor(construct: Callable[[], object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        construct()


def test_it_is_a_frozen_dataclass():
    job = Job("x", Size((1, 2)))
    assert asdict(job)["size"] == {"sides": (1, 2), "scale": 1.0}
    assert [f.name for f in fields(Size)] == ["sides", "scale"]
    assert pickle.loads(pickle.dumps(job)) == copy.deepcopy(job) == job and hash(job) == hash(replace(job))
    with pytest.raises(FrozenInstanceError):
        job.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(("value", "expected"), [(None, "null"), (True, "bool True"), ("a", "str 'a'")])
def test_typed_repr(value: object, expected: str):
    assert typed_repr(value) == expected
