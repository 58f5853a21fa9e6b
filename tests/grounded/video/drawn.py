"""Clips of things that the bundled models know, on paths that tests choose, with their true masks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from grounded.video.clip import ClipInfo, Frame
from recipes.tiny.backgrounds import draw_background
from recipes.tiny.glyphs import atlas
from segany.utils.rle import RLE, decode_rle, encode_rle, rle_iou

Place = tuple[float, float] | None  # x and y of a centre in pixels; None: not in the frame


@dataclass(frozen=True)
class DrawnClip:
    """A `Clip` of things that move, later ones in front, and the visible pixels of each in each frame."""

    info: ClipInfo
    images: tuple[Image.Image, ...]
    rles: tuple[tuple[RLE, ...], ...]  # by frame, then by thing

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for number in range(start, len(self.images) if stop is None else min(stop, len(self.images))):
            yield Frame(number, number / self.info.frame_rate, self.images[number])

    def centre(self, frame: int, thing: int) -> tuple[float, float]:
        """Of the visible pixels of a thing, x and y in pixels."""
        ys, xs = np.nonzero(decode_rle([self.rles[frame][thing]])[0].numpy())
        return float(xs.mean()), float(ys.mean())

    def iou(self, frame: int, thing: int, rle: RLE) -> float:
        """Of a mask with the thing in that frame."""
        return float(rle_iou([self.rles[frame][thing]], [rle])[0, 0])


def drawn_clip(
    paths: Mapping[str, Sequence[Place]], side: int = 70, size: tuple[int, int] = (240, 320), seed: int = 5
) -> DrawnClip:
    """Draw things of `side` pixels at one place per frame; a name may end in a number to occur twice: "cat 2"."""
    height, width = size
    count = len(next(iter(paths.values())))
    ground = draw_background(np.random.default_rng(seed), width, height, False).clip(0, 255).astype(np.uint8)
    images, rles = [], []
    for number in range(count):
        image, ids = Image.fromarray(ground).convert("RGBA"), np.zeros(size, np.uint8)
        for index, (name, path) in enumerate(paths.items(), start=1):
            place = path[number]
            if place is None:
                continue
            glyph = Image.fromarray(atlas()[name.rstrip(" 0123456789")]).convert("RGBA")
            glyph.thumbnail((side, side), Image.Resampling.BOX)
            layer = Image.new("RGBA", (width, height))
            layer.paste(glyph, (round(place[0] - glyph.width / 2), round(place[1] - glyph.height / 2)))
            image = Image.alpha_composite(image, layer)
            ids[np.asarray(layer)[..., 3] > 127] = index
        images.append(image.convert("RGB"))
        rles.append(tuple(encode_rle(np.stack([ids == 1 + index for index in range(len(paths))]))))
    return DrawnClip(ClipInfo("drawn", 24.0, count), tuple(images), tuple(rles))


def line(first: tuple[float, float], last: tuple[float, float], count: int) -> list[Place]:
    """`count` places on a straight line."""
    return [tuple(place) for place in np.linspace(first, last, count).tolist()]
