"""Adapters of low rank (Hu et al., "LoRA") on top of a base model: their updates are merged into its weights.

Read are folders of the package `peft`, for the names of Meta as well as of Hugging Face, and the files of the SAM-LoRA
repositories that came from SAMed (Zhang and Liu, "Customized Segment Anything Model for Medical Image Segmentation"),
whose updates are for the queries and values of every block.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segany.errors import CheckpointError
from segany.formats.files import read_content
from segany.formats.training import find_weights, split_name, tensors_in
from segany.state_dict import from_hugging_face, is_hugging_face, meta_name_beside

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_HUGGING_FACE = re.compile(
    r"(?:^|\.)(?:vision_encoder|shared_image_embedding|proj_in|proj_out|layer_norm\d|hq_token)\."
)
_PEFT = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<of>weight|bias))?"
)
# Settings of peft that do not change how an adapter is merged, or are read below. `fan_in_fan_out` is for layers that
# Segment Anything does not have: peft itself switches it off for linear layers.
_HARMLESS = frozenset(
    "peft_type auto_mapping base_model_name_or_path revision task_type inference_mode r target_modules exclude_modules "
    "lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights layers_to_transform "
    "layers_pattern rank_pattern alpha_pattern megatron_core eva_config runtime_config peft_version qalora_group_size "
    "ensure_weight_tying use_dora".split()
)
# Ways to begin that change the base weights, which are not in the adapter.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_SAMED = re.compile(r"(?:.*\.)?w_(?P<side>[ab])_(?P<number>\d+)")
_FUSED = re.compile(r"(?P<qkv>.+\.attn\.qkv)\.(?:qkv|linear_(?P<side>[ab])_(?P<part>[qkv]))\.(?P<of>weight|bias)")


def is_adapter_folder(path: Path) -> bool:
    return (path / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str | None:
    """The base model that an adapter folder names, if it names one."""
    name = _read_settings(folder).get("base_model_name_or_path")
    return str(name) if name else None


def with_adapter(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Merge an adapter into a state dict with Meta's names, in float32.

    Args:
        state: of the base model; it is not changed.
        path: a folder that `peft` saved, its weights file, or a file of a SAM-LoRA repository.

    Raises:
        CheckpointError: the adapter cannot be read, cannot be merged, or is for another base.
    """
    if path.is_dir():
        return _with_peft(state, path)
    content, _ = read_content(path)
    tensors = {name: value for _, name, value in tensors_in(content)}
    if any(_PEFT.fullmatch(name) for name in tensors):
        if not is_adapter_folder(path.parent):
            raise CheckpointError(
                f"{path}: the scale of this adapter stands in {ADAPTER_CONFIG}, which is not beside it"
            )
        return _with_peft(state, path.parent)
    if any(_SAMED.fullmatch(name) for name in tensors):
        return _with_samed(state, content, tensors, path)
    if any(_FUSED.fullmatch(name) and "linear_" in name for name in tensors):
        trained = {split_name(name)[1]: value.float() for name, value in tensors.items() if split_name(name)[1]}
        return merge_inside({**state, **trained}, path)
    raise CheckpointError(
        f"{path}: not an adapter: it has no tensors such as lora_A.weight, w_a_000 or linear_a_q.weight"
    )


def merge_inside(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Merge what a training script saved unmerged: the base weights and, within them, the adapters of SAM-LoRA.

    Raises:
        CheckpointError: an adapter of `peft` is in it, whose scale was not saved.
    """
    if any(".lora_A." in name or ".base_layer." in name for name in state):
        raise CheckpointError(
            f"{path}: holds an adapter of peft that is not merged, without its scale: save the result of "
            "model.merge_and_unload(), or the folder of model.save_pretrained() and give it as adapter"
        )
    merged: dict[str, Tensor] = {}
    updates: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in state.items():
        match = _FUSED.fullmatch(name)
        if match and match["side"]:
            updates.setdefault((match["qkv"], match["part"]), {})[match["side"]] = value
        else:
            merged[f"{match['qkv']}.{match['of']}" if match else name] = value
    for (qkv, part), pair in updates.items():
        _add_to_part(merged, f"{qkv}.weight", part, pair, path)
    return merged


def _with_samed(state: dict[str, Tensor], content: Any, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    pairs: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match = _SAMED.fullmatch(name)
        if match:
            pairs.setdefault(int(match["number"]), {})[match["side"]] = value
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    if sorted(pairs) != list(range(2 * depth)):
        raise CheckpointError(
            f"{path}: has {len(pairs)} pairs w_a, w_b, and the base has {depth} blocks: expected {2 * depth}, for the "
            "queries and values of each"
        )
    # The decoder and the prompt encoder, trained in full, are in the same file.
    trained = {name: value for weights in reversed(find_weights(content)) for name, value in weights.state.items()}
    if is_hugging_face(trained):
        trained = from_hugging_face(trained)
    merged = _replaced(state, trained, path)
    for number, pair in pairs.items():
        name = f"image_encoder.blocks.{number // 2}.attn.qkv.weight"
        _add_to_part(merged, name, "qv"[number % 2], pair, path)
    return merged


def _with_peft(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    settings = _read_settings(folder)
    _check_settings(settings, folder)
    file = next((folder / name for name in _ADAPTER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: no {' or '.join(_ADAPTER_FILES)}")
    content, _ = read_content(file)
    mapped = dict(settings.get("auto_mapping") or {})
    hugging_face = any(_HUGGING_FACE.search(name) for name in content) or "transformers" in str(mapped)
    modules: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for name, value in content.items():
        match = _PEFT.fullmatch(name)
        if match and match["of"] == "bias":
            raise CheckpointError(f"{file}: cannot be merged: it has {name} (lora_bias)")
        if match:
            modules.setdefault(match["module"], {})[match["kind"]] = value.float()
        else:
            replaced[_name_in_base(name, state, hugging_face, file)] = value
    merged = _replaced(state, replaced, file)
    for module, factors in modules.items():
        name = _name_in_base(f"{module}.weight", state, hugging_face, file)
        if name not in merged:
            raise CheckpointError(f"{file}: adapts {name}, which the base does not have")
        merged[name] = _adapted(merged[name], factors, module, settings, file)
    return merged


def _adapted(
    weight: Tensor, factors: Mapping[str, Tensor], module: str, settings: Mapping[str, Any], file: Path
) -> Tensor:
    """W + s B A, where s is alpha / r, or alpha / sqrt(r) with use_rslora."""
    embedding = "lora_embedding_A" in factors
    try:
        down, up = (factors[f"lora_{'embedding_' if embedding else ''}{side}"] for side in "AB")
    except KeyError as error:
        raise CheckpointError(f"{file}: {module} has no {error}") from error
    rank = down.shape[0]
    scale = _alpha(module, settings) / (rank**0.5 if settings.get("use_rslora") else rank)
    if embedding:
        update = (up @ down).T
    elif weight.ndim == 4:
        update = F.conv2d(down.transpose(0, 1), up).transpose(0, 1)
    else:
        update = up @ down
    if update.shape != weight.shape:
        raise CheckpointError(f"{file}: {module} must be {tuple(weight.shape)}, got {tuple(update.shape)}")
    adapted = weight + scale * update
    magnitude = factors.get("lora_magnitude_vector")
    if magnitude is None:
        return adapted
    if weight.ndim != 2 or embedding:
        raise CheckpointError(f"{file}: cannot be merged: DoRA of {module}, which is no linear layer")
    # DoRA (Liu et al., 2024): the update gives the direction of each row, its length is learned separately.
    return adapted * (magnitude.flatten() / torch.linalg.norm(adapted, dim=1))[:, None]


def _alpha(module: str, settings: Mapping[str, Any]) -> float:
    """The alpha of a module: that of the first pattern that fits the end of its name, as peft finds it."""
    name = module.removeprefix("base_model.model.")
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(alpha)
    return float(settings.get("lora_alpha", 8))


def _name_in_base(name: str, state: Mapping[str, Tensor], hugging_face: bool, file: Path) -> str:
    _, plain = split_name(name.replace(".base_layer.", "."))  # of a bias that was trained beside the adapter
    if not plain:
        raise CheckpointError(f"{file}: adapts {name}, which is no part of Segment Anything")
    return meta_name_beside(plain, state) if hugging_face else plain


def _read_settings(folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no readable {ADAPTER_CONFIG}, so it is not an adapter of peft") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: must hold an object, got {type(settings).__name__}")
    return settings


def _check_settings(settings: Mapping[str, Any], folder: Path) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{folder}: an adapter of type {kind!r} cannot be merged, expected 'LORA'")
    # loftq_config is {} where it is not used.
    unknown = sorted(name for name, value in settings.items() if value and name not in _HARMLESS)
    if unknown:
        raise CheckpointError(f"{folder}: cannot be merged: {ADAPTER_CONFIG} has {', '.join(unknown)}")
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(_CHANGED_BASE):
        raise CheckpointError(
            f"{folder}: cannot be merged: init_lora_weights {start!r} changed the base, which is not in the adapter; "
            "save it with path_initial_model_for_weight_conversion"
        )


def _replaced(state: Mapping[str, Tensor], trained: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The base with the tensors that were trained in full. A whole mask decoder may have other sizes."""
    decoder = {name for name in state if name.startswith("mask_decoder.")}
    # The number of heads is that of the masks, which may have changed.
    if not {name for name in decoder if ".output_hypernetworks_mlps." not in name} <= trained.keys():
        decoder = set()
    unknown = [name for name in trained if name not in state and not (decoder and name.startswith("mask_decoder."))]
    if unknown:
        raise CheckpointError(f"{path}: has {unknown[0]}, which the base does not have")
    kept = {name: value for name, value in state.items() if name not in decoder}
    return {**kept, **{name: value.float() for name, value in trained.items()}}


def _add_to_part(state: dict[str, Tensor], name: str, part: str, pair: Mapping[str, Tensor], path: Path) -> None:
    """Add B A to the queries, keys or values in a fused projection (3 c, c)."""
    if name not in state or pair.keys() != {"a", "b"}:
        raise CheckpointError(f"{path}: adapts {name}, of which the base or one of the two factors is missing")
    weight, update = state[name].float().clone(), pair["b"].float() @ pair["a"].float()
    dim = weight.shape[1]
    if weight.shape[0] != 3 * dim or update.shape != (dim, dim):
        raise CheckpointError(f"{path}: the update of {name} must be {(dim, dim)}, got {tuple(update.shape)}")
    start = "qkv".index(part) * dim
    weight[start : start + dim] += update
    state[name] = weight
