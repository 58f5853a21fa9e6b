"""Choose the floating-point type for a device: bfloat16 where it has native support, float32 elsewhere."""

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
