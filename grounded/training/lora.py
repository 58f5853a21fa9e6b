"""Low-rank updates (Hu et al., 2021, "LoRA") of linear layers, by the package peft."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grounded.errors import ConfigError
from segany.files import write_safetensors

_PREFIX = "base_model.model."  # that peft puts before the names of a model


def add_lora(model: nn.Module, layers: Sequence[str], rank: int, seed: int) -> Any:
    """Put low-rank updates into linear layers of a model, in place; at first they change nothing.

    Args:
        model: whose layers are replaced.
        layers: full names.
        rank: of the updates; their scale is 1 for any rank.
        seed: of the random factor.

    Returns:
        peft's configuration of the adapter.

    Raises:
        ConfigError: the package peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("training low-rank updates needs the package peft: the extra train has it") from error
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    return config


def linear_layers(module: nn.Module, prefix: str = "", without: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers of a part of a model, after a prefix, but for those that hold a text of `without`."""
    found = (name for name, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return [f"{prefix}{name}" for name in found if not any(text in name for text in without)]


def is_lora(name: str) -> bool:
    """Whether a parameter belongs to a low-rank update."""
    return ".lora_A." in name or ".lora_B." in name


def write_adapter(folder: Path, model: nn.Module, config: Any, base: str, trained: Sequence[str]) -> None:
    """Write an adapter as peft does: its settings, and the updates beside what was trained in full.

    Args:
        folder: exists.
        model: with the updates.
        config: of `add_lora`.
        base: what the adapter is for, which its loader finds by this name.
        trained: names of the other tensors to write.
    """
    state = model.state_dict()
    tensors = {_PREFIX + name.replace(".default.", "."): value for name, value in state.items() if is_lora(name)}
    tensors |= {_PREFIX + name: state[name] for name in trained}
    write_safetensors(folder / "adapter_model.safetensors", tensors, {})
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(folder)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model with its updates added to the weights, under the names without them."""
    state = model.state_dict()
    merged = {name.replace(".base_layer.", "."): value for name, value in state.items() if not is_lora(name)}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            base = module.base_layer.weight.detach()
            merged[f"{name}.weight"] = base + module.get_delta_weight("default").detach().to(base.dtype)
    return merged
