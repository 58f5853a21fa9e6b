"""Draw the images in examples/, each with its true masks beside it: `python -m recipes.tiny.examples`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from recipes.tiny.scenes import Recipe, Scene, draw_scene

FOLDER = Path(__file__).parents[2] / "examples"
WIDTH, HEIGHT = 640, 480


def _grain(image: Image.Image, seed: int, strength: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, strength, (image.height, image.width, 1))
    return (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)


def _sky_and_ground(
    sky: tuple[int, int, int], ground: tuple[int, int, int], horizon: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    fade = np.linspace(1.0, 1.25, horizon)[:, None, None] * np.array(sky)
    canvas = np.empty((HEIGHT, WIDTH, 3))
    canvas[:horizon] = fade
    canvas[horizon:] = np.linspace(1.15, 0.8, HEIGHT - horizon)[:, None, None] * np.array(ground)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    return image, ImageDraw.Draw(image)


def meadow() -> np.ndarray:
    """A hill, a blanket in red and white checks."""
    image, draw = _sky_and_ground((150, 195, 235), (120, 170, 90), 170)
    draw.ellipse((-200, 90, 420, 420), (105, 160, 85))
    draw.ellipse((260, 120, 900, 460), (95, 150, 80))
    top, bottom = (150, 300), (40, 470)
    for row in range(8):
        for column in range(14):
            corners = []
            for y, x in ((row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)):
                depth = y / 8
                left = top[0] + (bottom[0] - top[0]) * depth
                right = WIDTH - left
                corners.append((left + (right - left) * x / 14, top[1] + (bottom[1] - top[1]) * depth))
            draw.polygon(corners, (225, 110, 105) if (row + column) % 2 else (240, 232, 225))
    return _grain(image, 1, 4)


def street() -> np.ndarray:
    """Houses behind a road with a dashed line."""
    image, draw = _sky_and_ground((175, 200, 220), (105, 108, 115), 250)
    rng = np.random.default_rng(5)
    x = 0
    while x < WIDTH:
        width, height = int(rng.integers(70, 130)), int(rng.integers(90, 210))
        wall = tuple(int(c) for c in rng.integers(140, 210, 3))
        draw.rectangle((x, 250 - height, x + width, 250), wall)
        for wx in range(x + 12, x + width - 20, 30):
            for wy in range(265 - height, 225, 36):
                draw.rectangle((wx, wy, wx + 14, wy + 20), (225, 225, 200))
        x += width
    for x in range(10, WIDTH, 90):
        draw.rectangle((x, 358, x + 50, 366), (220, 215, 190))
    return _grain(image, 2, 5)


def shelf() -> np.ndarray:
    """Two wooden boards on a papered wall."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wall = np.array([205, 198, 180]) + 12 * np.sign(np.sin(x / 14.0))[..., None]
    grain = 14 * np.sin(x / 37.0 + 3 * np.sin(y / 23.0))[..., None]
    boards = ((y % 240) > 205)[..., None]
    canvas = np.where(boards, np.array([140, 95, 60]) + grain, wall)
    return _grain(Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7)), 3, 3)


# name -> background, what to draw, and the number of the scene whose arrangement looks best
EXAMPLES = {
    "picnic": (
        meadow,
        (
            ("dog", None),
            ("pizza", None),
            ("watermelon", None),
            ("wine glass", None),
            ("butterfly", None),
            ("balloon", None),
        ),
        3,
    ),
    "street": (street, (("car", "blue"), ("car", "yellow"), ("bus", None), ("bicycle", None), ("tree", None)), 9),
    "shelf": (shelf, (("clock", None), ("camera", None), ("telephone", None), ("guitar", None), ("cactus", None)), 10),
}


def truth(name: str, scene: Scene) -> dict:
    """The scene's objects in the form of a result.json, without scores."""
    height, width = scene.image.shape[:2]
    instances = []
    for thing in scene.objects:
        rle = coco_mask.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
        phrase = f"{thing.color} {thing.noun}" if thing.color else thing.noun
        mask = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        instances.append({"phrase": phrase, "box": list(thing.box), "mask": mask})
    return {"image": {"file": f"{name}.png", "width": width, "height": height}, "instances": instances}


def main() -> None:
    """Draw every example and write its truth."""
    FOLDER.mkdir(exist_ok=True)
    for name, (background, cast, number) in EXAMPLES.items():
        recipe = Recipe(cast=cast, background=background(), plate_share=0.0, badge_share=0.0, group_share=0.0)
        scene = draw_scene("test", number, recipe)
        Image.fromarray(scene.image).save(FOLDER / f"{name}.png", optimize=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(truth(name, scene), indent=1) + "\n")


if __name__ == "__main__":
    main()
