"""Layers painted over each other with their owners, so that every object's visible pixels are known exactly."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

MIN_VISIBLE = 0.5  # of every object, however much is painted over it


@dataclass(frozen=True)
class Sprite:
    """One layer to paint: RGBA pixels at a place, and which object and level it belongs to."""

    pixels: np.ndarray
    x: int
    y: int
    owner: int
    level: str  # "plate", "object" or "badge"


class Canvas:
    """Layers painted in order, and for every pixel the number of the layer on top."""

    def __init__(self, background: np.ndarray) -> None:
        self.color = background
        self.top = np.full(background.shape[:2], -1, np.int16)
        self.sprites: list[Sprite] = []
        self.areas: list[int] = []

    def window(self, sprite: Sprite) -> tuple[slice, slice]:
        height, width = sprite.pixels.shape[:2]
        return slice(sprite.y, sprite.y + height), slice(sprite.x, sprite.x + width)

    def hides_too_much(self, sprite: Sprite) -> bool:
        """Whether painting this layer would leave less than half of some object visible."""
        window = self.window(sprite)
        covered = np.bincount(self.top[window][sprite.pixels[..., 3] > 127] + 1, minlength=len(self.sprites) + 1)[1:]
        for index in np.nonzero(covered)[0]:
            other = self.sprites[index]
            if other.level == "object" and other.owner != sprite.owner:
                visible = (self.top == index).sum() - covered[index]
                if visible < MIN_VISIBLE * self.areas[index]:
                    return True
        return False

    def paint(self, sprite: Sprite) -> None:
        window = self.window(sprite)
        alpha = sprite.pixels[..., 3:].astype(np.float32) / 255
        self.color[window] += alpha * (sprite.pixels[..., :3] - self.color[window])
        opaque = sprite.pixels[..., 3] > 127
        self.top[window][opaque] = len(self.sprites)
        self.sprites.append(sprite)
        self.areas.append(int(opaque.sum()))

    def mask(self, owners: set[int], levels: set[str]) -> np.ndarray:
        """The visible pixels of these objects' layers of these levels, (h, w) bool."""
        chosen = [i for i, sprite in enumerate(self.sprites) if sprite.owner in owners and sprite.level in levels]
        return np.isin(self.top, chosen)

    def touching_groups(self) -> dict[int, set[int]]:
        """For each object of a group the objects whose visible pixels touch, itself included.

        Only groups of two or three count: larger ones are a crowd, which no click means.
        """
        owner_of = np.array([sprite.owner for sprite in self.sprites] + [-1])
        owners = owner_of[self.top]
        group = list(range(max(owner_of) + 1))
        for a, b in ((owners[:, 1:], owners[:, :-1]), (owners[1:], owners[:-1])):
            meeting = (a != b) & (a >= 0) & (b >= 0)
            for first, second in set(zip(a[meeting].tolist(), b[meeting].tolist(), strict=True)):
                low, high = sorted((group[first], group[second]))
                group = [low if g == high else g for g in group]
        sets = {i: {j for j, other in enumerate(group) if other == mine} for i, mine in enumerate(group)}
        return {i: members for i, members in sets.items() if 2 <= len(members) <= 3}


def turned(glyph: np.ndarray, side: float, angle: float, flip: bool) -> np.ndarray:
    """The glyph flipped, rotated and scaled so that the longer side of its extent is `side` pixels."""
    image = Image.fromarray(glyph)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = _cut(np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, expand=True)))
    scale = side / max(pixels.shape)
    size = max(round(pixels.shape[1] * scale), 4), max(round(pixels.shape[0] * scale), 4)
    return _cut(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)))


def _cut(pixels: np.ndarray) -> np.ndarray:
    """The RGBA pixels cut to the extent of what is opaque."""
    ys, xs = np.nonzero(pixels[..., 3] > 127)
    return np.ascontiguousarray(pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])


def plain_shape(rng: np.random.Generator, width: int, height: int, kinds: tuple[str, ...]) -> np.ndarray:
    """A plain filled shape, RGBA; drawn four times larger and reduced so that its edge is smooth."""
    image = Image.new("RGBA", (width * 2, height * 2), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    fill = (*(int(c) for c in rng.integers(0, 256, 3)), 255)
    rim = fill if rng.random() < 0.4 else (*(int(c) for c in rng.integers(0, 256, 3)), 255)
    box = (0, 0, width * 2 - 1, height * 2 - 1)
    kind = kinds[rng.integers(len(kinds))]
    if kind == "plate":
        draw.ellipse(box, fill, rim, max(2, width // 12))
    elif kind == "card":
        draw.rounded_rectangle(box, min(width, height) * rng.uniform(0, 0.5), fill, rim, max(2, width // 20))
    else:
        center, turns = np.array([width, height]), np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, 0.55, 1.0)
        draw.polygon(
            [tuple(center * (1 + r * np.array([np.sin(t), -np.cos(t)]))) for t, r in zip(turns, radii, strict=True)],
            fill,
        )
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))
