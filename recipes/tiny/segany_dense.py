"""What teaches the image encoder before and beside the prompts: every cell says what covers it and how far that goes.

A prompt trains one mask; these losses train every cell of the embedding at once, so the encoder learns objects, their
edges and their names in far fewer steps. All readings are linear and dropped after training.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny.pool import PoolScene, mirrored
from recipes.tiny.segany_size import SHIPPED
from recipes.tiny.vocabulary import COLORS, nouns

SUB = SHIPPED.low_res_size // SHIPPED.grid_size  # mask pixels along a cell
STEP = SHIPPED.patch_size // SUB  # pixels of the frame along a mask pixel
REACH = 3 * SUB  # a cell tells its object from others within itself and its eight neighbours


def label_maps(scene: PoolScene, flip: bool) -> np.ndarray:
    """(3, low, low) int16: the object at each mask pixel (0 where none is), its noun, its colour (0: its own)."""
    low = scene.side // STEP
    maps = np.zeros((3, low, low), np.int16)
    for number, thing in enumerate(scene.objects, 1):
        mask = scene.mask(thing)
        mask = mirrored(mask, scene) if flip else mask
        covered = mask.reshape(low, STEP, low, STEP).mean((1, 3)) >= 0.5
        color = 0 if thing.color is None else 1 + COLORS.index(thing.color)
        maps[:, covered] = np.array([number, nouns().index(thing.noun), color], np.int16)[:, None]
    return maps


class DenseReadings(nn.Module):
    """Linear readings of an image embedding (b, c, grid, grid)."""

    def __init__(self) -> None:
        super().__init__()
        width = SHIPPED.prompt_dim
        self.foreground = nn.Linear(width, SUB * SUB)
        self.together = nn.Linear(width, REACH * REACH)
        self.sides = nn.Linear(width, 4)
        self.noun = nn.Linear(width, len(nouns()))
        self.color = nn.Linear(width, 1 + len(COLORS))

    def losses(self, features: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """Losses of features (b, c, grid, grid) against `label_maps` (b, 3, low, low)."""
        cells = features.flatten(2).transpose(1, 2)  # (b, n, c)
        objects = maps[:, :1].float()
        own = F.unfold(objects, SUB, stride=SUB).transpose(1, 2)  # (b, n, SUB²)
        around = F.unfold(objects, REACH, stride=SUB, padding=SUB).transpose(1, 2)  # (b, n, REACH²)
        centre = own[..., (SUB // 2) * SUB + SUB // 2]
        inside = centre > 0
        if not inside.any():
            return {"foreground": F.binary_cross_entropy_with_logits(self.foreground(cells), (own > 0).float())}
        named = cells[inside]
        noun, color = maps.flatten(2)[:, 1:, _middles(maps.shape[-1])].transpose(1, 2)[inside].long().unbind(1)
        same = (around == centre[..., None])[inside].float()
        return {
            "foreground": F.binary_cross_entropy_with_logits(self.foreground(cells), (own > 0).float()),
            "together": F.binary_cross_entropy_with_logits(self.together(named), same),
            "sides": 2 * F.l1_loss(self.sides(named), _sides(maps[:, 0])[inside]),
            "noun": 0.3 * F.cross_entropy(self.noun(named), noun),
            "color": 0.1 * F.cross_entropy(self.color(named), color),
        }


def _middles(low: int) -> Tensor:
    """Indices into a flat (low, low) map of the pixel in the middle of each cell."""
    line = torch.arange(low // SUB) * SUB + SUB // 2
    return (line[:, None] * low + line).flatten()


def _sides(objects: Tensor) -> Tensor:
    """How far each cell's object reaches left, up, right and down, as a fraction of the frame: (b, grid², 4).

    objects (b, low, low): object numbers. Cells without an object get zeros.
    """
    side = objects.shape[-1]
    middles = _middles(side)
    result = torch.zeros(len(objects), len(middles), 4)
    place = torch.stack([middles % side, middles // side], 1).float() / side
    for index, numbers in enumerate(objects):
        flat = numbers.flatten()[middles]
        for number in numbers.unique():
            if number > 0:
                rows, columns = torch.nonzero(numbers == number, as_tuple=True)
                low = torch.stack([columns.min(), rows.min()]) / side
                high = torch.stack([columns.max() + 1, rows.max() + 1]) / side
                cells = flat == number
                result[index, cells] = torch.cat([place[cells] - low, high - place[cells]], 1)
    return result


def stack_maps(scenes: Sequence[PoolScene], flips: Sequence[bool]) -> Tensor:
    """`label_maps` of several scenes, (b, 3, low, low)."""
    return torch.from_numpy(np.stack([label_maps(s, flip) for s, flip in zip(scenes, flips, strict=True)]))
