"""Checkpoints of the original Grounding DINO package (Liu et al., 2023): weights, network sizes and tokenizer.

A .pth file holds weights alone. The sizes of the network come from a value here or from a small JSON file beside it,
never from the package's configuration files, which are programs. The tokenizer comes from a folder.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer

from grounded.errors import CheckpointError, ConfigError, one_line
from grounded.utils.validation import IntTuple, checked_dataclass, read_as
from segany.diagnose import describe_file

# Constants of the original code, whatever its configuration says.
MAX_TEXT_LEN = 256  # tokens, beyond which texts are cut
HIDDEN_DIM = 256  # of text positions, and so of the features of encoder and decoder to which they are added
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_TOKENIZER_FOLDER = "bert-base-uncased"
# Left over from training, and an index that every BERT computes itself.
_UNUSED = ("label_enc.weight", "bert.embeddings.position_ids")
# Two names of the same head; the published files hold it under one, the other or both.
_BOX_HEADS = ("bbox_embed.", "transformer.decoder.bbox_embed.")


@checked_dataclass
class Architecture:
    """The sizes of a network. The defaults are those that the two published networks share, and of Swin-T OGC."""

    embed_dim: int = 96  # of the Swin backbone
    depths: IntTuple = (2, 2, 6, 2)
    num_heads: IntTuple = (3, 6, 12, 24)
    window_size: int = 7
    nheads: int = 8  # of encoder and decoder
    enc_layers: int = 6
    dec_layers: int = 6
    dim_feedforward: int = 2048
    enc_n_points: int = 4
    dec_n_points: int = 4
    num_feature_levels: int = 4
    num_queries: int = 900
    text_vocab_size: int = 30522  # of the BERT text encoder
    text_hidden_size: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_feedforward: int = 3072
    text_positions: int = 512

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or len(self.num_heads) != 4:
            raise ConfigError(f"depths and num_heads must hold 4 stages, got {self.depths} and {self.num_heads}")


SWIN_T_OGC = Architecture()
SWIN_B_COGCOOR = Architecture(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12)
PUBLISHED = {"Swin-T OGC": SWIN_T_OGC, "Swin-B COGCOOR": SWIN_B_COGCOOR}


@dataclass(frozen=True)
class OriginalCheckpoint:
    """A checkpoint with its tokenizer. The weights, a large file, are read at their first use."""

    path: Path
    tokenizer: Any

    @classmethod
    def open(cls, source: str | PathLike[str], tokenizer: str | PathLike[str] | None = None) -> "OriginalCheckpoint":
        """Find the file of `source`, and its tokenizer: see `find_file` and `load_tokenizer`."""
        path = find_file(source)
        return cls(path, load_tokenizer(path, tokenizer))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """By their original names: see `read_weights`."""
        return read_weights(self.path)

    @cached_property
    def architecture(self) -> Architecture:
        """The sizes of the network: see `find_architecture`."""
        return find_architecture(self.path, self.weights)


def find_file(source: str | PathLike[str]) -> Path:
    """Return the .pth file of `source`: the file itself, or the only one in a folder.

    Raises:
        CheckpointError: there is no such file, or not exactly one in the folder.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(
            f"no such file: {source}; a checkpoint of the original Grounding DINO is a local .pth file, such as "
            "groundingdino_swint_ogc.pth, or a folder with one; hub ids are read by kind grounding-dino"
        )
    found = sorted(path.glob("*.pth"))
    if len(found) != 1:
        raise CheckpointError(f"{path} must hold exactly one .pth file, got {len(found)}; name the file itself")
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the parameters in a .pth file by their original names, on the CPU. Nothing but tensors is unpickled.

    Raises:
        CheckpointError: the file is damaged, or holds something other than named tensors; the message says what it is
            where that is known.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises errors of zip, of the C++ reader and of the disk alike
        if what := describe_file(path, "Grounding DINO"):
            raise CheckpointError(f"{path} {what}") from error
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(f"{path} is damaged, or holds more than tensors and is not safe to read") from error
        raise CheckpointError(f"cannot read {path}: {one_line(error, 300)}") from error
    if isinstance(stored, Mapping):
        stored = next((stored[key] for key in ("model", "state_dict") if isinstance(stored.get(key), Mapping)), stored)
    if not isinstance(stored, Mapping) or not stored or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(f"{path} must hold named tensors, by themselves or as 'model'")
    weights = {str(key).removeprefix("module."): value for key, value in stored.items()}
    for key in _UNUSED:
        weights.pop(key, None)
    for one, other in (_BOX_HEADS, _BOX_HEADS[::-1]):
        same = {other + key.removeprefix(one): value for key, value in weights.items() if key.startswith(one)}
        weights = {**same, **weights}
    return weights


def find_architecture(path: Path, weights: Mapping[str, Tensor]) -> Architecture:
    """Return the sizes of the network whose `weights` are those of `path`.

    They are read from the JSON file beside the checkpoint, "NAME.json" for "NAME.pth", where there is one. Otherwise
    the published networks are recognised by their backbones: files get renamed, shapes do not.

    Raises:
        ConfigError: the JSON file is damaged, or has an unknown key or a value of a wrong type.
        CheckpointError: there is no JSON file, and the network is none of the published ones.
    """
    description = path.with_suffix(".json")
    if description.is_file():
        try:
            data = json.loads(description.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {description}: {one_line(error)}") from error
        return read_as(Architecture, data, where=str(description))
    patches = weights.get("backbone.0.patch_embed.proj.weight")
    for architecture in PUBLISHED.values():
        if patches is not None and len(patches) == architecture.embed_dim:
            return architecture
    keys = ", ".join(field.name for field in fields(Architecture))
    raise CheckpointError(
        f"{path} is neither of the published networks ({', '.join(PUBLISHED)}); state its sizes in {description}, "
        f"where they differ from Swin-T OGC: {keys}"
    )


def load_tokenizer(path: Path, folder: str | PathLike[str] | None = None) -> Any:
    """Return the BERT tokenizer for the checkpoint `path`: from `folder`, or from files beside the checkpoint.

    Raises:
        CheckpointError: there is none, or its files are damaged.
    """
    places = [path.parent, path.parent / _TOKENIZER_FOLDER] if folder is None else [Path(folder).expanduser()]
    for place in places:
        if any((place / name).is_file() for name in _TOKENIZER_FILES):
            try:
                return BertTokenizer.from_pretrained(place, local_files_only=True)
            except Exception as error:  # damaged files raise errors of JSON and of the tokenizers library alike
                raise CheckpointError(f"cannot read the tokenizer in {place}: {one_line(error, 300)}") from error
    raise CheckpointError(
        f"no tokenizer for {path}: expected {' or '.join(_TOKENIZER_FILES)} of {_TOKENIZER_FOLDER} in "
        f"{' or '.join(map(str, places))}; put the file there, or name a folder that holds it as the tokenizer"
    )
