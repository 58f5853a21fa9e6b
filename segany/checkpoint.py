"""Load weights from files, folders, the Hugging Face hub or this package, and save weights to files.

Files are read with safetensors or `torch.load(weights_only=True)`, so loading a checkpoint never runs code from it.
"""

import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from segany.config import PRESETS, SegAnyConfig
from segany.errors import CheckpointError
from segany.files import PathLike, read_safetensors, write_safetensors
from segany.hub import HubModel
from segany.model import SegAny
from segany.modeling.prompt_encoder import PromptEncoder
from segany.precision import resolve_dtype
from segany.state_dict import (
    POSITION_CODE,
    TEXT_PREFIX,
    config_from_shapes,
    from_hugging_face,
    from_mobile_sam,
    is_hugging_face,
    is_mobile_sam,
)

BUNDLED = {"tiny": Path(__file__).parent / "weights" / "tiny.safetensors"}
_CONFIG_FILE = "config.json"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_HUB_FILE = re.compile(r"(\w[\w.-]*/[\w.-]+)/([\w.-]+)")


def load(
    source: PathLike = "tiny",
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    text_dim: int | None = None,
) -> SegAny:
    """Load a model with its weights, in evaluation mode.

    Args:
        source: one of
            "tiny", the weights bundled with this package, trained on drawn scenes only;
            a `.pth` file as published by Meta, or MobileSAM's `mobile_sam.pt`;
            a `.safetensors` file, from `save` or with the tensor names of Meta, MobileSAM or Hugging Face;
            a folder in the layout of `facebook/sam-vit-base` (config.json beside the weights);
            the hub id of such a folder, or of one file as in `dhkim2810/MobileSAM/mobile_sam.pt`, taken from the local
            cache or downloaded.
        device: where to put the model; the CPU by default.
        dtype: of the image encoder: "float32" (the default), "bfloat16", or "auto" for bfloat16 where the device
            supports it natively and float32 elsewhere (see `resolve_dtype`).
        text_dim: add an untrained text prompt of this width to a checkpoint without one, for training.

    Raises:
        CheckpointError: the weights are not found, cannot be read or do not fit; the message names the files or the
            first missing and unexpected tensors.
        ValueError: unknown dtype.
    """
    encoder_dtype = resolve_dtype(dtype, device)
    location = locate(source)
    path = _find(location) if isinstance(location, HubModel) else location
    state, config = _read_folder(path) if path.is_dir() else _read_file(path)
    if text_dim is not None and config.text_dim != text_dim:
        if config.text_dim is not None:
            raise CheckpointError(f"{path}: has a text prompt of width {config.text_dim}, asked for {text_dim}")
        config = replace(config, text_dim=text_dim)
        untrained = PromptEncoder(config).state_dict(prefix="prompt_encoder.")
        state |= {key: value for key, value in untrained.items() if key.startswith(TEXT_PREFIX)}
    model = _build(config, state, path).eval()
    model.image_encoder.to(encoder_dtype)
    return model.to(device=device)


def save(model: SegAny, path: PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and configuration to one safetensors file, atomically.

    Weights are stored as `dtype`, except the position code, which stays float32.

    Raises:
        CheckpointError: a tensor is not finite, or overflows in `dtype`.
    """
    state = {
        key: value.to(dtype) if value.is_floating_point() and key != POSITION_CODE else value
        for key, value in model.state_dict().items()
    }
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{key} is not finite as {dtype}")
    write_safetensors(path, state, {"config": json.dumps(model.config.to_dict())})


def locate(source: PathLike) -> Path | HubModel:
    """Find the weights of a `source` of `load`: a file or folder, or a repository on the hub, not downloaded yet.

    Raises:
        CheckpointError: there is no such file or folder, and `source` is not a hub id.
    """
    name = os.fspath(source)
    if name in BUNDLED:
        if not BUNDLED[name].is_file():
            raise CheckpointError(f"the bundled weights {name!r} are not installed: {BUNDLED[name]} does not exist")
        return BUNDLED[name]
    path = Path(source)
    if path.exists():
        return path
    if name in PRESETS:
        raise CheckpointError(f"{name!r} names a preset without weights: give a checkpoint file, a folder or a hub id")
    if isinstance(source, str) and _HUB_ID.fullmatch(name) and not name.endswith(_FILE_SUFFIXES):
        return HubModel(name, needed=((_CONFIG_FILE,), _WEIGHT_FILES))
    match = _HUB_FILE.fullmatch(name) if isinstance(source, str) else None
    if match and name.endswith(_FILE_SUFFIXES):
        return HubModel(match[1], needed=((match[2],),), instead="give the path of a local file, which this is not")
    raise CheckpointError(f"{name}: no such checkpoint file or folder, and not a hub id such as facebook/sam-vit-base")


def _find(model: HubModel) -> Path:
    """Return the local folder of a hub model, or its file if the hub id names one file."""
    folder = model.find()
    files = model.files(folder)
    return folder if len(files) > 1 else files[0]


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], SegAnyConfig]:
    weights = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    absent = [] if (folder / _CONFIG_FILE).is_file() else [_CONFIG_FILE]
    absent += [] if weights else [" or ".join(_WEIGHT_FILES)]
    if weights is None or absent:
        raise CheckpointError(f"{folder}: no {' and no '.join(absent)}")
    try:
        settings = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / _CONFIG_FILE}: not valid JSON: {error}") from error
    model_type = settings.get("model_type", "sam")
    if model_type != "sam":
        raise CheckpointError(f"{folder}: holds a model of type {model_type!r}, expected 'sam'")
    # The file may omit settings equal to Hugging Face's defaults.
    decoder_heads = (settings.get("mask_decoder_config") or {}).get("num_attention_heads", 8)
    return _read_file(weights, decoder_heads)


def _read_file(path: Path, decoder_heads: int = 8) -> tuple[dict[str, Tensor], SegAnyConfig]:
    """Read a state dict, with Meta's or MobileSAM's names in float32, and its configuration, stored or from shapes."""
    state, metadata = _read_tensors(path)
    if is_hugging_face(state):
        state = from_hugging_face(state)
    elif is_mobile_sam(state):
        state = from_mobile_sam(state)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    try:
        if "config" in metadata:
            return state, SegAnyConfig.from_dict(json.loads(metadata["config"]))
        return state, config_from_shapes(state, decoder_heads)
    except KeyError as error:
        raise CheckpointError(f"{path}: not a Segment Anything checkpoint, it has no tensor {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: must hold a dict of tensors, got {type(content).__name__} of other things")
    return content, {}


def _build(config: SegAnyConfig, state: dict[str, Tensor], path: Path) -> SegAny:
    # On the meta device no memory is allocated and no weights are initialised; the loaded tensors are assigned below.
    with torch.device("meta"):
        model = SegAny(config)
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        raise CheckpointError(f"{path}: {_describe('missing', missing)}, {_describe('unexpected', unexpected)} tensors")
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise CheckpointError(f"{path}: {key} must be {tuple(value.shape)}, got {tuple(state[key].shape)}")
    model.load_state_dict(state, assign=True)
    return model


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _describe(kind: str, keys: list[str], shown: int = 3) -> str:
    names = f" ({', '.join(keys[:shown])}{', ...' if len(keys) > shown else ''})" if keys else ""
    return f"{len(keys)} {kind}{names}"
