"""Draw the clip of the first example: `python -m recipes.video.example examples/meadow.mp4`.

A dog runs behind a tree, turns and comes back, while a ball bounces across.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
from PIL import Image, ImageDraw

from recipes.tiny.glyphs import atlas

WIDTH, HEIGHT, FRAMES, RATE = 400, 300, 60, 15
_HORIZON = 150


def frames() -> Iterator[Image.Image]:
    """The RGB frames of the clip."""
    dog, ball, tree = (_glyph(noun, side) for noun, side in (("dog", 84), ("soccer ball", 44), ("tree", 190)))
    meadow = _meadow()
    for number in range(FRAMES):
        time = number / (FRAMES - 1)
        image = meadow.copy()
        x = WIDTH * (0.14 + 0.66 * np.sin(np.pi * time))  # to the right and back again
        _paste(image, dog if time < 0.5 else dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (x, 214))
        _paste(image, tree, (WIDTH * 0.52, 150))
        bounce = abs(np.sin(3.2 * np.pi * time))
        _paste(image, ball.rotate(-360 * time), (WIDTH * (1.04 - 1.0 * time), 262 - 90 * bounce))
        yield image


def _meadow() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for y in range(HEIGHT):
        sky, grass = (130 + y // 3, 190 + y // 5, 240), (96 + y // 8, 160 - y // 10, 70)
        draw.line([(0, y), (WIDTH, y)], fill=sky if y < _HORIZON else grass)
    rng = np.random.default_rng(2)
    for x, y in zip(rng.integers(0, WIDTH, 160), rng.integers(_HORIZON + 6, HEIGHT, 160), strict=True):
        draw.line([(int(x), int(y)), (int(x) + 2, int(y) - 6)], fill=(70, 130, 50))
    return image


def _glyph(noun: str, side: int) -> Image.Image:
    glyph = Image.fromarray(atlas()[noun]).convert("RGBA")
    glyph.thumbnail((side, side), Image.Resampling.BOX)
    return glyph


def _paste(image: Image.Image, glyph: Image.Image, centre: tuple[float, float]) -> None:
    image.paste(glyph, (round(centre[0] - glyph.width / 2), round(centre[1] - glyph.height / 2)), glyph)


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Draw the clip and write it to OUT."""
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"crf": "20", "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in frames():
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
