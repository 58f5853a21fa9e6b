"""Text prompts by themselves: the projection that was trained for a base model without one, in a file of a few MB."""

from pathlib import Path

import torch
from torch import Tensor

from segany.errors import CheckpointError
from segany.files import PathLike, write_safetensors
from segany.formats.files import read_content
from segany.model import SegAny
from segany.state_dict import TEXT_PREFIX

_DECODER = "mask_decoder."
_PROJECTION = f"{TEXT_PREFIX}projection.weight"
_NEEDED = (_PROJECTION, f"{TEXT_PREFIX}projection.bias", f"{TEXT_PREFIX}type_embed.weight")


def with_text_adapter(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], int]:
    """Put a text prompt, and the mask decoder where it was trained with it, onto a base model.

    Args:
        state: of the base, with Meta's names; it is not changed.
        path: a file that `save_text_adapter` wrote.

    Returns:
        the state with the text prompt, and the width of its embeddings.

    Raises:
        CheckpointError: the file is not a text adapter, or is for a base of another size.
    """
    content, _ = read_content(path)
    tensors = {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    absent = [name for name in _NEEDED if not isinstance(tensors.get(name), Tensor)]
    if absent:
        raise CheckpointError(f"{path}: is no text adapter: it has no tensor {absent[0]}")
    others = [name for name in tensors if not name.startswith((TEXT_PREFIX, _DECODER))]
    if others:
        raise CheckpointError(f"{path}: is no text adapter, it has {others[0]}: load it as a whole model")
    width, dim = state["prompt_encoder.no_mask_embed.weight"].shape[1], tensors[_PROJECTION].shape[0]
    if width != dim:
        raise CheckpointError(f"{path}: is for prompts of {dim} channels, the base has {width}")
    unknown = [name for name in tensors if name.startswith(_DECODER) and name not in state]
    if unknown:
        raise CheckpointError(f"{path}: has {unknown[0]}, which the base does not have")
    return {**state, **{name: value.float() for name, value in tensors.items()}}, tensors[_PROJECTION].shape[1]


def save_text_adapter(
    model: SegAny, path: PathLike, decoder: bool = False, dtype: torch.dtype = torch.float16, clip: str = ""
) -> None:
    """Write the text prompt of a model to a safetensors file, atomically.

    Args:
        model: with a text prompt.
        path: of the file.
        decoder: write the mask decoder as well, where it was trained with the text prompt.
        dtype: of the tensors in the file.
        clip: whose embeddings it was trained with, which is only stated.

    Raises:
        CheckpointError: the model has no text prompt, or a tensor is not finite in `dtype`.
    """
    if model.config.text_dim is None:
        raise CheckpointError("the model has no text prompt")
    prefixes = (TEXT_PREFIX, _DECODER) if decoder else (TEXT_PREFIX,)
    tensors = {name: value.to(dtype) for name, value in model.state_dict().items() if name.startswith(prefixes)}
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{name} is not finite as {dtype}")
    write_safetensors(path, tensors, {"clip": clip})
