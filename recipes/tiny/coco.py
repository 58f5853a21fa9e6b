"""Write drawn scenes as a COCO data set: `python -m recipes.tiny.coco FOLDER --split test --scenes 40`.

The file is FOLDER/instances.json, beside the images. Each object is annotated by its visible pixels.
"""

import json
from pathlib import Path
from typing import Any

import click
from PIL import Image

from recipes.tiny.scenes import SPLITS, draw_scene
from segany.utils.rle import encode_rle, rle_area, rle_boxes


def write_scenes(folder: Path, split: str, count: int, first: int = 0) -> Path:
    """Draw scenes and write them; returns the path of the annotation file."""
    folder.mkdir(parents=True, exist_ok=True)
    categories: dict[str, int] = {}
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for number in range(first, first + count):
        scene = draw_scene(split, number)
        name = f"{split}-{number:05d}.png"
        Image.fromarray(scene.image).save(folder / name)
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
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="Number of the first scene.")
def main(folder: Path, split: str, count: int, first: int) -> None:
    """Draw scenes into FOLDER."""
    click.echo(write_scenes(folder, split, count, first))


if __name__ == "__main__":
    main()
