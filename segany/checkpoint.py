"""Load weights from files, folders, the Hugging Face hub or this package, and save weights to files.

Files are read with safetensors or `torch.load(weights_only=True)`, so loading a checkpoint never runs code from it.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segany.config import PRESETS, SegAnyConfig
from segany.device import find_device
from segany.errors import CheckpointError
from segany.files import PathLike, write_safetensors
from segany.formats.adapters import base_of, is_adapter_folder, with_adapter
from segany.formats.decoder import with_decoder
from segany.formats.files import WHOLE_FILES
from segany.formats.text_adapter import with_text_adapter
from segany.formats.whole_model import CONFIG_FILE, read_model
from segany.hub import HubModel, split_revision
from segany.model import SegAny
from segany.modeling.prompt_encoder import PromptEncoder
from segany.precision import own_precision, resolve_dtype
from segany.state_dict import POSITION_CODE, TEXT_PREFIX, decoder_sizes, is_mobile_sam

_WEIGHTS = Path(__file__).parent / "weights"
BUNDLED = {name: _WEIGHTS / f"{name}.safetensors" for name in ("photo", "tiny")}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_HUB_FILE = re.compile(r"(\w[\w.-]*/[\w.-]+)/([\w.-]+)")


@own_precision()
def load(
    source: PathLike = "photo",
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    text_dim: int | None = None,
    *,
    decoder: PathLike | None = None,
    adapter: PathLike | None = None,
    text_adapter: PathLike | None = None,
    image_size: int | None = None,
    hq_token_only: bool = False,
) -> SegAny:
    """Load a model with its weights, in evaluation mode.

    Args:
        source: one of
            "photo" or "tiny", the weights bundled with this package, trained on photographs and on drawn scenes;
            a `.pth` file as published by Meta, MobileSAM's `mobile_sam.pt`, or SAM-HQ's `sam_hq_vit_*.pth`;
            such weights as a training script saved them: within other entries, with any prefix, beside an optimizer;
            of weights and their average over training (EMA), the average is taken;
            a `.safetensors` file, from `save` or with the tensor names of Meta, MobileSAM or Hugging Face;
            a folder in the layout of `facebook/sam-vit-base` (config.json beside the weights, which may be in shards);
            the folder of an adapter that names its base;
            the hub id of such a folder, or of one file as in `dhkim2810/MobileSAM/mobile_sam.pt`, taken from the local
            cache or downloaded; `@` and a commit, tag or branch at its end ask for that revision.
        device: where to put the model; the CPU by default.
        dtype: of the image encoder: "float32" (the default), "bfloat16", or "auto" for bfloat16 where the device
            supports it natively and float32 elsewhere (see `resolve_dtype`).
        text_dim: add an untrained text prompt of this width to a checkpoint without one, for training.
        decoder: a file with a mask decoder, which takes the place of that of `source`; with or without its prefix.
        adapter: low-rank updates (LoRA) that are merged into the weights: a folder of `peft`, or a SAM-LoRA file.
        text_adapter: a file with a text prompt that was trained for `source`, as `grounded train text-prompt` writes.
        image_size: side of the model frame in pixels, for weights of a TinyViT, whose shapes do not tell it (1024 if it
            is not given); other weights must be for this size.
        hq_token_only: for SAM-HQ: its own mask, instead of its sum with that of Segment Anything.

    Raises:
        CheckpointError: the weights are not found, cannot be read or do not fit; the message says what the file is
            where that is known, and names the first missing and unexpected tensors.
        DeviceError: the device is not there.
        ValueError: unknown dtype.
    """
    device = find_device(device)
    encoder_dtype = resolve_dtype(dtype, device)
    loaded_with = {
        "source": _absolute(source),
        "device": str(device),
        "dtype": encoder_dtype,
        "text_dim": text_dim,
        "decoder": None if decoder is None else _absolute(decoder),
        "adapter": None if adapter is None else _absolute(adapter),
        "text_adapter": None if text_adapter is None else _absolute(text_adapter),
        "image_size": image_size,
        "hq_token_only": hq_token_only,
    }
    path = _find(source)
    if path.is_dir() and is_adapter_folder(path) and not (path / CONFIG_FILE).is_file():
        base = base_of(path)
        if base is None or adapter is not None:
            raise CheckpointError(f"{path}: is an adapter that names no base: segany.load(base, adapter=...)")
        path, adapter = _find(base), path
    stored = read_model(path)
    state, config = stored.state, stored.build_config()
    config, state = _with_files(config, state, path, decoder, adapter, text_adapter)
    config, state = _with_options(config, state, path, image_size, hq_token_only, text_dim)
    model = _build(config, state, path).eval()
    model.image_encoder.to(encoder_dtype)
    model.loaded_with = loaded_with
    return model.to(device=device)


def _with_files(
    config: SegAnyConfig,
    state: dict[str, Tensor],
    path: Path,
    decoder: PathLike | None,
    adapter: PathLike | None,
    text_adapter: PathLike | None,
) -> tuple[SegAnyConfig, dict[str, Tensor]]:
    """Return configuration and weights with what further files add to those of `path`, or put in their place."""
    if decoder is not None:
        state = with_decoder(state, _find(decoder))
    if adapter is not None:
        state = with_adapter(state, _find(adapter))
    if decoder is not None or adapter is not None:
        config = _change(config, path, decoder_sizes(state))
    if text_adapter is not None:
        state, width = with_text_adapter(state, _find(text_adapter))
        config = _change(config, path, {"text_dim": width})
    return config, state


def _with_options(
    config: SegAnyConfig,
    state: dict[str, Tensor],
    path: Path,
    image_size: int | None,
    hq_token_only: bool,
    text_dim: int | None,
) -> tuple[SegAnyConfig, dict[str, Tensor]]:
    """Return configuration and weights as the caller asks for them, with an untrained text prompt if need be."""
    if image_size is not None and image_size != config.image_size:
        if not is_mobile_sam(state):
            raise CheckpointError(
                f"{path}: the weights are for images of {config.image_size} px, asked for {image_size} px"
            )
        config = _change(config, path, {"image_size": image_size})
    if hq_token_only:
        config = _change(config, path, {"hq_token_only": True})
    if text_dim is not None and config.text_dim != text_dim:
        if config.text_dim is not None:
            raise CheckpointError(f"{path}: has a text prompt of width {config.text_dim}, asked for {text_dim}")
        config = replace(config, text_dim=text_dim)
        untrained = PromptEncoder(config).state_dict(prefix="prompt_encoder.")
        state = state | {key: value for key, value in untrained.items() if key.startswith(TEXT_PREFIX)}
    return config, state


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


def _absolute(source: PathLike) -> str:
    """The source as text, with an absolute path where it is that of a file or folder."""
    name = os.fspath(source)
    return os.path.abspath(name) if name not in BUNDLED and os.path.exists(name) else name


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
    hub_name, revision = split_revision(name) if isinstance(source, str) else ("", None)
    if _HUB_ID.fullmatch(hub_name) and not hub_name.endswith(_FILE_SUFFIXES):
        return HubModel(hub_name, needed=((CONFIG_FILE,), WHOLE_FILES), revision=revision)
    match = _HUB_FILE.fullmatch(hub_name)
    if match and hub_name.endswith(_FILE_SUFFIXES):
        return HubModel(
            match[1],
            needed=((match[2],),),
            instead="give the path of a local file, which this is not",
            revision=revision,
            local=f"the file {match[2]}",
        )
    raise CheckpointError(f"{name}: no such checkpoint file or folder, and not a hub id such as facebook/sam-vit-base")


def _find(source: PathLike) -> Path:
    """The local file or folder of a source, downloaded if necessary."""
    location = locate(source)
    if isinstance(location, Path):
        return location
    folder = location.find()
    files = location.files(folder)
    return folder if len(files) > 1 else files[0]


def _change(config: SegAnyConfig, path: Path, changes: dict[str, Any]) -> SegAnyConfig:
    try:
        return replace(config, **changes)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


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


def _describe(kind: str, keys: list[str], shown: int = 3) -> str:
    names = f" ({', '.join(keys[:shown])}{', ...' if len(keys) > shown else ''})" if keys else ""
    return f"{len(keys)} {kind}{names}"
