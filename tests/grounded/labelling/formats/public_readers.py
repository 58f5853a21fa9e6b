"""Reads exported folders by the tools' own packages, which need not fit beside this one.

Run by the Python of an environment with labelme, label-studio-sdk, cvat-sdk and pycocotools, as a script of its own:

    python public_readers.py labelme|brush|polygons|cvat FOLDER RESULT.npz

The result holds "FILE|LABEL|NUMBER" -> (height, width) bool mask, in the order of the file. Tests call it through
`read`, with the Python that the variable GROUNDED_READERS_PYTHON names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def read(kind: str, folder: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """For each image the labels and masks that a tool's own package reads; skips the test where there is none."""
    import pytest

    python = os.environ.get("GROUNDED_READERS_PYTHON")
    if not python:
        pytest.skip("needs an environment with annotation tools: GROUNDED_READERS_PYTHON is not set")
    result = folder.parent / f"{folder.name}-{kind}.npz"
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    command = [python, __file__, kind, str(folder), str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, np.ndarray]]] = {}
    with np.load(result) as masks:
        for key in masks.files:
            file, label, _ = key.split("|")
            found.setdefault(file, []).append((label, masks[key]))
    return found


def _labelme(folder):
    """By `shapes_to_label`, which draws all shapes of a label and a group as one instance."""
    from labelme._label_file import LabelFile
    from labelme.utils import shapes_to_label

    for path in sorted(folder.rglob("*.json")):
        file = LabelFile(str(path))
        size = [json.loads(path.read_text())[key] for key in ("imageHeight", "imageWidth")]
        groups = {}
        for shape in file.shapes:
            groups.setdefault((shape["label"], shape["group_id"]), []).append(shape)
        for (label, _), shapes in groups.items():
            _, instances = shapes_to_label(tuple(size), shapes, {label: 1})
            yield file.other_data["image_name"], label, instances > 0


def _brush(folder):
    from label_studio_sdk.converter import brush

    for task in json.loads((folder / "tasks.json").read_text()):
        for result in task["predictions"][0]["result"]:
            height, width = result["original_height"], result["original_width"]
            values = brush.decode_rle(result["value"]["rle"]).reshape(height, width, 4)
            assert (values == values[..., :1]).all()
            yield task["data"]["image_name"], result["value"]["brushlabels"][0], values[..., 3] > 0


def _polygons(folder):
    """By Label Studio's own conversion to COCO, drawn by pycocotools; each part is an annotation."""
    from label_studio_sdk.converter import Converter
    from pycocotools.coco import COCO

    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        task["annotations"] = [{**task.pop("predictions")[0], "id": number, "was_cancelled": False}]
        task["id"], task["data"]["image"] = number, task["data"]["image_name"]
    annotated = folder.parent / "annotated.json"
    annotated.write_text(json.dumps(tasks))
    out = folder.parent / "coco"
    converter = Converter((folder / "label_config.xml").read_text(), str(folder), download_resources=False)
    converter.convert_to_coco(str(annotated), str(out), is_dir=False)
    coco = COCO(str(out / "result.json"))
    for annotation in coco.loadAnns(coco.getAnnIds()):
        (image,) = coco.loadImgs(annotation["image_id"])
        (category,) = coco.loadCats(annotation["category_id"])
        yield image["file_name"].partition("__")[2], category["name"], coco.annToMask(annotation) > 0


def _cvat(folder):
    from xml.etree import ElementTree

    from cvat_sdk.masks import decode_mask

    for image in ElementTree.parse(folder / "annotations.xml").getroot().iter("image"):
        width, height = int(image.get("width")), int(image.get("height"))
        for mask in image.iter("mask"):
            runs = [int(run) for run in mask.get("rle").split(",")]
            left, top, w, h = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
            points = [*runs, left, top, left + w - 1, top + h - 1]
            yield image.get("name"), mask.get("label"), decode_mask(points, image_width=width, image_height=height)


if __name__ == "__main__":
    kind, folder, result = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    found = {"labelme": _labelme, "brush": _brush, "polygons": _polygons, "cvat": _cvat}[kind](folder)
    np.savez_compressed(result, **{f"{file}|{label}|{n}": mask for n, (file, label, mask) in enumerate(found)})
