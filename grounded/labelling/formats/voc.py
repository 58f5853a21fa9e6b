"""Pascal VOC (Everingham et al., 2010), the layout of its segmentation challenge:

    Annotations/a/b.xml           boxes
    SegmentationClass/a/b.png     class of each pixel, numbered from 1, 0 for none
    SegmentationObject/a/b.png    object of each pixel, numbered from 1 in the order of the XML file, 0 for none
    ImageSets/Segmentation/all.txt, ImageSets/Main/all.txt   names of all images
    labels.txt                    the classes, from the one of number 1
    JPEGImages/a/b.jpg            with copies of the images

PNG files have VOC's palette. 255, which marks pixels without a label, is not used. Boxes are the tight ones of the
masks, as VOC counts: the first pixel is 1, and xmax and ymax are the last pixel inside. Of instances that overlap, the
better score has the pixel. "score" is no element of VOC, whose readers pass over it.
"""

from collections.abc import Iterable
from xml.etree import ElementTree as ET

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.formats.exporter import Exporter, copy_suffix
from grounded.labelling.formats.png import count_hidden, encode_png
from grounded.labelling.formats.xml import xml_text
from grounded.labelling.records import ImageInfo, Record
from grounded.utils.files import open_new, write_new
from segany.utils.rle import rle_boxes

MAX_VALUE = 254  # of 8 bits, but for 255


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
    for label, (x0, y0, x1, y1), score in zip(instances.labels, boxes, instances.scores, strict=True):
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
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n"


def _add_text(parent: ET.Element, name: str, value: object) -> None:
    ET.SubElement(parent, name).text = xml_text(str(value))


def _palette() -> list[int]:
    """VOC's colours of the values 0 to 255: their bits dealt out to red, green and blue, from the highest down."""
    values = np.arange(256)
    channels = [sum((values >> 3 * i + channel & 1) << 7 - i for i in range(8)) for channel in range(3)]
    return np.stack(channels, axis=-1).ravel().tolist()
