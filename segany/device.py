"""Find the device to compute on, with an error that names the devices that are there."""

import torch

from segany.errors import DeviceError


def find_device(name: torch.device | str | None = None) -> torch.device:
    """Return the device of that name; None is the CPU, and "auto" is the first CUDA device where there is one.

    Raises:
        DeviceError: PyTorch knows no such device, or this machine has none; names those that it has.
    """
    counts = _count_devices()
    if name is None or name == "auto":
        return torch.device("cuda" if counts["cuda"] and name == "auto" else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ModuleNotFoundError):  # the latter for a backend whose package is not installed
        device = None
    # The devices without arithmetic, such as "meta", are left out on purpose.
    if device is not None and (device.index or 0) < counts.get(device.type, 0):
        return device
    present = ["cpu", *(f"{kind}:{index}" for kind in ("cuda", "xpu", "mps") for index in range(counts[kind]))]
    raise DeviceError(f"device {str(name)!r} is not available here: expected one of {', '.join(present)}")


def _count_devices() -> dict[str, int]:
    return {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
