"""Settings of PyTorch that a caller may have around a call, and that must not change what it returns."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


@contextmanager
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    """On this device nothing can be computed, so whatever is made on it by mistake shows."""
    with torch.device("meta"):
        yield


SURROUNDINGS = [
    pytest.param(autocast, id="autocast"),
    pytest.param(default_float64, id="float64"),
    pytest.param(default_device, id="default device", marks=pytest.mark.slow),
    pytest.param(torch.inference_mode, id="inference mode", marks=pytest.mark.slow),
]
