"""Floating-point types: which one suits a device, and how to compute in it whatever the caller has set for PyTorch."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instruction sets of x86 processors, the last one of ARM's


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device | str | None = None) -> torch.dtype:
    """Convert the name of a floating-point type to a `torch.dtype`.

    Args:
        dtype: "auto" for bfloat16 if `computes_in_bfloat16(device)`, else float32; "float32", "bfloat16" or "float16";
            None for float32; a floating-point `torch.dtype` is returned unchanged.
        device: where to compute; None is the CPU.

    Raises:
        ValueError: another name, or a type that is not floating-point.
    """
    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        return dtype
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be 'auto', {', '.join(map(repr, _DTYPES))} or a torch.dtype, got {dtype!r}")
    return _DTYPES[dtype]


def computes_in_bfloat16(device: torch.device | str | None = None) -> bool:
    """Whether a device (None is the CPU) has native bfloat16 arithmetic; others emulate it slowly.

    CPUs with AVX512-BF16, AMX-BF16 or ARM's BF16 extension; GPUs from Ampere on, and those of AMD; no other device.
    """
    device = torch.device("cpu" if device is None else device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older versions of PyTorch cannot query the instruction sets of the CPU.
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _NATIVE_BFLOAT16)


@contextmanager
def own_precision() -> Iterator[None]:
    """Compute in the precision and on the device of a model's weights, whatever the caller has set for PyTorch.

    Within it there is no autocast, the default type is float32 and the default device is the CPU. Models are computed
    inside: mixed precision that is meant for somebody's training loop would change masks, or mix types in one product.
    Works as a decorator too, except for generators.
    """
    with ExitStack() as settings:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                settings.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        if _float32.inside or torch.get_default_dtype() != torch.float32:
            settings.enter_context(_float32())
        yield


class _DefaultFloat32:
    """Makes float32 the default type. All threads share it, so the first to enter sets it, the last restores it."""

    def __init__(self) -> None:
        self.inside = 0
        self._lock = Lock()
        self._before = torch.float32

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self.inside == 0:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.inside += 1
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1
                if self.inside == 0:
                    torch.set_default_dtype(self._before)


_float32 = _DefaultFloat32()
