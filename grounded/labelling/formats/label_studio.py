"""Label Studio: a JSON file of tasks. Here it is written, `label_studio_reader` reads it.

    tasks.json         one task per image, with the instances as a prediction to be corrected
    label_config.xml   to be pasted into the project's settings
    images/            with copies of the images

Images are addressed as local files, "/data/local-files/?d=a/b.jpg": the path starts from Label Studio's document root,
to which the images, or the folder `images`, have to be added as local storage.

Coordinates are percentages of the upright image, which is how Label Studio shows it. Brushed masks keep parts and
holes; polygons are one for each part, and a hole is joined to its outline. The id of a result identifies its instance,
and of polygons the part: "0a1b2c3d4e5f.2". "image_name" in the data is the name that the image has in the records, and
"exported" the ids of all its instances.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias
from urllib.parse import quote

import numpy as np

from grounded import __version__
from grounded.data.instances import Instances
from grounded.labelling.formats import label_studio_rle
from grounded.labelling.formats.annotations import mark, marks
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.outlines import outlines
from grounded.labelling.formats.xml import xml_element
from grounded.labelling.records import Record
from grounded.utils.files import open_new, write_new
from segany.utils.rle import decode_rle

ADDRESS = "/data/local-files/?d="
SPLIT = "parts of instances that become polygons of their own, alike in the front of their ids"

Result: TypeAlias = dict[str, Any]  # a region of an image, or something else that was annotated


class _TaskExporter(Exporter):
    """Writes `tasks.json` and the labelling interface."""

    control_tag: ClassVar[str]

    @abstractmethod
    def results(self, instances: Instances) -> Iterator[Result]:
        """Yield the results of all instances."""

    def begin(self) -> None:
        write_new(self.folder / "label_config.xml", label_config(self.classes, self.control_tag).encode())
        self._write = self.open_files.enter_context(open_new(self.folder / "tasks.json"))
        self._separator = b"[\n"

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        path = file if self.images is None else f"{self.image_folder}/{file}"
        prediction: dict[str, Any] = {
            "model_version": f"grounded {__version__} {record.config}".strip(),
            "result": list(self.results(instances)),
        }
        known = instances.scores[np.isfinite(instances.scores)]
        if len(known):  # Label Studio sorts tasks by it
            prediction["score"] = round(float(known.mean()), 4)
        data = {"image": ADDRESS + quote(path), "image_name": record.image.file, "exported": marks(instances)}
        task = {"data": data, "predictions": [prediction]}
        self._write(self._separator + json.dumps(task, ensure_ascii=False, allow_nan=False).encode())
        self._separator = b",\n"

    def end(self) -> None:
        self._write(b"[]\n" if self._separator == b"[\n" else b"\n]\n")


class LabelStudioExporter(_TaskExporter):
    """Writes brushed masks, without any loss."""

    control_tag = "BrushLabels"

    def results(self, instances: Instances) -> Iterator[Result]:
        for row, rle in enumerate(instances.rles):
            label, data = str(instances.labels[row]), label_studio_rle.encode(decode_rle([rle])[0].numpy())
            value = {"format": "rle", "rle": data, "brushlabels": [label]}
            yield _result(instances, row, mark(rle, label), "brushlabels", value)


class LabelStudioPolygonExporter(_TaskExporter):
    """Writes polygons, one for each part of each instance."""

    control_tag = "PolygonLabels"

    def results(self, instances: Instances) -> Iterator[Result]:
        height, width = instances.image_size
        percent = 100 / np.array([width, height])
        for row, rle in enumerate(instances.rles):
            label, rings = str(instances.labels[row]), outlines(rle, self.lost)
            self.lost[SPLIT] += len(rings) if len(rings) > 1 else 0
            for part, ring in enumerate(rings):
                value = {"points": (ring * percent).tolist(), "closed": True, "polygonlabels": [label]}
                yield _result(instances, row, f"{mark(rle, label)}.{part}", "polygonlabels", value)


def label_config(classes: Sequence[str], control_tag: str) -> str:
    """Return the labelling interface: an image, and a control for the classes, such as "BrushLabels"."""
    labels = "".join(f"\n    {xml_element('Label', value=label)}" for label in classes)
    control = xml_element(control_tag, f"{labels}\n  " if labels else "", name="label", toName="image")
    return f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  {control}\n</View>\n'


def _result(instances: Instances, row: int, identity: str, kind: str, value: dict[str, Any]) -> Result:
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
