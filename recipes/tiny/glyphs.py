"""The glyph atlas: one RGBA image with a drawing for every noun, from Noto Color Emoji (SIL Open Font License 1.1,
OFL.txt).

Remake it with `python -m recipes.tiny.glyphs NotoColorEmoji.ttf`; nothing else needs the font.
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recipes.tiny.vocabulary import codepoints, nouns

ATLAS = Path(__file__).with_name("glyphs.png")
CELL = 136  # the font's bitmaps are 136 x 128
COLUMNS = 13
FONT_SIZE = 109  # the only size that the font holds

# Hue in degrees and saturation of each tint.
TINTS = {
    "red": (0, 0.9),
    "yellow": (52, 0.95),
    "green": (125, 0.85),
    "blue": (220, 0.9),
    "purple": (275, 0.8),
    "pink": (325, 0.6),
}


@cache
def atlas() -> dict[str, np.ndarray]:
    """Every noun's glyph, (h, w, 4) uint8, cut to its own extent."""
    sheet = np.asarray(Image.open(ATLAS).convert("RGBA"))
    glyphs = {}
    for index, noun in enumerate(nouns()):
        row, column = divmod(index, COLUMNS)
        cell = sheet[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        ys, xs = np.nonzero(cell[..., 3] > 127)
        glyphs[noun] = np.ascontiguousarray(cell[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])
    return glyphs


def tinted(glyph: np.ndarray, color: str) -> np.ndarray:
    """The glyph in one colour, light and shade kept: hue and saturation are replaced, luminance stretched to its mid
    range.
    """
    hue, saturation = TINTS[color]
    rgb = glyph[..., :3].astype(np.float32) / 255
    light = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    opaque = light[glyph[..., 3] > 127]
    low, high = np.percentile(opaque, (5, 95))
    light = 0.25 + 0.5 * np.clip((light - low) / max(high - low, 0.05), -0.2, 1.2)
    if color == "yellow":
        light = light * 0.8 + 0.12  # dark yellow reads as brown, pale yellow as white
    chroma = (1 - np.abs(2 * light - 1)) * saturation
    # The hexcone formula of HSL: each channel is the lightness plus chroma times a trapezoid of the hue.
    channels = []
    for offset in (0, 8, 4):
        k = (offset + hue / 30) % 12
        channels.append(light - chroma / 2 * max(-1, min(k - 3, 9 - k, 1)))
    tint = np.clip(np.stack(channels, -1) * 255, 0, 255).astype(np.uint8)
    return np.concatenate([tint, glyph[..., 3:]], -1)


def build(font_path: str) -> None:
    """Draw every noun's glyph with the font and write the atlas."""
    font = ImageFont.truetype(font_path, FONT_SIZE)
    rows = -(-len(nouns()) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL), (0, 0, 0, 0))
    for index, codepoint in enumerate(codepoints()):
        row, column = divmod(index, COLUMNS)
        cell = Image.new("RGBA", (CELL, CELL), (0, 0, 0, 0))
        ImageDraw.Draw(cell).text((0, 0), chr(codepoint), font=font, embedded_color=True)
        if cell.getbbox() is None:
            raise ValueError(f"{font_path} has no glyph for {nouns()[index]} (U+{codepoint:04X})")
        sheet.paste(cell, (column * CELL, row * CELL))
    sheet.save(ATLAS, optimize=True)


if __name__ == "__main__":
    build(sys.argv[1])
