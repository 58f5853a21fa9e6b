"""Faster replacements for modules of transformers' Grounding DINO, exact but for rounding."""

from collections.abc import Callable, Collection
from typing import Any

from torch import nn


def replace_modules(
    model: nn.Module, kinds: Collection[type[nn.Module]], replacement: Callable[[Any], nn.Module]
) -> None:
    """Put `replacement(module)` in the place of each module of exactly one of `kinds`, not of subclasses.

    Modules that occur in several places are replaced in each of them.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in kinds:
                setattr(parent, name, replacement(child))
