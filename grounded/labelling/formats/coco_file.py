"""Reads COCO annotation files (Lin et al., 2014): images, categories, and the objects of an image.

The one reader of such files in the project: imports, evaluation and image sources judge them alike. What is odd in an
entry costs that entry alone: it is read, derived, or left out with a note, by the table in docs/formats.md.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from reprlib import repr as shortened  # of a huge list the beginning
from typing import Any, TypeAlias

from grounded.errors import MaskError, ResultError
from grounded.labelling.formats.annotations import DAMAGED, Box, LeftOut, read_json, read_label
from segany.utils.polygons import check_size
from segany.utils.rle import RLE, check_rle, rle_area, rle_boxes, rle_from_polygons

Id: TypeAlias = int | str

NO_MASK = "annotations without a mask and without a box, left out"
EMPTY_MASK = "annotations whose mask has no pixel in the image, left out"
SHORT_RINGS = "rings of fewer than three corners, left out"
STRAYS = "annotations of images that are not listed, left out"
BAD_IMAGES = "images that cannot be read, left out"
BAD_CATEGORIES = "categories that cannot be read, left out with their annotations"
BOXES_ALONE = "annotations that are a box without a mask"
FLAT = "segmentations that are one flat list, read as one ring"
DERIVED_BOXES = "boxes that cannot be read, taken from the mask"
DERIVED_AREAS = "areas that cannot be read, taken from the mask or the box"
NO_SCORES = "scores that are no number, taken as unknown"
_FARTHEST = 1_000_000  # pixels, as for corners of polygons
_GREATEST = 3e38  # that 32 bits hold, as scores are stored


@dataclass(frozen=True)
class CocoImage:
    """An entry of "images"."""

    id: Id | None  # as in the file; None where it has none
    file_name: str | None  # None where there is none, or one that no file can have
    image_size: tuple[int, int] | None  # (height, width) in pixels; None where the file does not state it


@dataclass(frozen=True)
class CocoObject:
    """An annotation that could be read: a mask, or in files of boxes a box alone."""

    label: str
    mask: RLE | None
    box: Box  # as the file states it, or else the tight one of the mask
    area: float  # in pixels, as the file states it, or else of the mask or the box
    is_crowd: bool = False
    score: float = math.nan
    is_polygon: bool = False  # masks from polygons differ at the outline from program to program


@dataclass(frozen=True)
class CocoFile:
    """The contents of a COCO annotation file. Objects are read image by image, on demand."""

    images: tuple[CocoImage, ...]
    categories: Mapping[Id, str]  # names by id
    annotations: Mapping[Id, Sequence[Any]]  # as in the file, by the id of a listed image
    strays: tuple[str, ...] = ()  # ids of annotations whose image is not listed
    left_out: tuple[tuple[str, str], ...] = ()  # kind and entry, of images and categories that cannot be read

    def note_left_out(self, left_out: LeftOut) -> None:
        """Add what is left out of the file and belongs to no image."""
        for kind, entry in self.left_out:
            left_out.add(kind, entry)
        for annotation in self.strays:
            left_out.add(STRAYS, f"annotation {annotation}")

    def objects(self, image: CocoImage, image_size: tuple[int, int], left_out: LeftOut) -> tuple[CocoObject, ...]:
        """Return the objects of an image.

        Args:
            image: with an id.
            image_size: (height, width), of the image where the file does not state it.
            left_out: what cannot be read is added, and to its notes what was derived.
        """
        assert image.id is not None
        categories = IdTable(self.categories)
        found = (_read_object(entry, self, categories, image_size, left_out) for entry in self.annotations[image.id])
        return tuple(one for one in found if one is not None)


class IdTable:
    """Finds the listed id that an id means: itself, or the one that is the same text, or the same number."""

    def __init__(self, ids: Iterable[Id]) -> None:
        self._ids = dict.fromkeys(ids)
        self._alike: dict[str, set[Id]] = {}
        for id in self._ids:
            for form in _forms(id):
                self._alike.setdefault(form, set()).add(id)

    def find(self, id: Any) -> Id | None:
        """Return the listed id; None where there is none, or where several are alike."""
        id = _as_id(id)
        if id is None or id in self._ids:
            return id
        for form in _forms(id):
            if len(alike := self._alike.get(form, ())) == 1:
                return next(iter(alike))
        return None


def _as_id(id: Any) -> Id | None:
    """Return an id; None where it is none."""
    if isinstance(id, float) and id.is_integer():
        return int(id)
    is_id = isinstance(id, int | str) and not isinstance(id, bool) and str(id).strip()
    return id if is_id else None


def _forms(id: Id) -> Iterator[str]:
    text = str(id).strip()
    yield text
    if text.isdecimal() and len(text) < 100:
        yield f"number {int(text)}"  # "000001" is 1


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


def read_coco_images(path: str | PathLike[str]) -> tuple[tuple[CocoImage, ...], dict[str, Id]]:
    """Read nothing but the list of images, which a file may hold without categories, annotations and ids.

    Returns:
        the images, and the ids of the categories by name, as far as there are any.

    Raises:
        ResultError: the file cannot be read, is not JSON, or holds no list of images.
    """
    data = read_json(Path(path))
    entries = data.get("images") if isinstance(data, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        expected = 'expected {"images": [{"file_name": ...}, ...]}'
        raise ResultError(
            f"{path} is not a COCO file: {expected}, got {shortened(data if entries is None else entries)}"
        )
    categories = data["categories"] if isinstance(data.get("categories"), list) else []
    category_ids: dict[str, Id] = {}
    for id, name in _read_categories(categories)[0].items():
        category_ids.setdefault(name, id)
    return tuple(_read_image(entry) for entry in entries), category_ids


def coco_from_dict(data: Any) -> CocoFile:
    """Return the values of a COCO annotation file that has been parsed from JSON.

    Raises:
        ResultError: it does not hold lists of categories, images and annotations, or none of the annotations is of an
            image that is listed.
    """
    if not isinstance(data, Mapping):
        raise ResultError(f"not a COCO annotation file: expected an object, got {shortened(data)}")
    for key in ("categories", "images", "annotations"):
        if not isinstance(data.get(key), list):
            got = shortened(data[key]) if key in data else "none"
            raise ResultError(f"a COCO annotation file must hold {key!r}{', a list' * (key in data)}, got {got}")
    images, bad_images = _read_images(data["images"])
    categories, bad_categories = _read_categories(data["categories"])
    annotations: dict[Id, list[Any]] = {image.id: [] for image in images if image.id is not None}
    table, strays = IdTable(annotations), list[str]()
    for entry in data["annotations"]:
        image_id = table.find(entry.get("image_id")) if isinstance(entry, Mapping) else None
        if image_id is None:
            strays.append(shortened(entry.get("id") if isinstance(entry, Mapping) else entry))
        else:
            annotations[image_id].append(entry)
    if strays and len(strays) == len(data["annotations"]):
        raise ResultError(f"none of its {len(strays)} annotations is of an image that is listed")
    return CocoFile(images, categories, annotations, tuple(strays), (*bad_images, *bad_categories))


def _read_images(entries: list[Any]) -> tuple[tuple[CocoImage, ...], list[tuple[str, str]]]:
    """Return the images that can be read, and what is left out. Annotations of an id of two images are strays."""
    left_out = [(BAD_IMAGES, shortened(entry)) for entry in entries if not isinstance(entry, Mapping)]
    found = [_read_image(entry) for entry in entries if isinstance(entry, Mapping)]
    distinct = dict.fromkeys(found)  # the same entry may stand there twice
    counts = Counter(image.id for image in distinct)
    images = []
    for image in distinct:
        reasons = {
            "it has no id": image.id is None,
            "its id is that of another image": counts[image.id] > 1,
            "it has no file_name": image.file_name is None,
        }
        reason = next((reason for reason, applies in reasons.items() if applies), None)
        if reason is None:
            images.append(image)
        else:
            left_out.append((BAD_IMAGES, f"{image.file_name or f'image {shortened(image.id)}'}: {reason}"))
    return tuple(images), left_out


def _read_image(entry: Mapping[str, Any]) -> CocoImage:
    try:
        size = check_size([entry.get("height"), entry.get("width")])
    except MaskError:
        size = None
    names = (entry.get("file_name"), _name_of_address(entry.get("coco_url")))
    return CocoImage(_as_id(entry.get("id")), next(filter(_is_name, names), None), size)


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return False
    return name == name.encode("utf-8", "ignore").decode()


def _name_of_address(address: Any) -> str | None:
    """Return folder and file of an image of COCO, "val2017/000000000139.jpg": files of LVIS have no `file_name`."""
    return "/".join(address.split("/")[-2:]) if isinstance(address, str) and address.count("/") > 2 else None


def _read_categories(entries: list[Any]) -> tuple[dict[Id, str], list[tuple[str, str]]]:
    """Return the names of the categories that can be read, and what is left out."""
    names: dict[Id, str] = {}
    left_out = []
    for entry in entries:
        try:
            id = _as_id(entry.get("id")) if isinstance(entry, Mapping) else None
            if id is None:
                raise ResultError("it has no id")
            name = read_label(entry.get("name"))
            if names.setdefault(id, name) != name:
                raise ResultError(f"its id is that of {names[id]!r}, whose annotations may be of either")
        except ResultError as error:
            left_out.append((BAD_CATEGORIES, f"{shortened(entry)}: {error}"))
    return names, left_out


def _read_object(
    entry: Any, file: CocoFile, categories: IdTable, image_size: tuple[int, int], left_out: LeftOut
) -> CocoObject | None:
    """Return what an annotation is; None where it is left out."""
    what, notes = f"annotation {shortened(entry.get('id'))}", left_out.notes
    example = f"{left_out.name} {what}"
    category = categories.find(entry.get("category_id"))
    if category is None:
        left_out.add(DAMAGED, what, f"its category {shortened(entry.get('category_id'))} is not listed")
        return None
    segmentation, box = entry.get("segmentation"), _read_box(entry.get("bbox"))
    try:
        rings = _rings(segmentation) if isinstance(segmentation, list) else None
        mask = segmentation_to_rle(segmentation, image_size)
    except MaskError as error:
        left_out.add(DAMAGED, what, error)
        return None
    if rings and rings[0] is segmentation:
        notes.add(FLAT, example)
    for _ in range(sum(_corners(ring) < 3 for ring in rings or ())):
        left_out.add(SHORT_RINGS, what)
    if mask is not None and not rle_area([mask])[0]:
        left_out.add(EMPTY_MASK, what)
        return None
    if mask is None and box is None:
        left_out.add(NO_MASK, what)
        return None
    if mask is None:
        notes.add(BOXES_ALONE, example)
    elif box is None and "bbox" in entry:
        notes.add(DERIVED_BOXES, example)
    if box is None:
        assert mask is not None
        x0, y0, x1, y1 = rle_boxes([mask])[0].tolist()
        box = x0, y0, x1, y1
    return CocoObject(
        label=file.categories[category],
        mask=mask,
        box=box,
        area=_read_area(entry, mask, box, left_out, example),
        is_crowd=bool(_number(entry.get("iscrowd"), 0.0)),
        score=_read_score(entry, left_out, example),
        is_polygon=rings is not None,
    )


def segmentation_to_rle(segmentation: Any, image_size: tuple[int, int]) -> RLE | None:
    """Return a "segmentation" as compressed run lengths: the mask of pycocotools' `annToMask`, to the bit.

    Rules, the same wherever COCO files are read:

    - null, an empty list or object, and a list of nothing but rings of fewer than three corners, which have no area,
      are no segmentation: None. Beside others, such rings are left out.
    - Polygons are drawn as pycocotools draws them, which differs from other programs by a pixel at the outline. A flat
      list of numbers is one ring. See `segany.utils.polygons.check_ring` for what no ring may be.
    - Run lengths, compressed or not, must be whole, not negative, and add up to the image's pixels, and state its size.

    Args:
        segmentation: polygons as [[x, y, x, y, ...], ...] in pixels, or {"size": [height, width], "counts": ...} with
            counts as a list of run lengths, or as compressed text.
        image_size: (height, width) in pixels.

    Raises:
        MaskError: it is none of these, or does not fit the image.
    """
    if segmentation is None or segmentation in ([], {}):
        return None
    if not isinstance(segmentation, list):
        return check_rle(segmentation, image_size)
    rings = [ring for ring in _rings(segmentation) if _corners(ring) >= 3]
    return rle_from_polygons(rings, image_size) if rings else None


def _rings(segmentation: list[Any]) -> list[Any]:
    """Return the rings of polygons, of which a flat list of numbers is one."""
    is_flat = bool(segmentation) and all(isinstance(value, int | float) for value in segmentation)
    return [segmentation] if is_flat else segmentation


def _corners(ring: Any) -> int:
    """Number of corners of a ring. What is not a list counts as 3, is passed on, and refused when it is drawn."""
    if not isinstance(ring, list):
        return 3
    is_pairs = bool(ring) and isinstance(ring[0], list)
    return len(ring) if is_pairs else len(ring) // 2


def _read_box(box: Any) -> Box | None:
    """Return [x, y, width, height] as x0 y0 x1 y1; None where it is no box, or one without an area."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    x, y, width, height = (_number(side, math.nan) for side in box)
    ends = x, y, x + width, y + height
    is_near = all(abs(end) <= _FARTHEST for end in ends)  # False for nan too
    return ends if is_near and width > 0 and height > 0 else None


def _read_area(entry: Mapping[str, Any], mask: RLE | None, box: Box, left_out: LeftOut, example: str) -> float:
    area = _number(entry.get("area"), math.nan)
    if area >= 0:
        return area
    if "area" in entry:
        left_out.notes.add(DERIVED_AREAS, example)
    return float(rle_area([mask])[0]) if mask is not None else (box[2] - box[0]) * (box[3] - box[1])


def _read_score(entry: Mapping[str, Any], left_out: LeftOut, example: str) -> float:
    score = _number(entry.get("score"), math.nan)
    if "score" in entry and math.isnan(score):
        left_out.notes.add(NO_SCORES, example)
    return score


def _number(value: Any, default: float) -> float:
    """Return a finite number that 32 bits hold, also one in text; `default` where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return number if abs(number) <= _GREATEST else default
