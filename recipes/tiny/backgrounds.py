"""Backgrounds for drawn scenes: flat, gradient, noise, texture, clutter.

The clutter follows the dead-leaves model (Lee, Mumford and Huang 2001): overlapping patches of power-law sizes have the
edge and colour statistics of photographs, which training never sees.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def _color(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, 3).astype(np.float32)


def _resized(array: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """Resize (h, w, 3) values in 0..255 to `size` (width, height)."""
    return np.asarray(Image.fromarray(array.clip(0, 255).astype(np.uint8)).resize(size, method), np.float32)


def flat(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return np.broadcast_to(_color(rng), (height, width, 3)).copy()


def gradient(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    corners = rng.integers(0, 256, (2, 2, 3))
    return _resized(np.repeat(np.repeat(corners, 2, 0), 2, 1), (width, height), Image.Resampling.BICUBIC)


def noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Octaves of smoothed noise around one colour; the fall-off decides between clouds and grain."""
    total = flat(rng, width, height)
    falloff, colorful = rng.uniform(0.4, 1.0), rng.random() < 0.5
    amplitude = rng.uniform(20, 90)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        values = rng.normal(127, 50, (cells, cells, 3 if colorful else 1))
        layer = _resized(np.broadcast_to(values, (cells, cells, 3)), (width, height), Image.Resampling.BICUBIC)
        total += (layer - 127) / 127 * amplitude
        amplitude *= falloff
    return total


def texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Stripes, checks, dots, bricks or waves in two colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    u = (x * np.cos(angle) + y * np.sin(angle)) / period
    v = (-x * np.sin(angle) + y * np.cos(angle)) / period * rng.uniform(0.5, 2)
    kind = rng.integers(5)
    if kind == 0:
        wave = np.sin(u * 2 * np.pi)
    elif kind == 1:
        wave = np.sign(np.sin(u * np.pi) * np.sin(v * np.pi))
    elif kind == 2:
        wave = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < rng.uniform(0.03, 0.2)) * 2.0 - 1
    elif kind == 3:
        wave = (((u + 0.5 * (np.floor(v) % 2)) % 1 < 0.1) | (v % 1 < 0.15)) * 2.0 - 1
    else:
        wave = np.sin(u * 2 * np.pi + 2 * np.sin(v * rng.uniform(0.3, 2)))
    first, second = _color(rng), _color(rng)
    if rng.random() < 0.6:
        second = (first + rng.normal(0, 35, 3)).clip(0, 255)
    return first + (second - first) * ((wave + 1) / 2)[..., None]


def clutter(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Dead leaves: ellipses, boxes and polygons of power-law sizes, some shaded, blurred or with an outline."""
    base = flat if rng.random() < 0.5 else noise
    image = Image.fromarray(base(rng, width, height).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    palette = [tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(rng.integers(2, 12))]
    side = max(width, height)
    for _ in range(rng.integers(10, 160)):
        radius = min(side * 0.015 / rng.random() ** 0.7, side * 0.5)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        fill = tuple(
            int(c) for c in (np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 12, 3)).clip(0, 255)
        )
        outline = fill if rng.random() < 0.7 else tuple(int(c) for c in rng.integers(0, 256, 3))
        stretch = rng.uniform(0.4, 1.6)
        box = (x - radius, y - radius * stretch, x + radius, y + radius * stretch)
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse(box, fill, outline, 2)
        elif kind == 1:
            draw.rectangle(box, fill, outline, 2)
        elif kind == 2:
            turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
            draw.polygon([(x + radius * np.cos(t), y + radius * stretch * np.sin(t)) for t in turns], fill, outline)
        else:
            draw.line((box[0], box[1], box[2], y), fill, int(rng.integers(1, 8)))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 4)))
    return np.asarray(image, np.float32)


def collage(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Dead leaves whose patches carry backgrounds of their own, lit, blurred at the edge and out of focus by depth:
    nearer to a photograph than flat patches are.
    """
    plain = (flat, gradient, noise, texture)
    canvas = plain[rng.integers(len(plain))](rng, width, height)
    side = max(width, height)
    for depth in np.sort(rng.uniform(0, 1, rng.integers(5, 30))):
        radius = int(np.clip(side * 0.07 / rng.random() ** 0.6, 8, side * 0.45))
        x, y = int(rng.integers(-radius, width)), int(rng.integers(-radius, height))
        patch = plain[rng.choice(4, p=(0.1, 0.25, 0.4, 0.25))](rng, 2 * radius, 2 * radius)
        shade = gradient(rng, 2 * radius, 2 * radius).mean(-1, keepdims=True) / 255
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 14)))
        reach = radius * rng.uniform(0.55, 1, len(turns))
        outline = Image.new("L", (2 * radius, 2 * radius))
        pen = ImageDraw.Draw(outline)
        if rng.random() < 0.4:
            pen.ellipse((0, radius * rng.uniform(0, 0.6), 2 * radius, 2 * radius), 255)
        else:
            pen.polygon(
                [(radius + r * np.cos(t), radius + r * np.sin(t)) for t, r in zip(turns, reach, strict=True)], 255
            )
        alpha = np.asarray(outline.filter(ImageFilter.GaussianBlur(rng.exponential(1.5))), np.float32)[..., None] / 255
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + 2 * radius, width), min(y + 2 * radius, height)
        window = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
        lit = patch[window] * (0.5 + 0.6 * shade[window])
        canvas[y0:y1, x0:x1] += (lit - canvas[y0:y1, x0:x1]) * alpha[window]
        if rng.random() < 0.15:  # what lies behind goes out of focus
            behind = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
            canvas = np.asarray(behind.filter(ImageFilter.BoxBlur(float(3 * (1 - depth)))), np.float32).copy()
    # Photographs are duller than random colours, and their colours go together.
    grey, cast = canvas.mean(-1, keepdims=True), rng.normal(0, 15, 3).astype(np.float32)
    return grey + cast + (canvas - grey) * rng.beta(1, 2)


KINDS = (flat, gradient, noise, texture, clutter)
WEIGHTS = (0.12, 0.12, 0.2, 0.2, 0.36)


def draw_background(rng: np.random.Generator, width: int, height: int, collages: bool = False) -> np.ndarray:
    """A random background, (height, width, 3) float32 in 0..255; sometimes lit unevenly or grainy, as a photograph
    is.
    """
    draw = collage if collages else KINDS[rng.choice(len(KINDS), p=WEIGHTS)]
    canvas = draw(rng, width, height)
    if rng.random() < 0.3:
        canvas = canvas * (gradient(rng, width, height).mean(-1, keepdims=True) / 255 + 0.4)
    if rng.random() < 0.4:
        canvas = canvas + rng.normal(0, rng.uniform(2, 20), (height, width, 1)).astype(np.float32)
    return canvas.clip(0, 255).astype(np.float32)
