"""Write drawn scenes as a COCO data set: `python -m recipes.tiny.coco FOLDER --split test --scenes 40`.

The file is FOLDER/instances.json, beside the images. Each object is annotated by its visible pixels. The networks have
seen such scenes in full colours; with less colour and contrast they are images that a model has yet to learn.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from recipes.tiny.scenes import SPLITS, Recipe, draw_scene
from recipes.tiny.vocabulary import nouns
from segany.utils.rle import encode_rle, rle_area, rle_boxes


def faded(image: np.ndarray, saturation: float, contrast: float) -> np.ndarray:
    """Return an image (height, width, 3) uint8 with less colour, and with less contrast around medium grey."""
    if (saturation, contrast) == (1, 1):
        return image
    grey = image.mean(axis=-1, keepdims=True)
    paled = grey + (image - grey) * saturation
    return (128 + (paled - 128) * contrast).clip(0, 255).astype(np.uint8)


def cast_of(noun: str, number: int) -> tuple[tuple[str, None], ...]:
    """What a scene shows where each is to show one noun: that, and up to three others."""
    rng = np.random.default_rng([71, number])
    others = [other for other in nouns() if other != noun]
    return ((noun, None), *((others[i], None) for i in rng.permutation(len(others))[: rng.integers(4)]))


def write_scenes(
    folder: Path, split: str, count: int, saturation: float = 1.0, contrast: float = 1.0, noun: str | None = None
) -> Path:
    """Draw the first scenes of a split and write them; returns the path of the annotation file.

    Args:
        folder: to write into.
        split: "train", "validation" or "test".
        count: of scenes.
        saturation: of the colours, as a share.
        contrast: likewise.
        noun: one that every scene shows; None: whatever comes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    categories: dict[str, int] = {}
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for number in tqdm(range(count), unit="image", disable=None):
        scene = draw_scene(split, number, None if noun is None else Recipe(cast=cast_of(noun, number)))
        name = f"{split}-{number:05d}.png"
        Image.fromarray(faded(scene.image, saturation, contrast)).save(folder / name)
        height, width = scene.image.shape[:2]
        coco["images"].append({"id": number + 1, "file_name": name, "width": width, "height": height})
        for one in scene.objects:
            category = categories.setdefault(one.noun, len(categories) + 1)
            rles = encode_rle(one.mask[None])
            x0, y0, x1, y1 = rle_boxes(rles)[0].tolist()
            annotation = {"id": len(coco["annotations"]) + 1, "image_id": number + 1, "category_id": category}
            annotation |= {"segmentation": dict(rles[0]), "bbox": [x0, y0, x1 - x0, y1 - y0]}
            coco["annotations"].append(annotation | {"area": int(rle_area(rles)[0]), "iscrowd": 0})
    coco["categories"] = [{"id": number, "name": noun} for noun, number in categories.items()]
    path = folder / "instances.json"
    path.write_text(json.dumps(coco))
    return path


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--split", type=click.Choice(list(SPLITS)), default="test", show_default=True)
@click.option("--scenes", "count", type=click.IntRange(1), default=40, show_default=True)
@click.option("--saturation", type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.option("--contrast", type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.option("--noun", type=click.Choice(nouns()), metavar="NOUN", help="One that every scene shows.")
def main(folder: Path, split: str, count: int, saturation: float, contrast: float, noun: str | None) -> None:
    """Draw scenes into FOLDER, with their masks in FOLDER/instances.json."""
    click.echo(write_scenes(folder, split, count, saturation, contrast, noun))


if __name__ == "__main__":
    main()
