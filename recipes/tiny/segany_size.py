"""The input sizes at which segany `tiny` learns; it ends at the one it is shipped for.

Steps at 256 px cost a fraction of those at 384 px. The learnt positions are interpolated from one to the other, as is
usual for ViTs (Dosovitskiy et al. 2021, section 3.2); the other weights do not depend on the size.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from segany import PRESETS, SegAny, SegAnyConfig

SHIPPED = PRESETS["tiny"]


def config_for(side: int) -> SegAnyConfig:
    """segany `tiny` for inputs of `side` pixels."""
    return replace(SHIPPED, image_size=side)


def resized(model: SegAny, side: int) -> SegAny:
    """The same model for inputs of `side` pixels."""
    other = SegAny(replace(model.config, image_size=side))
    wanted = {name: value.shape for name, value in other.state_dict().items()}
    other.load_state_dict(
        {name: _interpolated(value, tuple(wanted[name])) for name, value in model.state_dict().items()}
    )
    return other.train(model.training)


def mixed(model: SegAny, other: SegAny, share: float) -> SegAny:
    """The mean of two models of one size, with `share` of the other.

    A model that was trained on from another and their mean differ in what they err at, and the mean errs less often
    (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """
    mean = SegAny(model.config)
    there = other.state_dict()
    mean.load_state_dict({name: value.lerp(there[name], share) for name, value in model.state_dict().items()})
    return mean.train(model.training)


def _interpolated(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(value.shape) == shape:
        return value
    if value.ndim == 4:  # absolute positions (1, h, w, c)
        cells = F.interpolate(value.permute(0, 3, 1, 2), shape[1:3], mode="bicubic", align_corners=False)
        return cells.permute(0, 2, 3, 1)
    # Relative positions (2 h - 1, c): the ends stay the ends.
    return F.interpolate(value.T[None], shape[0], mode="linear", align_corners=True)[0].T
