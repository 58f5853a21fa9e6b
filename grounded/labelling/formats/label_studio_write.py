"""Label Studio: a file of tasks to import, and the labelling interface that it goes with.

    tasks.json         one task per picture, with the instances as a prediction to be corrected
    label_config.xml   to be pasted into the project's settings
    images/            with copies of the pictures

Pictures are addressed as local files, "/data/local-files/?d=a/b.jpg": the path starts from Label Studio's document
root, to which the pictures, or the folder `images`, have to be added as local storage.

Coordinates are percentages of the upright picture, which is how Label Studio shows it. Brushed masks say parts and
holes; polygons are one for each part, and a hole is joined to its outline. The id of a result tells what instance it
was, and of polygons which part: "0a1b2c3d4e5f.2". "picture" in the data is the name that the picture has in the
records, and "exported" the ids of all its instances.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from grounded import __version__
from grounded.data.instances import Instances
from grounded.labelling.formats import label_studio_rle, pictures
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.formats.marks import mark, marks
from grounded.labelling.formats.outlines import outlines
from grounded.labelling.formats.xml import element
from grounded.labelling.records import Record
from grounded.utils.folders import opened, write_file
from segany.utils.rle import decode_rle

SPLIT = "parts of instances that become polygons of their own, alike in the front of their ids"
ADDRESS = "/data/local-files/?d="

Results = Callable[[Instances, Counter[str]], Iterator[dict[str, Any]]]


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write brushed masks, without any loss; see `grounded.labelling.formats.exporting.Write`."""
    return _write(records, classes, folder, images, "BrushLabels", lambda instances, lost: brushed(instances))


def write_polygons(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write polygons; see `grounded.labelling.formats.exporting.Write`."""
    return _write(records, classes, folder, images, "PolygonLabels", polygons)


def brushed(instances: Instances) -> Iterator[dict[str, Any]]:
    """Yield a result for each instance: its mask in Label Studio's run-length encoding."""
    for row, rle in enumerate(instances.rles):
        label = str(instances.labels[row])
        value = {"format": "rle", "rle": label_studio_rle.encode(decode_rle([rle])[0].numpy()), "brushlabels": [label]}
        yield _result(instances, row, mark(rle, label), "brushlabels", value)


def polygons(instances: Instances, lost: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield a result for each part of each instance: a polygon. `lost` is told of holes and of parts split."""
    height, width = instances.image_size
    percent = 100 / np.array([width, height])
    for row, rle in enumerate(instances.rles):
        label, rings = str(instances.labels[row]), outlines(rle, lost)
        lost[SPLIT] += len(rings) if len(rings) > 1 else 0
        for part, ring in enumerate(rings):
            value = {"points": (ring * percent).tolist(), "closed": True, "polygonlabels": [label]}
            yield _result(instances, row, f"{mark(rle, label)}.{part}", "polygonlabels", value)


def label_config(classes: Sequence[str], tag: str) -> str:
    """Return the labelling interface, with the control `tag` for the classes."""
    labels = "".join(f"\n    {element('Label', value=label)}" for label in classes)
    controls = element(tag, f"{labels}\n  " if labels else "", name="label", toName="image")
    return f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  {controls}\n</View>\n'


def _write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None,
    tag: str,
    results: Results,
) -> Counter[str]:
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    write_file(folder / "label_config.xml", label_config(classes, tag).encode())
    with opened(folder / "tasks.json") as write:
        before = b"[\n"
        for record in records:
            instances = with_pixels(of_classes(record, numbers), lost)
            path = record.image.file
            if images is not None:
                path = f"images/{names.name(record.image)}"
                pictures.save(folder / path, record.image, images, lost)
            task = _task(record, path, instances, list(results(instances, lost)))
            write(before + json.dumps(task, ensure_ascii=False, allow_nan=False).encode())
            before = b",\n"
        write(b"[]\n" if before == b"[\n" else b"\n]\n")
    return lost


def _task(record: Record, path: str, instances: Instances, results: list[dict[str, Any]]) -> dict[str, Any]:
    prediction: dict[str, Any] = {"model_version": f"grounded {__version__} {record.config}".strip(), "result": results}
    known = instances.scores[np.isfinite(instances.scores)]
    if len(known):  # Label Studio sorts tasks by it
        prediction["score"] = round(float(known.mean()), 4)
    data = {"image": ADDRESS + quote(path), "picture": record.image.file, "exported": marks(instances)}
    return {"data": data, "predictions": [prediction]}


def _result(instances: Instances, row: int, identity: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    height, width = instances.image_size
    score = instances.scores[row]
    return {
        "id": identity,
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
        **({"score": round(float(score), 4)} if math.isfinite(score) else {}),
    }
