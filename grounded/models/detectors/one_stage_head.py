"""The network of the one-stage detector: what each cell of an image embedding shows, and where its object ends.

Dense one-stage detection as FCOS has it (Tian et al., 2019: the distances from a cell to the sides of its box, and a
quality that ranks boxes), with an embedding in the space of phrases in place of classes, as in open-vocabulary
detectors (Zhou et al., 2022).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from grounded.errors import CheckpointError
from segany.files import read_safetensors, write_safetensors

FILE = "one_stage.safetensors"
_MAX_REACH = 2.0  # of a side, in sides of the model frame


@dataclass(frozen=True, kw_only=True)
class OneStageConfig:
    """Sizes of the head."""

    dim: int = 128  # channels of the segmenter's embedding
    width: int = 192  # of the tower
    depth: int = 2  # of the tower
    kernel: int = 5
    groups: int = 12  # of the group norms
    text_dim: int = 384  # of phrase embeddings


class Cells(NamedTuple):
    """What the cells of b embeddings show.

    words    of unit length, in the space of phrases
    reaches  to the left, top, right and bottom side of the object's box, in sides of the model frame
    quality  logit of the IoU of that box with the object's
    """

    words: Float[Tensor, "b d h w"]
    reaches: Float[Tensor, "b 4 h w"]
    quality: Float[Tensor, "b h w"]


class OneStageHead(nn.Module):
    """A tower of depthwise convolutions on the embedding, and a linear answer for each cell.

    `fore` (whether a cell lies on an object) and `edge` (outlines, at a quarter of a cell) are for training alone.
    """

    def __init__(self, config: OneStageConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OneStageConfig()
        widths = [config.dim, *[config.width] * config.depth]
        self.tower = nn.Sequential(*(_tower_block(inner, outer, config) for inner, outer in pairwise(widths)))
        self.word = nn.Conv2d(config.width, config.text_dim, 1)
        self.sides = nn.Conv2d(config.width, 4, 1)
        self.quality = nn.Conv2d(config.width, 1, 1)
        self.fore = nn.Conv2d(config.width, 1, 1)
        self.edge = nn.Conv2d(config.dim, 16, 1)
        # Cosines to logits: of a phrase at first rarely anything but absent, as in the focal loss (Lin et al., 2017).
        self.scale = nn.Parameter(torch.tensor(2.7))
        self.bias = nn.Parameter(torch.tensor(-6.0))
        nn.init.constant_(self.sides.bias, -1.5)  # type: ignore[arg-type]
        nn.init.constant_(self.quality.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "b c h w"]) -> Cells:
        """Answer for every cell of b embeddings."""
        return self.read(self.tower(features))

    def read(self, hidden: Float[Tensor, "b k h w"]) -> Cells:
        """Answer from the output of the tower."""
        return Cells(
            words=nn.functional.normalize(self.word(hidden).float(), dim=1),
            reaches=self.sides(hidden).float().exp().clamp(max=_MAX_REACH),
            quality=self.quality(hidden)[:, 0].float(),
        )

    def logits(self, words: Float[Tensor, "*n d"], phrases: Float[Tensor, "p d"]) -> Float[Tensor, "*n p"]:
        """Return the logit of each of p phrases for each of n cells, both of unit length."""
        return words @ phrases.T * self.scale.exp() + self.bias


def _tower_block(inner: int, outer: int, config: OneStageConfig) -> nn.Sequential:
    depthwise = nn.Conv2d(inner, inner, config.kernel, padding=config.kernel // 2, groups=inner, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(inner, outer, 1), nn.GroupNorm(config.groups, outer), nn.GELU())


def cell_boxes(reaches: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b n 4"]:
    """Return the box of each of n = h * w cells, xyxy in sides of the model frame, from its centre and its reaches."""
    height, width = reaches.shape[-2:]
    side = max(height, width)
    x = ((torch.arange(width, device=reaches.device) + 0.5) / side)[None, None, :]
    y = ((torch.arange(height, device=reaches.device) + 0.5) / side)[None, :, None]
    left, top, right, bottom = reaches.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).flatten(1, 2)


def save_head(head: OneStageHead, names: Sequence[str], embeddings: Float[Tensor, "v d"], path: Path) -> None:
    """Write the head, and the names that it has learnt with their embeddings, to one file in half precision."""
    tensors = {f"head.{key}": value.half() for key, value in head.state_dict().items()}
    metadata = {"config": json.dumps(asdict(head.config)), "names": json.dumps(list(names), ensure_ascii=False)}
    write_safetensors(path, {**tensors, "names": embeddings.half()}, metadata)


def load_head(folder: str | PathLike[str]) -> tuple[OneStageHead, tuple[str, ...], Float[Tensor, "v d"]]:
    """Read what `save_head` wrote into a folder, in evaluation mode, in float32.

    Returns:
        the head, the v names that it has learnt, and their embeddings, of unit length.

    Raises:
        CheckpointError: the file is missing, cannot be read, or does not fit.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {FILE}")
    try:
        tensors, metadata = read_safetensors(path)
        config = OneStageConfig(**json.loads(metadata["config"]))
        names = tuple(map(str, json.loads(metadata["names"])))
        embeddings = nn.functional.normalize(tensors.pop("names").float(), dim=1)
        head = OneStageHead(config)
        head.load_state_dict({key.removeprefix("head."): value.float() for key, value in tensors.items()})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a one-stage detector: {str(error).splitlines()[0]}") from error
    if embeddings.shape != (len(names), config.text_dim):
        raise CheckpointError(f"{path} must hold {len(names)} names of width {config.text_dim}, got {embeddings.shape}")
    return head.eval(), names, embeddings
