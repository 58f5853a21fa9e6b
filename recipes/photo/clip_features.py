"""What the ImageNet backbone makes of crops: pooled features, computed once and kept on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from recipes.photo.clip_crops import Crop
from recipes.tiny.training import save_state

BACKBONE = "tf_efficientnet_lite2"
SIDE = 224  # pixels of a crop for the backbone
MEAN, STD = 127.0, 128.0
_PART = 256  # crops of a file


def make_backbone(weights: dict[str, Tensor]) -> nn.Module:
    """The network with its classifier, in eval mode."""
    backbone = timm.create_model(BACKBONE)
    backbone.load_state_dict(weights)
    return backbone.eval()


@torch.inference_mode()
def compute_features(
    backbone: nn.Module, crops: Sequence[Crop], folder: Path, batch_size: int = 32
) -> Float[Tensor, "n f"]:
    """The pooled features of crops; those that an earlier run wrote to `folder` are read.

    A folder belongs to one list of crops: the files are told apart by their place in it alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone = backbone.to(memory_format=torch.channels_last)
    parts = []
    for start in tqdm(range(0, len(crops), _PART), desc=folder.name, unit=f"{_PART} crops"):
        file, listed = folder / f"{start // _PART:04d}.pt", crops[start : start + _PART]
        if not file.exists():
            batches = (_pixels(listed[row : row + batch_size]) for row in range(0, len(listed), batch_size))
            features = [backbone.forward_head(backbone.forward_features(b), pre_logits=True).half() for b in batches]
            save_state(file, {"features": torch.cat(features)})
        parts.append(torch.load(file, weights_only=True)["features"])
    return torch.cat(parts).float()


def _pixels(crops: Sequence[Crop]) -> Float[Tensor, "b 3 s s"]:
    resized = [np.asarray(crop.draw().resize((SIDE, SIDE), resample=3)) for crop in crops]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float()
    return ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)
