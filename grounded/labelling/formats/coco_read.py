"""COCO instances (Lin et al., 2014): polygons, run-length encodings in full or compressed, and crowds.

Masks are those of pycocotools' `annToMask`, to the bit. Its way of drawing polygons differs from others' by a pixel at
the outline.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from grounded.errors import ResultError
from grounded.labelling.formats.image_names import without_front
from grounded.labelling.formats.importing import Annotated, Annotation, Notes, read_json
from segany.utils.rle import RLE

NO_MASK = "annotations without a mask, left out"
CROWDS = "crowd regions, each of them one instance"


@dataclass(frozen=True)
class CocoFile:
    """A COCO file in memory."""

    path: Path
    images: tuple[Mapping[str, Any], ...]
    categories: Mapping[int, str]
    annotations: Mapping[int, list[Mapping[str, Any]]]  # by image

    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.categories.values()))

    def pictures(self, notes: Notes) -> Iterator[Annotated]:
        known = {image["id"] for image in self.images}
        strays = sum(len(entries) for image_id, entries in self.annotations.items() if image_id not in known)
        notes.add("annotations of pictures that are not listed, left out", count=strays)
        for image in self.images:
            name = str(image.get("file_name") or f"image {image['id']}").replace("\\", "/")
            names = tuple(dict.fromkeys((name, without_front(name))))
            try:
                yield self._picture(image, names, notes)
            except ResultError as error:
                yield Annotated(names=names, error=str(error))

    def _picture(self, image: Mapping[str, Any], names: tuple[str, ...], notes: Notes) -> Annotated:
        try:
            size = int(image["height"]), int(image["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError("the picture must have a width and a height") from error
        entries = self.annotations.get(image["id"], [])
        found = [self._annotation(entry, size, names[0], notes) for entry in entries]
        return Annotated(
            names=names, image_size=size, annotations=tuple(annotation for annotation in found if annotation)
        )

    def _annotation(
        self, entry: Mapping[str, Any], size: tuple[int, int], name: str, notes: Notes
    ) -> Annotation | None:
        label = self.categories.get(entry.get("category_id", -1))
        if label is None:
            raise ResultError(f"annotation {entry.get('id')} must be of a category listed, got one without a name")
        segmentation = entry.get("segmentation")
        if not segmentation:
            notes.add(NO_MASK, name)
            return None
        try:
            rle = to_rle(segmentation, size)
            score = float(entry.get("score", "nan"))
        except ResultError as error:
            raise ResultError(f"annotation {entry.get('id')}: {error}") from error
        except (TypeError, ValueError) as error:
            raise ResultError(f"annotation {entry.get('id')} must have a number for a score: {error}") from error
        if entry.get("iscrowd"):
            notes.add(CROWDS, name)
        return Annotation(label=label, rle=rle, score=score, is_rounded=isinstance(segmentation, list))


def open_file(path: Path) -> CocoFile:
    """Read a file. Raises ResultError where it is not a COCO file of instances."""
    data = read_json(path)
    try:
        images, categories = data["images"], data["categories"]
        names = {int(category["id"]): str(category["name"]) for category in categories}
        annotations: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
        for entry in data["annotations"]:
            annotations.setdefault(entry["image_id"], []).append(entry)
    except KeyError as error:
        raise ResultError(f"{path} is not a COCO file of instances: there is no {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{path} is not a COCO file of instances: {error}") from error
    return CocoFile(path, tuple(images), names, annotations)


def to_rle(segmentation: Any, image_size: tuple[int, int]) -> RLE:
    """Return a "segmentation" as a compressed run-length encoding.

    Args:
        segmentation: polygons as [[x, y, x, y, ...], ...] in pixels, or {"size": [height, width], "counts": ...}.
        image_size: (height, width) in pixels.

    Raises:
        ResultError: it is neither, or does not fit the picture.
    """
    height, width = image_size
    try:
        if isinstance(segmentation, list):
            _check_polygons(segmentation)
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        else:
            size, counts = list(segmentation["size"]), segmentation["counts"]
            if size != [height, width]:
                raise ResultError(f"a mask must be of the picture's size {[height, width]}, got {size}")
            if isinstance(counts, list):
                _check_runs(counts, height * width)
                rle = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
            else:
                rle = {"size": size, "counts": counts}
                coco_mask.decode(rle)  # which finds encodings that are none
    except ResultError:
        raise
    except Exception as error:  # pycocotools raises nearly anything
        raise ResultError(f"not a mask in COCO's forms: {error or type(error).__name__}") from error
    counts = rle["counts"]
    return RLE(size=[height, width], counts=counts.decode("ascii") if isinstance(counts, bytes) else str(counts))


def _check_polygons(polygons: list[Any]) -> None:
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ResultError(f"a polygon must have three corners or more, got {len(polygon)} coordinates")


def _check_runs(runs: list[Any], pixels: int) -> None:
    if any(not isinstance(run, int) or run < 0 for run in runs) or sum(runs) != pixels:
        raise ResultError(f"run lengths must be counts of pixels that add up to {pixels}")
