"""The network of the one-stage detector: what each cell of an image embedding shows, and where its object ends.

Dense one-stage detection as FCOS has it (Tian et al., 2019: the distances from a cell to the sides of its box, and a
quality that ranks boxes), with an embedding in the space of phrases in place of classes, as in open-vocabulary
detectors (Zhou et al., 2022). A cell sees the sides of a large object from afar: the boxes of promising cells are
refined from what the embedding shows at points all over them (as Zhang et al., 2021, VarifocalNet, refine theirs).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
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
    points: int = 0  # along a side of a box, at which its refinement looks; 0: boxes are not refined
    point_dim: int = 48  # channels of the embedding that it sees there
    refined_width: int = 256  # of its layers
    rounds: int = 2  # of refinement, by the same layers, each from the boxes of the one before


class Cells(NamedTuple):
    """What n cells of b embeddings show; of a whole embedding n = h * w.

    embeddings  of unit length, in the space of phrases
    boxes       of the objects, xyxy in sides of the model frame
    quality     logit of the IoU of that box with the object's
    """

    embeddings: Float[Tensor, "b n d"]
    boxes: Float[Tensor, "b n 4"]
    quality: Float[Tensor, "b n"]

    def at(self, rows: Int64[Tensor, "b m"]) -> "Cells":
        """Return these m cells of each embedding."""
        return Cells(*(take_rows(values, rows) for values in self))


def take_rows(values: Shaped[Tensor, "b n *d"], rows: Int64[Tensor, "b m"]) -> Shaped[Tensor, "b m *d"]:
    """Return these m rows of each of b."""
    return values[torch.arange(len(values), device=values.device)[:, None], rows]


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
        self.refinement = BoxRefinement(config) if config.points else None
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
            embeddings=nn.functional.normalize(self.word(hidden).float().flatten(2).transpose(1, 2), dim=-1),
            boxes=cell_boxes(self.sides(hidden).float().exp().clamp(max=_MAX_REACH)),
            quality=self.quality(hidden).float().flatten(1),
        )

    def refine(self, features: Float[Tensor, "b c h w"], cells: Cells, rows: Int64[Tensor, "b m"]) -> list[Cells]:
        """Look again at the boxes of m cells of each embedding.

        Returns:
            the answers after each round; without a refinement one, as it was.
        """
        last = cells.at(rows)
        if self.refinement is None:
            return [last]
        return [last := self.refinement(features, last) for _ in range(self.config.rounds)]

    def logits(self, embeddings: Float[Tensor, "*n d"], phrases: Float[Tensor, "p d"]) -> Float[Tensor, "*n p"]:
        """Return the logit of each of p phrases for each of n cells, both of unit length."""
        return embeddings @ phrases.T * self.scale.exp() + self.bias


class BoxRefinement(nn.Module):
    """Moves the sides of a box, and changes what it shows, by the embedding at a grid of points on and around it.

    Before training it changes nothing. Its gradients reach the embedding, but not the boxes that it starts from.
    """

    _SPAN = 1.4  # of the grid, in sides of the box: what lies just outside tells where an object ends

    def __init__(self, config: OneStageConfig) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(config.dim, config.point_dim, 1)
        width = config.refined_width
        self.layers = nn.Sequential(
            nn.Linear(config.point_dim * config.points**2 + 2, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
        )
        self.word, self.sides, self.quality = (
            nn.Linear(width, config.text_dim),
            nn.Linear(width, 4),
            nn.Linear(width, 1),
        )
        for last in (self.word, self.sides, self.quality):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        steps = torch.linspace(-self._SPAN / 2, self._SPAN / 2, config.points)
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("grid", grid, persistent=False)
        self.grid: Tensor

    def forward(self, features: Float[Tensor, "b c h w"], cells: Cells) -> Cells:
        """Refine the boxes of n cells of each embedding."""
        boxes = cells.boxes.detach()
        centres, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        height, width = features.shape[-2:]
        points = centres[..., None, :] + self.grid * sizes[..., None, :]  # (b, n, points, 2), in sides of the frame
        places = points * (2 * max(height, width) / points.new_tensor([width, height])) - 1
        seen = nn.functional.grid_sample(self.narrow(features).float(), places, align_corners=False)
        read = torch.cat([seen.permute(0, 2, 1, 3).flatten(2), sizes.clamp(min=1e-3).log()], dim=-1)
        hidden = self.layers(read)
        return Cells(
            embeddings=nn.functional.normalize(cells.embeddings + self.word(hidden), dim=-1),
            boxes=boxes + self.sides(hidden) * sizes.repeat(1, 1, 2),
            quality=cells.quality + self.quality(hidden)[..., 0],
        )


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
