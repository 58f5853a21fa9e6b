"""Devices by name."""

import pytest
import torch

from segany import DeviceError
from segany.device import find_device


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param(None, "cpu", id="none"),
        pytest.param("cpu", "cpu", id="name"),
        pytest.param(torch.device("cpu"), "cpu", id="device"),
        pytest.param("auto", "cuda" if torch.cuda.is_available() else "cpu", id="auto"),
    ],
)
def test_found(name: torch.device | str | None, found: str):
    assert find_device(name) == torch.device(found)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta", "vulkan", "cpu:3", "privateuseone"])
def test_not_available(name: str):
    with pytest.raises(DeviceError, match=f"device {name!r} is not available here: expected one of cpu"):
        find_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has Metal")
def test_no_metal():
    with pytest.raises(DeviceError, match="device 'mps' is not available here: expected one of cpu"):
        find_device("mps")
