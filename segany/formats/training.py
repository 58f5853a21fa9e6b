"""Find the weights of Segment Anything in what training scripts save: within other entries, under any prefix."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ENCODERS = ("image_encoder", "vision_encoder")  # names of Meta and of Hugging Face
_PARTS = (*ENCODERS, "prompt_encoder", "mask_decoder", "shared_image_embedding")
_NAME = re.compile(rf"(?P<prefix>(?:[^.]+\.)*?)(?P<name>(?:{'|'.join(_PARTS)})\..+)")
# Segments that wrappers put into names: torch.compile, FSDP, activation checkpointing, Lightning Fabric and, around
# one part alone, DistributedDataParallel.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_WRAPPED_PART = re.compile(rf"\b({'|'.join(_PARTS)})\.module\.")
_DEPTH = 6  # of entries within entries


@dataclass(frozen=True)
class FoundWeights:
    """The tensors of one Segment Anything in a checkpoint.

    state   by their names without prefix
    place   where they were, such as "state_dict: sam.", for messages
    others  the tensors beside them that belong to no part of Segment Anything
    """

    state: dict[str, Tensor]
    place: str
    others: dict[str, Tensor]

    @property
    def parts(self) -> set[str]:
        return {name.split(".", 1)[0] for name in self.state}


def find_weights(content: Any) -> list[FoundWeights]:
    """List the different Segment Anything models in what a file holds, those averaged over training (EMA) first.

    Optimizer state and other entries are passed over. Models with equal tensors count as one, as do parts of a model
    that another one contains.
    """
    models: dict[tuple[tuple[str, ...], str], dict[str, Tensor]] = {}
    others: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for place, full_name, value in tensors_in(content):
        prefix, name = split_name(full_name)
        if name:
            models.setdefault((place, prefix), {})[name] = value
        else:
            others.setdefault(place, {})[full_name] = value
    found = [
        FoundWeights(state, ": ".join(filter(None, (*place, prefix))), others.get(place, {}))
        for (place, prefix), state in models.items()
    ]
    found.sort(key=lambda weights: (not _is_average(weights.place), -len(weights.state)))
    return [weights for index, weights in enumerate(found) if not any(_covers(one, weights) for one in found[:index])]


def split_name(full_name: str) -> tuple[str, str]:
    """Split the name of a tensor into a prefix and the name in Segment Anything, without what wrappers put into it.

    The latter is "" for a tensor of no part of Segment Anything.
    """
    match = _NAME.fullmatch(_WRAPPED_PART.sub(r"\1.", _WRAPPERS.sub("", full_name)))
    return (match["prefix"], match["name"]) if match else (full_name, "")


def tensors_in(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Tensor]]:
    """All tensors in nested mappings, with the keys that lead to them. A key that names a part belongs to the name."""
    if not isinstance(content, Mapping) or len(place) > _DEPTH:
        return
    for key, value in content.items():
        name = str(key)
        if isinstance(value, Tensor):
            yield place, name, value
        elif name.rsplit(".", 1)[-1] in _PARTS:
            for inner, rest, tensor in tensors_in(value, place):
                yield inner, f"{name}.{rest}", tensor
        else:
            yield from tensors_in(value, (*place, name))


def _is_average(place: str) -> bool:
    return bool(re.search(r"(?:^|[\W_])(?:ema|swa)(?:$|[\W_])", place))


def _covers(whole: FoundWeights, part: FoundWeights) -> bool:
    """Whether one model has all tensors of another, with equal values unless the first is its average."""
    if not part.state.keys() <= whole.state.keys():
        return False
    return _is_average(whole.place) or all(
        value is whole.state[name] or (value.shape == whole.state[name].shape and torch.equal(value, whole.state[name]))
        for name, value in part.state.items()
    )
