"""COCO panoptic segmentation (Kirillov et al., 2019): one PNG for each image, and one JSON file.

    panoptic.json
    panoptic/a/b.png  segment id of each pixel as red + 256 green + 65536 blue, black for none
    images/a/b.jpg    with copies of the images

Every category counts as a thing; they are numbered as in COCO files of instances. Of instances that overlap the
better score has the pixel, and "area" and "bbox" are of what remains.

Read are all segments, also those of stuff, each as one instance. The PNG files are looked for in `panoptic`, in a
folder called as the JSON file, and beside it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
    exported_marks,
    marks,
    read_json,
)
from grounded.labelling.formats.coco import dataset_fields, orientation_field
from grounded.labelling.formats.coco_file import CocoFile, IdTable, coco_from_dict
from grounded.labelling.formats.exporter import Exporter, within_folder
from grounded.labelling.formats.json_stream import json_lists
from grounded.labelling.formats.png import count_hidden, decode_png, encode_values
from grounded.labelling.records import Record
from grounded.labelling.store.source_ids import Numbering

CROWDS = "crowds and regions of stuff, each of them one instance"
NO_SEGMENT = "segments of a PNG that are not listed, left out"


# ---- Writing ----


class PanopticExporter(Exporter):
    """Writes `panoptic.json` and its PNG files."""

    has_file_per_image = True

    def begin(self) -> None:
        self._numbering = Numbering(self.classes, self.source_ids)
        fields = dataset_fields(self._numbering)
        fields["categories"] = [category | {"isthing": 1} for category in fields["categories"]]
        lists = json_lists(self.folder / "panoptic.json", "images", "annotations", **fields)
        self._add_entry = self.open_files.enter_context(lists)

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        image = record.image
        image_id = self._numbering.image_id(image.file)
        entry = {"id": image_id, "width": image.width, "height": image.height, "file_name": file}
        self._add_entry("images", entry | orientation_field(image, self.images is not None))
        annotation = instances.to_panoptic(
            self.folder / "panoptic" / f"{stem}.png", image_id, self._numbering.category_ids
        )
        # By these marks an import tells what was deleted from what lay wholly under others.
        of_all = marks(instances)
        for segment in annotation["segments_info"]:
            segment["instance"] = of_all[segment["id"] - 1]
        exported = [segment["instance"] for segment in annotation["segments_info"]]
        self._add_entry("annotations", annotation | {"file_name": f"{stem}.png", "exported": exported})
        visible = np.zeros(len(instances), np.int64)
        for segment in annotation["segments_info"]:
            visible[segment["id"] - 1] = segment["area"]
        count_hidden(instances, visible, self.lost)
        self.lost["scores"] += int(np.isfinite(instances.scores).sum())


# ---- Reading ----


@dataclass(frozen=True)
class PanopticReader(AnnotationReader):
    """The JSON file in memory; PNG files are read when their turn comes."""

    path: Path
    file: CocoFile  # whose annotations are one for each image

    @classmethod
    def open(cls, path: Path) -> "PanopticReader":
        data = read_json(path)
        entries = data.get("annotations") if isinstance(data, dict) else None
        is_panoptic = isinstance(entries, list) and all(isinstance(one, dict) for one in entries)
        if not is_panoptic or (entries and not any("segments_info" in one for one in entries)):
            raise ResultError(f"{path} is not of COCO panoptic: expected annotations with segments_info")
        try:
            return cls(path, coco_from_dict(data))
        except ResultError as error:
            raise ResultError(f"{path}: {error}") from error

    def files(self) -> tuple[Path, ...]:
        return (self.path, *(png for folder in self._folders()[:2] for png in sorted(folder.rglob("*.png"))))

    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.file.categories.values()))

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        unplaced = LeftOut(notes, "")
        self.file.note_left_out(unplaced)
        for image in self.file.images:
            assert image.id is not None and image.file_name is not None  # of those that a file lists
            names = (image.file_name.replace("\\", "/"),)
            left_out = LeftOut(notes, names[0], unplaced.count)
            entries = self.file.annotations[image.id]
            try:
                if len(entries) != 1 or not isinstance(entries[0], Mapping):
                    raise ResultError(f"expected one annotation for the image, got {len(entries)}")
                yield self._read(entries[0], names, image.image_size, left_out)
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))

    def _read(
        self, entry: Mapping[str, Any], names: tuple[str, ...], image_size: tuple[int, int] | None, left_out: LeftOut
    ) -> AnnotatedImage:
        values = decode_png(self._find(str(entry.get("file_name"))))
        if values.ndim != 3 or values.dtype != np.uint8:
            raise ResultError("a panoptic PNG must be of 8 bits and three colours")
        size = (values.shape[0], values.shape[1])
        if image_size not in (None, size):
            raise ResultError(f"the PNG must be of the image's size {image_size}, got {size}")
        masks = encode_values(values[..., :3].astype(np.int64) @ [1, 256, 65536])
        segments = entry.get("segments_info")
        categories, annotations = IdTable(self.file.categories), []
        for segment in segments if isinstance(segments, list) else []:
            number = segment.get("id") if isinstance(segment, Mapping) else None
            category = categories.find(segment.get("category_id")) if isinstance(segment, Mapping) else None
            mask = masks.pop(number, None) if isinstance(number, int) else None
            if mask is None or category is None:
                why = "it has no pixel" if mask is None else "its category is not listed"
                left_out.add(DAMAGED, f"segment {str(number)[:40]}", why)
                continue
            left_out.notes.add(CROWDS, names[0], count=bool(segment.get("iscrowd")))
            mark = segment.get("instance") if isinstance(segment.get("instance"), str) else None
            label = self.file.categories[category]
            annotations.append(Annotation(label=label, rle=mask, mark=mark, is_visible_part=True))
        for number in masks:
            left_out.add(NO_SEGMENT, f"segment {number}")
        return AnnotatedImage(
            names=names,
            image_size=size,
            annotations=tuple(annotations),
            exported=exported_marks(entry),
            left_out=left_out.count,
        )

    def _folders(self) -> tuple[Path, ...]:
        return (self.path.parent / "panoptic", self.path.parent / self.path.stem, self.path.parent)

    def _find(self, name: str) -> Path:
        below = within_folder(name)
        places = (folder / below for folder in self._folders())
        return next((place for place in places if os.path.isfile(place)), Path(below))  # False for too long names
