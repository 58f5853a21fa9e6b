"""Images that tests look at, and the reasons for which they may be absent."""

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PICNIC, PICNIC_TRUTH = ROOT / "examples" / "picnic.png", ROOT / "examples" / "picnic.json"
F = TypeVar("F", bound=Callable)
T = TypeVar("T")


def photo(name: str) -> Path:
    """A photograph out of the folder that GROUNDED_TEST_DATA names; skips the test where there is none."""
    root = os.environ.get("GROUNDED_TEST_DATA")
    if not root:
        pytest.skip("needs photographs: GROUNDED_TEST_DATA is not set")
    path = Path(root) / "photos" / name
    if not path.is_file():
        pytest.skip(f"needs the photograph {path}")
    return path


def picnic_truth() -> dict[str, list[np.ndarray]]:
    """The true masks of the example by phrase, each (height, width) bool."""
    from segany.utils.rle import RLE, decode_rle  # here, so that tests without tensors start without PyTorch

    truth: dict[str, list[np.ndarray]] = {}
    for instance in json.loads(PICNIC_TRUTH.read_text())["instances"]:
        mask = instance["mask"]
        rle = RLE(size=mask["size"], counts=mask["counts"])
        truth.setdefault(instance["phrase"], []).append(decode_rle([rle])[0].numpy())
    return truth


def unchecked(function: F) -> F:
    """The function as its users have it, without the type checks that the test run adds around it."""
    return inspect.unwrap(function)


def build_unchecked(cls: type[T], *arguments: object, **fields: object) -> T:
    """A dataclass as its users build it, without the type checks that the test run adds around it."""
    value = object.__new__(cls)
    inspect.unwrap(cls.__init__)(value, *arguments, **fields)
    return value


def disk(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    """A (height, width) bool mask of a disk around (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2
