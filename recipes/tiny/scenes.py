"""Drawn scenes with exact masks: glyphs on a background, overlapping, on plates, with badges, in touching groups.

A scene is a function of its split and its number, so train, validation and test never share one and every machine draws
the same. Draw a sheet to look at: `python -m recipes.tiny.scenes sheet.png`.
"""

import sys
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from recipes.tiny.backgrounds import draw_background
from recipes.tiny.canvas import Canvas, Sprite, plain_shape, turned
from recipes.tiny.glyphs import atlas, tinted
from recipes.tiny.vocabulary import COLORS, NEVER_TINTED, is_held_out, look_alikes, nouns

SPLITS = {"train": 0, "validation": 1, "test": 2}
MIN_SIDE, MAX_SIDE = 192, 640
MIN_SCALE, MAX_SCALE = 0.12, 0.45  # of the image's longer side
ATTEMPTS = 12  # to find a free place for one object


@dataclass(frozen=True)
class Recipe:
    """What to draw; the defaults are the world that the networks are trained on."""

    max_objects: int = 6
    tint_share: float = 0.3
    plate_share: float = 0.15
    badge_share: float = 0.12
    group_share: float = 0.12
    collages: bool = False  # as drawn backgrounds, in place of all other kinds
    color_pairs: str = "train"  # "train": no held-out colour-noun pair; "held-out": a held-out pair in every scene
    cast: tuple[tuple[str, str | None], ...] = ()  # exactly these nouns with their colours, for composed images
    background: np.ndarray | None = field(
        default=None, compare=False
    )  # (h, w, 3) uint8 instead of a drawn one; gives the size


@dataclass(frozen=True)
class SceneObject:
    """One object with its visible pixels. All masks are (height, width) bool in the image's own pixels."""

    noun: str
    color: str | None
    mask: np.ndarray
    part: np.ndarray | None = None  # the badge on it
    whole: np.ndarray | None = None  # it with its plate, or with the group that it touches

    @property
    def box(self) -> tuple[float, float, float, float]:
        """xyxy, the outer edges of the visible pixels."""
        xs, ys = np.nonzero(self.mask.any(0))[0], np.nonzero(self.mask.any(1))[0]
        return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)

    @property
    def truths(self) -> tuple[np.ndarray, ...]:
        """The nested masks that a click on the object may mean: part, object, whole."""
        return tuple(mask for mask in (self.part, self.mask, self.whole) if mask is not None)


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # (height, width, 3) uint8 RGB
    objects: tuple[SceneObject, ...]

    def matching(self, noun: str, color: str | None = None) -> list[SceneObject]:
        """The objects that a phrase of this noun, and colour when given, names."""
        return [o for o in self.objects if o.noun == noun and (color is None or o.color == color)]


def _pick_color(rng: np.random.Generator, noun: str, recipe: Recipe) -> str | None:
    if noun in NEVER_TINTED or rng.random() >= recipe.tint_share:
        return None
    allowed = [c for c in COLORS if not is_held_out(c, noun)]
    return allowed[rng.integers(len(allowed))]


def _cast(rng: np.random.Generator, recipe: Recipe) -> list[tuple[str, str | None]]:
    """The objects to draw as (noun, colour): sometimes twins or look-alikes, and a tinted noun's twins are all
    tinted.
    """
    if recipe.cast:
        return list(recipe.cast)
    if recipe.color_pairs == "held-out":
        noun, color = _held_out_pair(rng)
        other = [c for c in COLORS if c != color and not is_held_out(c, noun)]
        cast = [(noun, color), (noun, other[rng.integers(len(other))])]
    else:
        noun = nouns()[rng.integers(len(nouns()))]
        cast = [(noun, _pick_color(rng, noun, recipe))]
    for _ in range(int(rng.integers(0, recipe.max_objects)) + 1 - len(cast)):
        chance = rng.random()
        noun, color = cast[rng.integers(len(cast))]
        if chance < 0.2 and color is not None:
            allowed = [c for c in COLORS if not is_held_out(c, noun)]
            cast.append((noun, allowed[rng.integers(len(allowed))]))
        elif chance < 0.2:
            cast.append((noun, None))
        elif chance < 0.35 and look_alikes(noun):
            cast.append(_another(rng, look_alikes(noun), cast, recipe))
        else:
            cast.append(_another(rng, nouns(), cast, recipe))
    return cast


def _another(
    rng: np.random.Generator, choices: tuple[str, ...], cast: list[tuple[str, str | None]], recipe: Recipe
) -> tuple[str, str | None]:
    """One more object; where its noun stands already, it is tinted or plain as the others are, so that a colour
    phrase has one meaning.
    """
    noun = choices[rng.integers(len(choices))]
    present = [color for other, color in cast if other == noun]
    if not present:
        return noun, _pick_color(rng, noun, recipe)
    if present[0] is None:
        return noun, None
    allowed = [c for c in COLORS if not is_held_out(c, noun)]
    return noun, allowed[rng.integers(len(allowed))]


def _held_out_pair(rng: np.random.Generator) -> tuple[str, str]:
    pairs = [
        (noun, color) for noun in nouns() if noun not in NEVER_TINTED for color in COLORS if is_held_out(color, noun)
    ]
    return pairs[rng.integers(len(pairs))]


def _place(
    rng: np.random.Generator, canvas: Canvas, pixels: np.ndarray, touching: Sprite | None
) -> tuple[int, int] | None:
    """A corner for the sprite, beside another one when it has to touch; None when it does not fit into the image."""
    height, width = pixels.shape[:2]
    room_y, room_x = canvas.top.shape[0] - height, canvas.top.shape[1] - width
    if room_y < 0 or room_x < 0:
        return None
    if touching is None:
        return int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
    other_height, other_width = touching.pixels.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    x = touching.x + other_width / 2 + np.cos(angle) * (other_width + width) * 0.42 - width / 2
    y = touching.y + other_height / 2 + np.sin(angle) * (other_height + height) * 0.42 - height / 2
    return int(np.clip(x, 0, room_x)), int(np.clip(y, 0, room_y))


def _layers(
    rng: np.random.Generator, pixels: np.ndarray, x: int, y: int, owner: int, recipe: Recipe, canvas: Canvas
) -> list[Sprite]:
    """The object's own layers, bottom to top: perhaps a plate, the glyph, perhaps a badge on it."""
    height, width = pixels.shape[:2]
    layers = [Sprite(pixels, x, y, owner, "object")]
    if rng.random() < recipe.plate_share:
        margin_x, margin_y = int(width * rng.uniform(0.12, 0.3)), int(height * rng.uniform(0.12, 0.3))
        x0, y0 = max(x - margin_x, 0), max(y - margin_y, 0)
        x1, y1 = min(x + width + margin_x, canvas.top.shape[1]), min(y + height + margin_y, canvas.top.shape[0])
        layers.insert(0, Sprite(plain_shape(rng, x1 - x0, y1 - y0, ("plate", "card")), x0, y0, owner, "plate"))
    if rng.random() < recipe.badge_share:
        side = int(max(min(height, width) * rng.uniform(0.22, 0.4), 6))
        ys, xs = np.nonzero(pixels[..., 3] > 127)
        spot = rng.integers(len(ys))
        # Held inside the glyph's extent, so that the object's own box keeps its meaning.
        bx = int(np.clip(xs[spot] - side // 2, 0, max(width - side, 0)))
        by = int(np.clip(ys[spot] - side // 2, 0, max(height - side, 0)))
        badge = plain_shape(rng, min(side, width), min(side, height), ("plate", "card", "star")).copy()
        window = pixels[by : by + badge.shape[0], bx : bx + badge.shape[1], 3]
        badge[..., 3] = np.minimum(badge[..., 3], window)
        layers.append(Sprite(badge, x + bx, y + by, owner, "badge"))
    return layers


def _add_object(
    rng: np.random.Generator, canvas: Canvas, owner: int, glyph: np.ndarray, recipe: Recipe, touching: Sprite | None
) -> bool:
    side = max(canvas.top.shape)
    for attempt in range(ATTEMPTS):
        # Later attempts are smaller, so that crowded scenes fill up.
        scale = rng.uniform(MIN_SCALE, MAX_SCALE - (MAX_SCALE - MIN_SCALE) * 0.7 * attempt / ATTEMPTS)
        angle = rng.normal(0, 18) if rng.random() < 0.85 else rng.uniform(-180, 180)
        pixels = turned(glyph, side * scale, angle, rng.random() < 0.5)
        corner = _place(rng, canvas, pixels, touching)
        if corner is None:
            continue
        layers = _layers(rng, pixels, *corner, owner, recipe, canvas)
        if any(canvas.hides_too_much(layer) for layer in layers):
            continue
        for layer in layers:
            canvas.paint(layer)
        return True
    return False


def draw_scene(split: str, number: int, recipe: Recipe | None = None) -> Scene:
    """Draw scene `number` of a split ("train", "validation" or "test")."""
    recipe = recipe or Recipe()
    rng = np.random.default_rng([SPLITS[split], number, 0 if recipe.color_pairs == "train" else 1])
    if recipe.background is None:
        long = int(rng.integers(MIN_SIDE, MAX_SIDE + 1))
        short = max(int(long * rng.uniform(0.66, 1)), MIN_SIDE)
        width, height = (long, short) if rng.random() < 0.6 else (short, long)
        background = draw_background(rng, width, height, recipe.collages)
    else:
        background = recipe.background.astype(np.float32)
    canvas = Canvas(background)
    names: list[tuple[str, str | None]] = []
    groups: list[int] = []
    grouped = rng.random() < recipe.group_share
    for noun, color in _cast(rng, recipe):
        glyph = atlas()[noun] if color is None else tinted(atlas()[noun], color)
        touching = None
        if grouped and groups:
            touching = next(s for s in reversed(canvas.sprites) if s.level == "object")
        if _add_object(
            rng, canvas, len(names), glyph, recipe if touching is None else replace(recipe, plate_share=0.0), touching
        ):
            groups.append(len(names))
            names.append((noun, color))
            grouped = grouped and len(groups) < 3
    image = canvas.color.clip(0, 255).astype(np.uint8)
    return Scene(image, _objects(canvas, names, canvas.touching_groups()))


def _objects(
    canvas: Canvas, names: list[tuple[str, str | None]], groups: dict[int, set[int]]
) -> tuple[SceneObject, ...]:
    objects = []
    for owner, (noun, color) in enumerate(names):
        mask = canvas.mask({owner}, {"object", "badge"})
        badge = canvas.mask({owner}, {"badge"})
        plate = canvas.mask({owner}, {"plate"})
        whole = None
        if plate.sum() > 0.05 * mask.sum():
            whole = mask | plate
        elif owner in groups:
            whole = canvas.mask(groups[owner], {"object", "badge", "plate"})
        part = badge if 0.02 * mask.sum() < badge.sum() < 0.6 * mask.sum() else None
        objects.append(SceneObject(noun, color, mask, part, whole))
    return tuple(objects)


def sheet(
    path: str, split: str = "train", recipe: Recipe | None = None, rows: int = 5, columns: int = 6, cell: int = 256
) -> None:
    """A contact sheet of scenes with the outlines of their masks."""
    page = Image.new("RGB", (columns * cell, rows * cell))
    for index in range(rows * columns):
        scene = draw_scene(split, index, recipe)
        image = scene.image.copy()
        for thing in scene.objects:
            for mask, paint in ((thing.whole, (0, 255, 255)), (thing.mask, (255, 0, 255)), (thing.part, (255, 255, 0))):
                if mask is not None:
                    edge = mask & ~(
                        np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
                    )
                    image[edge] = paint
        tile = Image.fromarray(image)
        tile.thumbnail((cell, cell))
        page.paste(tile, (index % columns * cell, index // columns * cell))
    page.save(path)


if __name__ == "__main__":
    sheet(sys.argv[1])
