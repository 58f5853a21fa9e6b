"""Pascal VOC (Everingham et al., 2010), the layout of its segmentation challenge:

    Annotations/a/b.xml           boxes
    SegmentationClass/a/b.png     class of each pixel, numbered from 1, 0 for none
    SegmentationObject/a/b.png    object of each pixel, numbered from 1 in the order of the XML file, 0 for none
    ImageSets/Segmentation/all.txt, ImageSets/Main/all.txt   names of all pictures
    labels.txt                    the classes, from the one of number 1
    JPEGImages/a/b.jpg            with copies of the pictures

PNG files have VOC's palette. 255, which marks pixels that nobody is asked about, is not used. Boxes are the tight ones
of the masks, as VOC counts: the first pixel is 1, and xmax and ymax are the last pixel inside. Of instances that
overlap, the better score has the pixel. "score" is no element of VOC, whose readers pass over it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.formats import pictures
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.formats.layers import count_hidden, png, visible_pixels
from grounded.labelling.formats.xml import plain
from grounded.labelling.records import ImageInfo, Record
from grounded.utils.folders import opened, write_file

MOST = 254  # values of 8 bits, but for 0 and 255


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write boxes and index pictures; see `grounded.labelling.formats.exporting.Write`.

    Raises:
        ConfigError: there are more than 254 classes, which one byte does not hold.
    """
    if len(classes) > MOST:
        raise ConfigError(f"voc holds at most {MOST} classes, got {len(classes)}; png, coco and panoptic hold more")
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    write_file(folder / "labels.txt", _lines(classes))
    with (
        opened(folder / "ImageSets" / "Segmentation" / "all.txt") as segmented,
        opened(folder / "ImageSets" / "Main" / "all.txt") as listed,
    ):
        for record in records:
            instances = with_pixels(of_classes(record, numbers), lost)
            stem = names.stem(record.image)
            file_name = f"{stem}{pictures.suffix(record.image)}"
            if images is not None:
                pictures.save(folder / "JPEGImages" / file_name, record.image, images, lost)
            write_file(folder / "Annotations" / f"{stem}.xml", _annotation(record.image, file_name, instances))
            segments = instances.instance_map()
            count_hidden(instances, visible_pixels(segments, len(instances)), lost)
            shown = np.where(segments <= MOST, segments, 0)
            lost[f"instances beyond the {MOST} of a picture in SegmentationObject"] += max(0, len(instances) - MOST)
            classes_shown = np.append(0, instances.phrase_ids + 1)[segments]
            for kind, values in (("Class", classes_shown), ("Object", shown)):
                path = folder / f"Segmentation{kind}" / f"{stem}.png"
                write_file(path, png(values.astype(np.uint8), _palette()))
            for write_line in (segmented, listed):
                write_line(_lines([stem]))
    return lost


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(" ".join(text.splitlines()) + "\n" for text in texts).encode()


def _annotation(image: ImageInfo, file_name: str, instances: Instances) -> bytes:
    root = ET.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", file_name)
    size = ET.SubElement(root, "size")
    for name, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, name, value)
    _add(root, "segmented", 1)
    boxes = np.asarray(coco_mask.toBbox(list(instances.rles)), dtype=np.int64).reshape(-1, 4)
    for label, (x, y, width, height), score in zip(instances.labels, boxes, instances.scores, strict=True):
        item = ET.SubElement(root, "object")
        _add(item, "name", label)
        _add(item, "pose", "Unspecified")
        _add(item, "truncated", 0)
        _add(item, "difficult", 0)
        box = ET.SubElement(item, "bndbox")
        for name, side in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height)):
            _add(box, name, side)
        if np.isfinite(score):
            _add(item, "score", score)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n"


def _add(parent: ET.Element, name: str, value: object) -> None:
    ET.SubElement(parent, name).text = plain(str(value))


def _palette() -> list[int]:
    """VOC's colours of the values 0 to 255: their bits dealt out to red, green and blue, from the highest down."""
    values = np.arange(256)
    channels = [sum((values >> 3 * i + channel & 1) << 7 - i for i in range(8)) for channel in range(3)]
    return np.stack(channels, axis=-1).ravel().tolist()
