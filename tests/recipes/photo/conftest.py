"""A drawn data set in the layout of the recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segany.utils.rle import encode_rle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs: a dog before a person, and a skirt of a source of its own."""
    (tmp_path / "train").mkdir()
    entries, annotations = [], []
    for number, (source, objects) in enumerate(
        {"voc": {"person": (4, 6, 40, 44), "dog": (20, 20, 36, 40)}, "ccp": {"skirt": (8, 8, 24, 24)}}.items(), start=1
    ):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 56, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / f"{number}.png")
        entries.append({"id": number, "file_name": f"{number}.png", "width": 56, "height": 48, "source": source})
        for name, (x0, y0, x1, y1) in objects.items():
            mask = np.zeros((1, 48, 56), bool)
            mask[0, y0:y1, x0:x1] = True
            rle = encode_rle(mask)[0]
            category = ["person", "dog", "skirt"].index(name) + 1
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": rle,
                    "bbox": box,
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": row, "name": name} for row, name in enumerate(("person", "dog", "skirt"), start=1)]
    data = {"images": entries, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(data))
    taught = {"2.png": [[30, 10, 50, 40, "dog", 0.6, 1], [2, 2, 20, 20, "person", 0.3, 0]]}
    (tmp_path / "taught.json").write_text(json.dumps(taught))
    return tmp_path
