"""Read a whole Segment Anything from a file or a folder, as published or as training scripts save it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from segany.config import SegAnyConfig
from segany.diagnose import SEGMENT_ANYTHING, describe_file
from segany.errors import CheckpointError
from segany.formats.adapters import merge_inside
from segany.formats.files import INDEX_FILES, WHOLE_FILES, advise_saving_again, read_content, read_shards, whole_objects
from segany.formats.training import ENCODERS, FoundWeights, find_weights, tensors_in
from segany.state_dict import (
    config_from_shapes,
    from_hugging_face,
    from_mobile_sam,
    is_hugging_face,
    is_mobile_sam,
)

CONFIG_FILE = "config.json"
_MODEL_TYPES = ("sam", "sam_hq")
_PIXELS = ("pixel_mean", "pixel_std")  # fields of the configuration that some programs save as tensors
_log = logging.getLogger("segany")


@dataclass(frozen=True)
class StoredModel:
    """The weights of a model, with Meta's or MobileSAM's names in float32, and what is known of its configuration.

    config         as it was stored beside the weights; None if shapes must tell
    decoder_heads  of the mask decoder, which no shape tells
    pixels         mean and standard deviation of pixels, if they were stored
    """

    path: Path
    state: dict[str, Tensor]
    config: SegAnyConfig | None = None
    decoder_heads: int = 8
    pixels: Mapping[str, Any] = field(default_factory=dict)

    def build_config(self) -> SegAnyConfig:
        """The stored configuration, or the one that the shapes of the tensors tell.

        Raises:
            CheckpointError: a tensor is missing, or shapes do not fit together.
        """
        try:
            return self.config or replace(config_from_shapes(self.state, self.decoder_heads), **self.pixels)
        except KeyError as error:
            raise CheckpointError(f"{self.path}: {_why_incomplete(self.state, str(error))}") from error
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


def read_model(path: Path) -> StoredModel:
    """Read a file, or a folder in the layout of `facebook/sam-vit-base`.

    Raises:
        CheckpointError: it cannot be read, or holds no model or several ones; says what it is, if that is known.
    """
    if not path.is_dir():
        return _read_file(path)
    weights = next((path / name for name in (*WHOLE_FILES, *INDEX_FILES) if (path / name).is_file()), None)
    described = describe_file(path, SEGMENT_ANYTHING)
    if described:
        raise CheckpointError(f"{path} {described}")
    settings = _read_settings(path, has_weights=weights is not None)
    assert weights is not None
    # The file may omit settings equal to Hugging Face's defaults.
    decoder_heads = _whole_number(path, settings, "mask_decoder_config", "num_attention_heads")
    model = replace(_read_file(weights), decoder_heads=decoder_heads or 8)
    stated = _whole_number(path, settings, "vision_config", "image_size")
    config = model.build_config()
    if stated is not None and stated != config.image_size:
        raise CheckpointError(
            f"{path}: {CONFIG_FILE} states images of {stated} px, the weights are for {config.image_size} px"
        )
    return replace(model, config=config)


def find_model(content: Any, path: Path) -> FoundWeights:
    """The one whole model in what a file holds; of a model and its average over training (EMA), the average.

    Raises:
        CheckpointError: there is none, or there are several; says what there is.
    """
    found = [
        weights for weights in find_weights(content) if {"mask_decoder"} < weights.parts & {*ENCODERS, "mask_decoder"}
    ]
    if not found:
        raise CheckpointError(f"{path}{_why_not(content, path)}")
    if len(found) > 1:
        places = ", ".join(weights.place or "the top" for weights in found)
        raise CheckpointError(
            f"{path}: holds {len(found)} different models ({places}): save the one that is meant alone"
        )
    return found[0]


def to_meta_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert to Meta's or MobileSAM's names, in float32."""
    if is_hugging_face(state):
        state = from_hugging_face(state)
    elif is_mobile_sam(state):
        state = from_mobile_sam(state)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _read_settings(folder: Path, has_weights: bool) -> dict[str, Any]:
    absent = [] if (folder / CONFIG_FILE).is_file() else [CONFIG_FILE]
    absent += [] if has_weights else [" or ".join(WHOLE_FILES)]
    if absent:
        raise CheckpointError(f"{folder}: no {' and no '.join(absent)}")
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE}: must hold an object, got {type(settings).__name__}")
    model_type = settings.get("model_type", "sam")
    if not isinstance(model_type, str) or model_type not in _MODEL_TYPES:
        raise CheckpointError(f"{folder}: holds a model of type {model_type!r:.60}, expected 'sam' or 'sam_hq'")
    return settings


def _whole_number(folder: Path, settings: dict[str, Any], section: str, key: str) -> int | None:
    """A number of a section of the settings, None where it is not stated. Raises CheckpointError unless it is one."""
    values = settings.get(section) or {}
    value = values.get(key) if isinstance(values, dict) else values
    if value is None or (type(value) is int and value > 0):
        return value
    raise CheckpointError(f"{folder}: {CONFIG_FILE} must state a whole number as {section}.{key}, got {value!r:.60}")


def _read_file(path: Path) -> StoredModel:
    content: Any
    metadata: dict[str, str] = {}
    if path.name.endswith(".index.json"):
        content = read_shards(path)
    else:
        content, metadata = read_content(path)
    if "config" in metadata:
        try:
            return StoredModel(path, to_meta_names(content), SegAnyConfig.from_dict(json.loads(metadata["config"])))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    found = find_model(content, path)
    state = to_meta_names(merge_inside(found.state, path))
    pixels = {name: tuple(found.others[name].flatten().tolist()) for name in _PIXELS if name in found.others}
    others = [name for name in found.others if name not in (*pixels, "n_averaged")]
    if others:
        _log.warning("%s: left out %d tensors of no part of Segment Anything: %s", path, len(others), _some(others))
    return StoredModel(path, state, pixels=pixels)


def _why_incomplete(state: Mapping[str, Tensor], missing: str) -> str:
    encoder = [name for name in state if name.startswith("image_encoder.")]
    if missing == "'image_encoder.pos_embed'" and encoder:
        return (
            "its image encoder is not one that is known here, a plain ViT as Meta's or a TinyViT as MobileSAM's: "
            f"it has {_some(encoder)}"
        )
    return f"not a Segment Anything checkpoint, it has no tensor {missing}"


def _why_not(content: Any, path: Path) -> str:
    """The rest of a sentence that begins with the path of a file that holds no whole model."""
    names = [name for _, name, _ in tensors_in(content)]
    described = describe_file(path, SEGMENT_ANYTHING)
    if described:
        return f" {described}"
    if any("mask_decoder." in name or name.endswith("iou_token.weight") for name in names):
        return ": holds a mask decoder without an image encoder: name its base too, segany.load(base, decoder=...)"
    for key, kind in whole_objects(content):
        if key in (None, "model", "net", "network", "module", "ema", "sam", "state_dict"):
            return (
                f": its weights lie in an object of {kind}, and nothing but tensors is unpickled; "
                + advise_saving_again(path, key)
            )
    if not names:
        return ": must hold tensors, has none"
    return f": not a Segment Anything checkpoint, its tensors are {_some(names)}"


def _some(names: list[str], shown: int = 3) -> str:
    return f"{', '.join(names[:shown])}{', ...' if len(names) > shown else ''}"
