"""In which floating-point type to compute: bfloat16 where the processor computes in it, float32 elsewhere."""

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instruction sets of x86 processors, the last one of ARM's


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device | str | None = None) -> torch.dtype:
    """The floating-point type that is meant by `dtype` on a device (None is the CPU).

    Args:
        dtype: "auto" for bfloat16 where `computes_in_bfloat16(device)`, else float32; "float32", "bfloat16",
            "float16"; None for float32; a floating-point `torch.dtype` stands for itself.

    Raises ValueError for other names and for types that are not floating-point.
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
    """Whether a device (None is the CPU) has bfloat16 arithmetic of its own, where others emulate it slowly.

    CPUs: AVX512-BF16, AMX-BF16 or ARM's BF16 extension. GPUs: Ampere and later, and those of AMD. Nothing else.
    """
    device = torch.device("cpu" if device is None else device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older versions of PyTorch do not tell what the processor can do.
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _NATIVE_BFLOAT16)
