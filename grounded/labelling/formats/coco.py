"""COCO instances (Lin et al., 2014): one JSON file with images, categories and annotations.

`read_coco` and `segmentation_to_rle` are the one reader of such files in the project, also for image sources and
evaluation. `CocoReader` imports them, `CocoExporter` writes

    instances.json
    images/         with copies of the images

Masks are written run-length encoded and so without any loss. Categories are numbered from 1 in the order of the
classes, images and annotations from 1 as they come. "bbox" is the tight [x, y, width, height] of the mask in pixels,
"area" counts its pixels, "score" is left out where it is unknown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import grounded
from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import AnnotatedImage, Annotation, AnnotationReader, Notes, read_json
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_names import without_upload_prefix
from grounded.labelling.formats.json_stream import json_lists
from grounded.labelling.records import ImageInfo, Record
from segany.utils.rle import RLE, rle_from_polygons, rle_from_runs, rle_runs

NO_MASK = "annotations without a mask, left out"
CROWDS = "crowd regions, each of them one instance"
UNLISTED = "annotations of images that are not listed, left out"
_MAX_COORDINATE = 1_000_000  # pixels; pycocotools takes memory by the length of outlines, and crashes at 1e9
_COUNTS = re.compile("[0-o]*[0-O]")  # compressed: six bits a character, the last of a number without the sixth


@dataclass(frozen=True)
class CocoImage:
    """An entry of "images". Fields that the file does not state are None; callers that need one refuse the image."""

    id: Any  # as in the file: mostly an int, in some files a text
    file_name: str | None
    image_size: tuple[int, int] | None  # (height, width) in pixels


@dataclass(frozen=True)
class CocoFile:
    """The contents of a COCO annotation file; ids and annotations are kept as they are.

    Annotations are dicts as in the file, so that a damaged one is an error of its image alone: `annotation_rle` reads
    the mask of one.
    """

    images: tuple[CocoImage, ...]
    categories: Mapping[Any, str]  # names by id
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]]  # by image id, also those of images that are not listed


def read_coco(path: str | PathLike[str]) -> CocoFile:
    """Read a COCO annotation file.

    Raises:
        ResultError: the file cannot be read, is not JSON, or not of COCO's form; the message names the file.
    """
    data = read_json(Path(path))
    try:
        return coco_from_dict(data)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


def read_coco_images(path: str | PathLike[str]) -> tuple[CocoImage, ...]:
    """Read nothing but the list of images, which a file may hold without categories, annotations and ids.

    Raises:
        ResultError: the file cannot be read, is not JSON, or holds no list of images.
    """
    data = read_json(Path(path))
    try:
        return tuple(_image(entry) for entry in data["images"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = 'expected {"images": [{"file_name": ...}, ...]}'
        raise ResultError(f"{path} is not a COCO file: {expected}, got {type(error).__name__}: {error}") from error


def coco_from_dict(data: Any) -> CocoFile:
    """Return the values of a COCO annotation file that has been parsed from JSON.

    Raises:
        ResultError: it does not hold "categories", "images" and "annotations", or an entry lacks the id it is found by.
    """
    try:
        categories = {category["id"]: str(category["name"]) for category in data["categories"]}
        annotations: dict[Any, list[Mapping[str, Any]]] = {entry["id"]: [] for entry in data["images"]}
        images = tuple(_image(entry) for entry in data["images"])
        for entry in data["annotations"]:
            annotations.setdefault(entry["image_id"], []).append(entry)
    except KeyError as error:
        raise ResultError(f"a COCO annotation file must hold {error}, got none") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"not a COCO annotation file: {error}") from error
    return CocoFile(images, categories, annotations)


def annotation_rle(annotation: Mapping[str, Any], image_size: tuple[int, int]) -> RLE | None:
    """Return the mask of an annotation by the rules of `segmentation_to_rle`; None where it has none.

    Raises:
        ResultError: the segmentation is damaged; the message begins with "annotation ID: ".
    """
    try:
        return segmentation_to_rle(annotation.get("segmentation"), image_size)
    except ResultError as error:
        raise ResultError(f"annotation {annotation.get('id')}: {error}") from error


def segmentation_to_rle(segmentation: Any, image_size: tuple[int, int]) -> RLE | None:
    """Return a "segmentation" as compressed run lengths: the mask of pycocotools' `annToMask`, to the bit.

    Rules, the same wherever COCO files are read:

    - null, an empty list and a list of nothing but empty polygons are no segmentation: None.
    - Polygons are drawn as pycocotools draws them, which differs from other programs by a pixel at the outline.
      Of several polygons those of fewer than three corners, which have no area, are dropped. If none remains, or if a
      polygon has an odd number of coordinates or one that is not finite or beyond a million, that is an error.
    - Run lengths, compressed or not, must be whole, not negative, and add up to the image's pixels, and state its size.

    Args:
        segmentation: polygons as [[x, y, x, y, ...], ...] in pixels, or {"size": [height, width], "counts": ...} with
            counts as a list of run lengths, or as compressed text.
        image_size: (height, width) in pixels.

    Raises:
        ResultError: it is none of these, or does not fit the image.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            return _polygons_to_rle(segmentation, image_size)
        size, counts = list(segmentation["size"]), segmentation["counts"]
        if size != list(image_size):
            raise ResultError(f"a mask must be of the image's size {list(image_size)}, got {size}")
        if isinstance(counts, list):
            _check_runs(counts, image_size)
            return rle_from_runs([int(run) for run in counts], image_size)
        rle = RLE(size=list(image_size), counts=counts.decode("ascii") if isinstance(counts, bytes) else str(counts))
        if not _COUNTS.fullmatch(rle["counts"]):
            raise ResultError("not a mask in COCO's forms: the run lengths cannot be decompressed")
        _check_runs(rle_runs(rle).tolist(), image_size)  # pycocotools does not, and reads beyond its memory
        return rle
    except ResultError:
        raise
    except Exception as error:  # pycocotools raises nearly anything
        raise ResultError(f"not a mask in COCO's forms: {error or type(error).__name__}") from error


def _image(entry: Mapping[str, Any]) -> CocoImage:
    name = entry.get("file_name")
    try:
        size = int(entry["height"]), int(entry["width"])
    except (KeyError, TypeError, ValueError):
        size = None
    return CocoImage(entry.get("id"), str(name) if name else None, size)


def _polygons_to_rle(polygons: list[Any], image_size: tuple[int, int]) -> RLE | None:
    for polygon in polygons:
        if len(polygon) % 2:
            raise ResultError(f"a polygon must have an x and a y for three corners or more, got {len(polygon)} numbers")
        farthest = np.abs(np.asarray(polygon, dtype=np.float64)).max(initial=0)
        if not farthest <= _MAX_COORDINATE:  # nor is nan
            raise ResultError(f"a polygon must have coordinates up to {_MAX_COORDINATE}, got {farthest:g}")
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawn and any(polygons):
        longest = max(map(len, polygons))
        raise ResultError(f"a polygon must have three corners or more, got {longest} coordinates")
    return rle_from_polygons(drawn, image_size) if drawn else None


def _check_runs(runs: list[Any], image_size: tuple[int, int]) -> None:
    pixels = image_size[0] * image_size[1]
    # Whole numbers may be written 12.0.
    if any(not float(run).is_integer() or run < 0 for run in runs) or sum(runs) != pixels:
        raise ResultError(f"run lengths must be counts of pixels that add up to {pixels}")


@dataclass(frozen=True)
class CocoReader(AnnotationReader):
    """A COCO file to be imported. Its crowd regions are taken as one instance each."""

    file: CocoFile

    @classmethod
    def open(cls, path: Path) -> "CocoReader":
        return cls(read_coco(path))

    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.file.categories.values()))

    def images(self, notes: Notes) -> Iterator[AnnotatedImage]:
        listed = {image.id for image in self.file.images}
        unlisted = sum(len(entries) for image_id, entries in self.file.annotations.items() if image_id not in listed)
        notes.add(UNLISTED, count=unlisted)
        for image in self.file.images:
            name = (image.file_name or f"image {image.id}").replace("\\", "/")
            names = tuple(dict.fromkeys((name, without_upload_prefix(name))))
            try:
                if image.image_size is None:
                    raise ResultError("the image must have a width and a height")
                entries = self.file.annotations[image.id]
                found = (self._annotation(entry, image.image_size, name, notes) for entry in entries)
                annotations = tuple(annotation for annotation in found if annotation is not None)
                yield AnnotatedImage(names=names, image_size=image.image_size, annotations=annotations)
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))

    def _annotation(
        self, entry: Mapping[str, Any], image_size: tuple[int, int], name: str, notes: Notes
    ) -> Annotation | None:
        label = self.file.categories.get(entry.get("category_id"))
        if label is None:
            raise ResultError(f"annotation {entry.get('id')} must be of a category listed, got one without a name")
        rle = annotation_rle(entry, image_size)
        if rle is None:
            notes.add(NO_MASK, name)
            return None
        try:
            score = float(entry.get("score", "nan"))
        except (TypeError, ValueError) as error:
            raise ResultError(f"annotation {entry.get('id')} must have a number for a score: {error}") from error
        if entry.get("iscrowd"):
            notes.add(CROWDS, name)
        return Annotation(label=label, rle=rle, score=score, is_rounded=isinstance(entry["segmentation"], list))


class CocoExporter(Exporter):
    """Writes `instances.json`. Images without instances are listed."""

    def begin(self) -> None:
        lists = json_lists(self.folder / "instances.json", "images", "annotations", **dataset_fields(self.classes))
        self._add_entry = self.open_files.enter_context(lists)
        self._images = self._annotations = 0

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        self._images += 1
        data = instances.to_coco(self._images, first_annotation_id=self._annotations + 1, file_name=file)
        self._add_entry("images", data["images"][0] | orientation_field(record.image, self.images is not None))
        for annotation in data["annotations"]:
            self._add_entry("annotations", annotation)
        self._annotations += len(instances)


def dataset_fields(classes: Sequence[str]) -> dict[str, Any]:
    """Return "categories" and "info" of a data set, which follow its lists."""
    info = {"description": f"labelled by grounded {grounded.__version__}; in the frame of the upright images"}
    return {"categories": [{"id": i, "name": label} for i, label in enumerate(classes, start=1)], "info": info}


def orientation_field(image: ImageInfo, is_copied: bool) -> dict[str, int]:
    """Return the field of an entry of "images" whose file is to be turned by its EXIF orientation; else nothing."""
    return {} if is_copied or image.orientation == 1 else {"exif_orientation": image.orientation}
