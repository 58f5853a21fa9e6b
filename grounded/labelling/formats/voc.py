"""Pascal VOC (Everingham et al., 2010), the layout of its segmentation challenge:

    Annotations/a/b.xml           boxes
    SegmentationClass/a/b.png     class of each pixel, numbered from 1, 0 for none
    SegmentationObject/a/b.png    object of each pixel, numbered from 1 in the order of the XML file, 0 for none
    ImageSets/Segmentation/all.txt, ImageSets/Main/all.txt   names of all images
    labels.txt                    the classes, from the one of number 1
    JPEGImages/a/b.jpg            with copies of the images

PNG files have VOC's palette. 255, which marks pixels without a label, is not used. Boxes are the tight ones of the
masks, as VOC counts: the first pixel is 1, and xmax and ymax are the last pixel inside. Of instances that overlap, the
better score has the pixel. "score" and "instance", which is there for the import, are no elements of VOC, whose readers
pass over them.

Read are the objects of `Annotations`, or of the XML files of a folder. Their masks are those of `SegmentationObject`,
where a value is the object of that number if its box holds the pixels, and else the one whose box they fit; or the
<polygon> of some other programs. An object without a mask is a box alone. 255 is no object.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import numpy as np
import torch

from grounded.data.instances import Instances
from grounded.errors import ConfigError, MaskError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    Box,
    FindSize,
    LeftOut,
    Notes,
    marks,
    read_label,
)
from grounded.labelling.formats.coco import empty_rle
from grounded.labelling.formats.exporter import Exporter, copy_suffix, within_folder
from grounded.labelling.formats.image_sizes import size_of_first, stated_size
from grounded.labelling.formats.outlines import ring_to_rle
from grounded.labelling.formats.png import count_hidden, decode_png, encode_png, encode_values
from grounded.labelling.formats.table import as_score
from grounded.labelling.formats.xml import read_elements, xml_text
from grounded.labelling.records import ImageInfo, Record
from grounded.utils.files import open_new, write_new
from segany.utils.boxes import box_iou
from segany.utils.rle import RLE, rle_area, rle_boxes

NO_OBJECT = "values of SegmentationObject that fit no object, left out"
VOID = 255  # pixels without a label
_SAME_IOU = 0.5  # least IoU of an object's box and that of its pixels, where the number is another
MAX_VALUE = 254  # of 8 bits, but for 255


# ---- Writing ----


class VocExporter(Exporter):
    """Writes boxes and index images."""

    has_file_per_image = True
    image_folder = "JPEGImages"

    def begin(self) -> None:
        count = len(self.classes)
        if count > MAX_VALUE:
            raise ConfigError(f"voc holds at most {MAX_VALUE} classes, got {count}; png, coco and panoptic hold more")
        write_new(self.folder / "labels.txt", _text_lines(self.classes))
        paths = [self.folder / "ImageSets" / kind / "all.txt" for kind in ("Segmentation", "Main")]
        self._stem_lists = [self.open_files.enter_context(open_new(path)) for path in paths]

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        annotation = _annotation(record.image, f"{stem}{copy_suffix(record.image)}", instances)
        write_new(self.folder / "Annotations" / f"{stem}.xml", annotation)
        objects = instances.instance_map()
        count_hidden(instances, np.bincount(objects.ravel(), minlength=len(instances) + 1)[1:], self.lost)
        too_many = f"instances beyond the {MAX_VALUE} of an image in SegmentationObject"
        self.lost[too_many] += max(0, len(instances) - MAX_VALUE)
        classes = np.append(0, instances.phrase_ids + 1)[objects]
        for kind, values in (("Class", classes), ("Object", np.where(objects <= MAX_VALUE, objects, 0))):
            path = self.folder / f"Segmentation{kind}" / f"{stem}.png"
            write_new(path, encode_png(values.astype(np.uint8), _palette()))
        for write in self._stem_lists:
            write(_text_lines([stem]))


def _text_lines(texts: Iterable[str]) -> bytes:
    return "".join(" ".join(text.splitlines()) + "\n" for text in texts).encode()


def _annotation(image: ImageInfo, file_name: str, instances: Instances) -> bytes:
    root = ET.Element("annotation")
    _add_text(root, "folder", "JPEGImages")
    _add_text(root, "filename", file_name)
    size = ET.SubElement(root, "size")
    for name, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add_text(size, name, value)
    _add_text(root, "segmented", 1)
    boxes = rle_boxes(instances.rles).astype(np.int64)
    of_instances = zip(instances.labels, boxes, instances.scores, marks(instances), strict=True)
    for label, (x0, y0, x1, y1), score, mark in of_instances:
        item = ET.SubElement(root, "object")
        _add_text(item, "name", label)
        _add_text(item, "pose", "Unspecified")
        _add_text(item, "truncated", 0)
        _add_text(item, "difficult", 0)
        box = ET.SubElement(item, "bndbox")
        for name, side in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            _add_text(box, name, side)
        if np.isfinite(score):
            _add_text(item, "score", score)
        _add_text(item, "instance", mark)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n"


def _add_text(parent: ET.Element, name: str, value: object) -> None:
    ET.SubElement(parent, name).text = xml_text(str(value))


def _palette() -> list[int]:
    """VOC's colours of the values 0 to 255: their bits dealt out to red, green and blue, from the highest down."""
    values = np.arange(256)
    channels = [sum((values >> 3 * i + channel & 1) << 7 - i for i in range(8)) for channel in range(3)]
    return np.stack(channels, axis=-1).ravel().tolist()


# ---- Reading ----


@dataclass(frozen=True)
class VocReader(AnnotationReader):
    """XML files within a folder, each read when its turn comes."""

    root: Path
    folder: Path  # of the XML files
    paths: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> "VocReader":
        """Open a folder, or one XML file. Raises ResultError where there is none."""
        paths: tuple[Path, ...] = (path,)
        if path.is_file():
            folder = path.parent
            _read_xml(path)
        else:
            folder = path / "Annotations" if (path / "Annotations").is_dir() else path
            paths = tuple(file for file in sorted(folder.rglob("*.xml")) if file.is_file())
        if not paths:
            raise ResultError(f"{path} holds no VOC file: there is no *.xml in it, nor in Annotations")
        return cls(folder.parent if folder.name == "Annotations" else folder, folder, paths)

    def files(self) -> tuple[Path, ...]:
        return (*self.paths, *sorted(self.root.glob("SegmentationObject/**/*.png")))

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for path in self.paths:
            with suppress(ResultError):
                for element in _read_xml(path).iterfind("object"):
                    with suppress(ResultError):
                        found[read_label(element.findtext("name"))] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        for path in self.paths:
            relative = path.relative_to(self.folder)
            names: tuple[str, ...] = (relative.as_posix(),)
            try:
                root = _read_xml(path)
                names, images = self._names(root, relative)
                stated = stated_size(root.findtext("size/height"), root.findtext("size/width"))
                size = stated or (find_size(names) if find_size else None) or size_of_first(images)
                if size is None:
                    raise ResultError("the image must have a width and a height, or lie in JPEGImages")
                yield self._read(root, names, size, relative, LeftOut(notes, names[0]))
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))

    def _names(self, root: ET.Element, relative: Path) -> tuple[tuple[str, ...], list[Path]]:
        """Return the names of an image, from the root where it lies below it, and where it may lie."""
        stated = (root.findtext("filename") or "").strip().replace("\\", "/").replace("\0", "")
        base = PurePosixPath(stated).name or relative.stem
        below = {relative.parent / base, Path(within_folder(stated)) if stated else relative.parent / base}
        places = [place / name for place in (self.root / "JPEGImages", self.root, self.folder) for name in below]
        images = [place for place in places if os.path.isfile(place)]  # False for names that are too long
        found = [image.relative_to(self.root).as_posix() for image in images]
        names = (*found, stated, (relative.parent / base).as_posix())
        return tuple(dict.fromkeys(name for name in names if name)), images

    def _read(
        self,
        root: ET.Element,
        names: tuple[str, ...],
        image_size: tuple[int, int],
        relative: Path,
        left_out: LeftOut,
    ) -> AnnotatedImage:
        objects = []
        for number, element in enumerate(root.iterfind("object"), start=1):
            try:
                objects.append((number, _read_object(element, image_size)))
            except (ResultError, MaskError) as error:
                left_out.add(DAMAGED, f"object {number}", error)
        path = self.root / "SegmentationObject" / relative.with_suffix(".png")
        masks = self._masks(path, image_size) if path.is_file() else {}
        of_objects = pair_masks(masks, {number: one.box for number, one in objects if one.box is not None})
        for value in masks.keys() - of_objects.values():
            left_out.add(NO_OBJECT, f"value {value}")
        annotations = tuple(
            replace(one, rle=masks[of_objects[number]], box=None, is_visible_part=True) if number in of_objects else one
            for number, one in objects
        )
        return AnnotatedImage(names=names, image_size=image_size, annotations=annotations, left_out=left_out.count)

    def _masks(self, path: Path, image_size: tuple[int, int]) -> dict[int, RLE]:
        values = decode_png(path)
        if values.shape != tuple(image_size) or values.dtype == bool:
            raise ResultError(f"{path} must be of {image_size[::-1]} indices, got {values.shape[1::-1]} {values.dtype}")
        return encode_values(np.where(values == VOID, 0, values))


def _read_xml(path: Path) -> ET.Element:
    """Return the root of a VOC file. Raises ResultError."""
    root = next(read_elements(path, ("annotation",)), None)
    if root is None or root.tag != "annotation":
        got = "nothing" if root is None else f"<{root.tag[:40]}>"
        raise ResultError(f"{path} is not VOC's: expected <annotation>, got {got}")
    return root


def _read_object(element: ET.Element, image_size: tuple[int, int]) -> Annotation:
    """Return an object as a box alone, or where it has one as its polygon. Raises ResultError or MaskError."""
    label, score = read_label(element.findtext("name")), as_score(element.findtext("score"))
    polygon = element.find("polygon")
    if polygon is not None and len(polygon):
        corners = {child.tag: child.text for child in polygon}
        names = [f"{axis}{number}" for number in range(1, len(corners) // 2 + 1) for axis in "xy"]
        ring = np.array([as_score(corners.get(name)) for name in names])
        rle = ring_to_rle(ring, image_size)
        if not rle_area([rle])[0]:
            raise ResultError("its polygon has no pixel in the image")
        return Annotation(label=label, rle=rle, score=score, is_rounded=True)
    height, width = image_size
    sides = [as_score(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    # Clipped values are not nan, which the comparison below would let pass.
    x0, y0, x1, y1 = (max(sides[0] - 1, 0.0), max(sides[1] - 1, 0.0), min(sides[2], width), min(sides[3], height))
    if not np.isfinite(sides).all() or not (x0 < x1 and y0 < y1):
        raise ResultError(f"a box must have an area within the image, got {sides}")
    return Annotation(
        label=label, rle=empty_rle(image_size), box=(x0, y0, x1, y1), score=score, mark=element.findtext("instance")
    )


def pair_masks(masks: Mapping[int, RLE], boxes: Mapping[int, Box]) -> dict[int, int]:
    """Return the mask of each object that has one.

    Args:
        masks: by their values.
        boxes: by the numbers of the objects.

    Returns:
        Number to value. Masks are hidden in part by others, and boxes are counted from 0 or from 1.
    """
    tight = dict(zip(masks, rle_boxes(list(masks.values())), strict=True))
    pairs = {
        number: number
        for number, (x0, y0, x1, y1) in boxes.items()
        if number in tight
        and (tight[number] >= (x0 - 1, y0 - 1, x0 - 1, y0 - 1)).all()
        and (tight[number] <= (x1 + 1, y1 + 1, x1 + 1, y1 + 1)).all()
    }
    numbers, values = [n for n in boxes if n not in pairs], [v for v in tight if v not in pairs.values()]
    if numbers and values:
        of_objects, of_masks = (
            torch.tensor(np.array(rows, np.float64))
            for rows in ([boxes[n] for n in numbers], [tight[v] for v in values])
        )
        ious = box_iou(of_objects, of_masks).numpy()
        for row, column in sorted(zip(*np.nonzero(ious >= _SAME_IOU), strict=True), key=lambda place: -ious[place]):
            number, value = numbers[row], values[column]
            if number not in pairs and value not in pairs.values():
                pairs[number] = value
    return pairs
