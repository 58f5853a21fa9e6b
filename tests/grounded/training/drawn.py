"""Tiny drawn data sets: coloured disks and squares on grey, with masks, as a COCO file beside its images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import segany
from segany.utils.rle import encode_rle
from tests.data import disk

SIZE = (64, 80)  # (height, width)
DISK, SQUARE = 1, 2  # ids of the categories

# A segmenter with which a step takes milliseconds.
SMALL = segany.SegAnyConfig(
    image_size=128,
    patch_size=16,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    global_blocks=(1,),
    window_size=4,
    prompt_dim=32,
    decoder_heads=2,
    decoder_mlp_dim=64,
    iou_hidden_dim=32,
)


def draw(folder: Path, images: int = 3) -> dict[str, Any]:
    """Draw images, each with a disk and every second one with a square, and return the COCO file's values."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    coco: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": DISK, "name": "disk"}, {"id": SQUARE, "name": "square"}],
    }
    for number in range(1, images + 1):
        pixels = np.full((*SIZE, 3), 120, np.uint8) + rng.integers(0, 20, (*SIZE, 1), np.uint8)
        square = np.zeros(SIZE, bool)
        square[8:28, 6:24] = True
        shapes = [(DISK, disk(*SIZE, 50 + number, 36, 16), (220, 40, 30)), (SQUARE, square, (30, 60, 220))]
        for category, mask, color in shapes[: 1 + number % 2]:
            pixels[mask] = color
            coco["annotations"].append(_annotation(coco, number, category, mask))
        name = f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
        coco["images"].append({"id": number, "file_name": name, "width": SIZE[1], "height": SIZE[0]})
    return coco


def _annotation(coco: dict[str, Any], image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
    (rle,) = encode_rle(mask[None])
    own = {"id": len(coco["annotations"]) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
    return {**own, "segmentation": dict(rle), "bbox": box, "area": int(mask.sum())}


def write(folder: Path, coco: dict[str, Any], name: str = "instances.json") -> Path:
    """Write the values as a file."""
    path = folder / name
    path.write_text(json.dumps(coco))
    return path
