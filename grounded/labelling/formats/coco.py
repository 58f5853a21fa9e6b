"""COCO instances (Lin et al., 2014): one JSON file with images, categories and annotations.

`CocoReader` imports them, as `coco_file` reads them, and `CocoExporter` writes

    instances.json
    images/         with copies of the images

Masks are written run-length encoded and so without any loss. Categories are numbered from 1 in the order of the
classes, images and annotations from 1 as they come, unless the images were labelled from a COCO file: then images and
categories keep the ids that they have there. "bbox" is the tight [x, y, width, height] of the mask in pixels, "area"
counts its pixels, "score" is left out where it is unknown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import grounded
from grounded.data.instances import Instances
from grounded.labelling.formats.annotations import (
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
)
from grounded.labelling.formats.coco_file import CocoFile, CocoImage, CocoObject, read_coco
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_names import without_upload_prefix
from grounded.labelling.formats.json_stream import json_list, json_lists
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store.source_ids import Numbering
from segany.utils.rle import RLE, rle_from_runs

CROWDS = "crowd regions, each of them one instance"


@dataclass(frozen=True)
class CocoReader(AnnotationReader):
    """A COCO file to be imported. Its crowd regions are taken as one instance each."""

    file: CocoFile
    path: Path | None = None  # of the file, where it is one

    @classmethod
    def open(cls, path: Path) -> "CocoReader":
        return cls(read_coco(path), path)

    def files(self) -> tuple[Path, ...]:
        return () if self.path is None else (self.path,)

    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.file.categories.values()))

    def category_ids(self) -> Mapping[str, int | str]:
        ids: dict[str, int | str] = {}
        for id, name in self.file.categories.items():
            ids.setdefault(name, id)
        return ids

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        unplaced = LeftOut(notes, "")
        self.file.note_left_out(unplaced)
        for image in self.file.images:
            assert image.file_name is not None  # of those that a file lists
            left_out = LeftOut(notes, image.file_name)
            names = tuple(dict.fromkeys((image.file_name, without_upload_prefix(image.file_name))))
            size = image.image_size or (find_size(names) if find_size else None)
            if size is None:
                yield AnnotatedImage(names=names, error="the image must have a width and a height")
                continue
            annotations = tuple(
                _annotation(one, image, size, notes) for one in self.file.objects(image, size, left_out)
            )
            # What belongs to no image may belong to any: it was not deleted.
            count = left_out.count + unplaced.count
            yield AnnotatedImage(
                names=names, image_size=size, annotations=annotations, source_id=image.id, left_out=count
            )


def _annotation(one: CocoObject, image: CocoImage, image_size: tuple[int, int], notes: Notes) -> Annotation:
    if one.is_crowd:
        notes.add(CROWDS, image.file_name or "")
    return Annotation(
        label=one.label,
        rle=one.mask or empty_rle(image_size),
        box=None if one.mask else one.box,
        score=one.score,
        is_rounded=one.is_polygon,
    )


@lru_cache(maxsize=1)
def empty_rle(image_size: tuple[int, int]) -> RLE:
    """Return a mask without pixels."""
    return rle_from_runs([image_size[0] * image_size[1]], image_size)


class CocoExporter(Exporter):
    """Writes `instances.json`. Images without instances are listed."""

    def begin(self) -> None:
        self._numbering = Numbering(self.classes, self.source_ids)
        fields = dataset_fields(self._numbering)
        lists = json_lists(self.folder / "instances.json", "images", "annotations", **fields)
        self._add_entry = self.open_files.enter_context(lists)
        self._annotations = 0

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        data = instances.to_coco(
            self._numbering.image_id(record.image.file),
            self._numbering.category_ids,
            first_annotation_id=self._annotations + 1,
            file_name=file,
        )
        self._add_entry("images", data["images"][0] | orientation_field(record.image, self.images is not None))
        for annotation in data["annotations"]:
            self._add_entry("annotations", annotation)
        self._annotations += len(instances)


class CocoResultsExporter(Exporter):
    """Writes `results.json`, the list that `COCO.loadRes` of pycocotools and evaluation servers take."""

    def begin(self) -> None:
        self._numbering = Numbering(self.classes, self.source_ids)
        self._add_entry = self.open_files.enter_context(json_list(self.folder / "results.json"))

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        data = instances.to_coco(self._numbering.image_id(record.image.file), self._numbering.category_ids)
        for annotation in data["annotations"]:
            self.lost["scores that are unknown, written as 0"] += "score" not in annotation
            keys = ("image_id", "category_id", "segmentation", "bbox")
            self._add_entry({**{key: annotation[key] for key in keys}, "score": annotation.get("score", 0)})


def dataset_fields(numbering: Numbering) -> dict[str, Any]:
    """Return "categories" and "info" of a data set, which follow its lists."""
    info = {"description": f"labelled by grounded {grounded.__version__}; in the frame of the upright images"}
    categories = [{"id": number, "name": label} for label, number in numbering.category_ids.items()]
    return {"categories": categories, "info": info}


def orientation_field(image: ImageInfo, is_copied: bool) -> dict[str, int]:
    """Return the field of an entry of "images" whose file is to be turned by its EXIF orientation; else nothing."""
    return {} if is_copied or image.orientation == 1 else {"exif_orientation": image.orientation}
