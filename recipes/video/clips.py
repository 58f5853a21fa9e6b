"""Drawn clips with exact masks: objects of the tiny world that move, turn, hide behind one another, leave and return.

A clip is a function of its split and its number, as the scenes of `recipes.tiny` are. Draw a sheet to look at:
`python -m recipes.video.clips sheet.png`.
"""

import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from recipes.tiny.backgrounds import draw_background
from recipes.tiny.canvas import plain_shape
from recipes.tiny.glyphs import atlas, tinted
from recipes.tiny.scenes import SPLITS
from recipes.tiny.vocabulary import COLORS, NEVER_TINTED, is_held_out, nouns

FRAMES = 48
MIN_SIDE, MAX_SIDE = 256, 480  # of the longer side, in pixels
MIN_SIZE, MAX_SIZE = 0.14, 0.42  # of an object, as a fraction of the longer side
ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9)
TINT_SHARE, TWIN_SHARE = 0.3, 0.25
CLIP_SEED = 7  # so that clip 3 is not made with the random numbers of scene 3


@dataclass(frozen=True)
class Clip:
    """A drawn clip of t frames."""

    frames: np.ndarray  # (t, height, width, 3) uint8 RGB
    labels: np.ndarray  # (t, height, width) uint8: 1 + the index of the object that is visible there, 0 for none
    objects: tuple[tuple[str, str | None], ...]  # noun and colour of each

    def mask(self, frame: int, index: int) -> np.ndarray:
        """The visible pixels of one object in one frame, (height, width) bool."""
        return self.labels[frame] == index + 1


@dataclass(frozen=True)
class Mover:
    """Something that moves through a clip. All arrays have one entry per frame."""

    pixels: np.ndarray  # (h, w, 4) uint8 RGBA
    label: int  # 1 + its index among the objects; 0 for what only hides others
    centre: np.ndarray  # (t, 2) x y in pixels of the frame
    scale: np.ndarray  # (t, 2) frame pixels per own pixel, along its own axes
    angle: np.ndarray  # (t) radians


def draw_clip(split: str, number: int, frames: int = FRAMES, every: int = 1) -> Clip:
    """Draw clip `number` of a split ("train", "validation" or "test").

    Args:
        split: its name.
        number: of the clip within the split.
        frames: the length of the motion.
        every: draw only every n-th frame of it.
    """
    rng = np.random.default_rng([CLIP_SEED, SPLITS[split], number])
    long = int(rng.integers(MIN_SIDE, MAX_SIDE + 1))
    short = round(long / ASPECTS[rng.integers(len(ASPECTS))])
    width, height = (long, short) if rng.random() < 0.75 else (short, long)
    background = _moving_background(rng, width, height, frames)
    cast = _draw_cast(rng)
    movers = [_draw_mover(rng, _glyph(*member), 1 + index, width, height, frames) for index, member in enumerate(cast)]
    for _ in range(rng.integers(0, 3)):
        side = int(rng.uniform(0.15, 0.5) * long)
        shape = plain_shape(rng, max(int(side * rng.uniform(0.3, 1)), 8), side, ("plate", "card", "star"))
        movers.append(_draw_mover(rng, shape, 0, width, height, frames))
    rng.shuffle(movers)  # type: ignore[arg-type]
    light = 1 + rng.uniform(0, 0.3) * _wave(rng, frames) * (rng.random() < 0.5)
    shown = range(0, frames, every)
    images, labels = zip(*(_draw_frame(background(t), movers, t, light[t]) for t in shown), strict=True)
    return Clip(np.stack(images), np.stack(labels), tuple(cast))


def _draw_cast(rng: np.random.Generator) -> list[tuple[str, str | None]]:
    cast: list[tuple[str, str | None]] = []
    for _ in range(rng.integers(1, 5)):
        noun = nouns()[rng.integers(len(nouns()))]
        if cast and rng.random() < TWIN_SHARE:
            cast.append(cast[rng.integers(len(cast))])
            continue
        allowed = [] if noun in NEVER_TINTED else [color for color in COLORS if not is_held_out(color, noun)]
        is_tinted = allowed and rng.random() < TINT_SHARE
        cast.append((noun, allowed[rng.integers(len(allowed))] if is_tinted else None))
    return cast


def _glyph(noun: str, color: str | None) -> np.ndarray:
    return atlas()[noun] if color is None else tinted(atlas()[noun], color)


def _wave(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A smooth curve between -1 and 1, one value per frame."""
    time = np.arange(frames) / FRAMES
    waves = [np.sin(2 * np.pi * (rng.uniform(0.3, 2.0) * time + rng.random())) for _ in range(2)]
    share = rng.random()
    return share * waves[0] + (1 - share) * waves[1]


def _draw_mover(
    rng: np.random.Generator, pixels: np.ndarray, label: int, width: int, height: int, frames: int
) -> Mover:
    """Something with a path of its own: it wanders, crosses the image, or leaves it and returns."""
    long, time = max(width, height), np.arange(frames) / FRAMES
    size = rng.uniform(MIN_SIZE, MAX_SIZE) * long
    extent = np.array([width, height], np.float64)
    start = extent * rng.uniform(0.15, 0.85, 2)
    kind = rng.choice(["wander", "cross", "leave"], p=[0.5, 0.2, 0.3])
    if kind == "wander":
        reach = rng.uniform(0.02, 0.3) * long
        centre = start + reach * np.stack([_wave(rng, frames), _wave(rng, frames)], 1)
        centre = centre.clip(0.1 * extent, 0.9 * extent)
    else:
        # Across the border at the side, beyond it for a while if it leaves, and back.
        direction = rng.uniform(0, 2 * np.pi)
        far = (long + size) * rng.uniform(0.6, 1.1) * np.array([np.cos(direction), np.sin(direction)])
        if kind == "cross":
            centre = start - far / 2 + far * np.clip(time, 0, 1)[:, None]
        else:
            middle, spread = rng.uniform(0.35, 0.7), rng.uniform(0.08, 0.2)
            centre = start + far * np.exp(-(((time - middle) / spread) ** 2))[:, None]
        centre = centre + 0.03 * long * np.stack([_wave(rng, frames), _wave(rng, frames)], 1)
    zoom = np.exp(rng.uniform(0, 0.4) * _wave(rng, frames))
    turned_away = 1 - rng.uniform(0, 0.4) * np.abs(_wave(rng, frames))  # narrower as it turns around its upright axis
    if rng.random() < 0.5:
        turned_away = -turned_away  # mirrored
    scale = size / max(pixels.shape[:2]) * zoom
    angle = rng.normal(0, 0.3) + rng.uniform(0, 0.9) * _wave(rng, frames) * (rng.random() < 0.6)
    return Mover(pixels, label, centre, np.stack([scale * turned_away, scale], 1), angle)


def _moving_background(rng: np.random.Generator, width: int, height: int, frames: int):
    """A function from the frame to the background, seen by a camera that stands still, or pans."""
    moves = rng.random() < 0.5
    margin = int(0.15 * max(width, height)) if moves else 0
    wide = draw_background(rng, width + 2 * margin, height + 2 * margin, rng.random() < 0.5)
    wide = wide.clip(0, 255).astype(np.float32)
    path = np.stack([_wave(rng, frames), _wave(rng, frames)], 1) * margin + margin

    def background(frame: int) -> np.ndarray:
        x, y = path[frame].round().astype(int).clip(0, 2 * margin)
        return wide[y : y + height, x : x + width].copy()

    return background


def _draw_frame(image: np.ndarray, movers: list[Mover], frame: int, light: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros(image.shape[:2], np.uint8)
    for mover in movers:
        before = max(frame - 1, 0)
        speed = mover.centre[frame] - mover.centre[before]
        # The shutter is open for half of the time between two frames.
        taps = np.linspace(-0.25, 0.25, 5 if np.abs(speed).max() > 6 else 1)
        drawn = [_place(mover, frame, mover.centre[frame] + tap * speed, image.shape) for tap in taps]
        layers = [layer for layer in drawn if layer is not None]
        if not layers:
            continue
        whole = np.zeros((*image.shape[:2], 4), np.float32)
        for window, layer in layers:
            whole[window] += layer / len(taps)
        x0, y0 = (min(w[axis].start for w, _ in layers) for axis in (1, 0))
        x1, y1 = (max(w[axis].stop for w, _ in layers) for axis in (1, 0))
        window = np.s_[y0:y1, x0:x1]
        alpha = whole[window][..., 3:] / 255
        image[window] = image[window] * (1 - alpha) + whole[window][..., :3]
        labels[window][alpha[..., 0] > 0.5] = mover.label
    return (image * light).clip(0, 255).astype(np.uint8), labels


def _place(mover: Mover, frame: int, centre: np.ndarray, shape: tuple[int, ...]):
    """The window of the frame that a mover covers, and its premultiplied RGBA pixels there; None outside."""
    height, width = mover.pixels.shape[:2]
    cos, sin = np.cos(mover.angle[frame]), np.sin(mover.angle[frame])
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.diag(mover.scale[frame])  # own pixels to frame pixels
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2] @ forward.T + centre
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [shape[1], shape[0]])
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    # A glyph much larger than it is shown is reduced first, since the transformation samples single pixels.
    scale = np.abs(mover.scale[frame]).max()
    shrunk = Image.fromarray(mover.pixels)
    if scale < 0.5:
        reduced = max(round(width * scale * 1.5), 4), max(round(height * scale * 1.5), 4)
        shrunk = shrunk.resize(reduced, Image.Resampling.BOX)
    inverse = np.linalg.inv(forward)
    ratio = np.array([shrunk.width / width, shrunk.height / height])
    offset = (inverse @ (np.array([x0, y0]) - centre) + [width / 2, height / 2]) * ratio
    matrix = inverse * ratio[:, None]
    data = (*matrix[0], offset[0], *matrix[1], offset[1])
    pixels = shrunk.convert("RGBa").transform(
        (x1 - x0, y1 - y0), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
    )
    return np.s_[y0:y1, x0:x1], np.asarray(pixels, np.float32)


def sheet(path: str, clips: int = 8, columns: int = 8, cell: int = 200, split: str = "train") -> None:
    """A contact sheet: one clip per row, with the outlines of its masks."""
    page = Image.new("RGB", (columns * cell, clips * cell))
    for row in range(clips):
        clip = draw_clip(split, row, every=FRAMES // columns)
        for column in range(columns):
            image, labels = clip.frames[column].copy(), clip.labels[column]
            edge = (labels != np.roll(labels, 1, 0)) | (labels != np.roll(labels, 1, 1))
            image[edge] = (255, 0, 255)
            tile = Image.fromarray(image)
            tile.thumbnail((cell, cell))
            page.paste(tile, (column * cell, row * cell))
    page.save(path)


if __name__ == "__main__":
    sheet(sys.argv[1])
