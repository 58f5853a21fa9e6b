"""COCO panoptic segmentation (Kirillov et al., 2019): one PNG for each image, and one JSON file.

    panoptic.json
    panoptic/a/b.png  segment id of each pixel as red + 256 green + 65536 blue, black for none
    images/a/b.jpg    with copies of the images

Every category counts as a thing; they are numbered from 1 in the order of the classes. Of instances that overlap the
better score has the pixel, and "area" and "bbox" are of what remains.
"""

import numpy as np

from grounded.data.instances import Instances
from grounded.labelling.formats.coco import dataset_fields, orientation_field
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.json_stream import json_lists
from grounded.labelling.formats.png import count_hidden
from grounded.labelling.records import Record


class PanopticExporter(Exporter):
    """Writes `panoptic.json` and its PNG files."""

    has_file_per_image = True

    def begin(self) -> None:
        fields = dataset_fields(self.classes)
        fields["categories"] = [category | {"isthing": 1} for category in fields["categories"]]
        lists = json_lists(self.folder / "panoptic.json", "images", "annotations", **fields)
        self._add_entry = self.open_files.enter_context(lists)
        self._images = 0

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        self._images += 1
        image = record.image
        entry = {"id": self._images, "width": image.width, "height": image.height, "file_name": file}
        self._add_entry("images", entry | orientation_field(image, self.images is not None))
        annotation = instances.to_panoptic(self.folder / "panoptic" / f"{stem}.png", self._images)
        self._add_entry("annotations", annotation | {"file_name": f"{stem}.png"})
        visible = np.zeros(len(instances), np.int64)
        for segment in annotation["segments_info"]:
            visible[segment["id"] - 1] = segment["area"]
        count_hidden(instances, visible, self.lost)
        self.lost["scores"] += int(np.isfinite(instances.scores).sum())
