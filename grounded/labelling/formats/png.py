"""Plain PNG files, which anything reads, and PNG helpers of the other formats.

    classes.csv       value, class: the class of each value in the class maps, from 1; 0 is no instance
    class/a/b.png     class of each pixel; grey, 8 bits, 16 for more than 255 classes
    mask/a/b/000.png  mask of one instance, 255 inside and 0 outside, numbered as the record has them
    instances.csv     picture, mask, value, class, score: a row for each mask
    images/a/b.jpg    with copies of the images

All are of the image's size. Masks hold every pixel, also where instances overlap; in the class map the better score
has the pixel.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Integer
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.table import csv_lines
from grounded.labelling.records import Record
from grounded.utils.files import image_bytes, open_new, write_new
from segany.utils.rle import decode_rle, rle_area

MAX_CLASSES = 65535  # values of 16 bits, but for 0


class PngExporter(Exporter):
    """Writes class maps and masks."""

    has_file_per_image = True

    def begin(self) -> None:
        if len(self.classes) > MAX_CLASSES:
            raise ConfigError(f"png holds at most {MAX_CLASSES} classes, got {len(self.classes)}")
        self._dtype = np.uint8 if len(self.classes) < 256 else np.uint16
        rows = [("value", "class"), *enumerate(self.classes, start=1)]
        write_new(self.folder / "classes.csv", csv_lines(rows))
        self._write_lines = self.open_files.enter_context(open_new(self.folder / "instances.csv"))
        # The first column is called "picture" in files that people have already.
        self._write_lines(csv_lines([("picture", "mask", "value", "class", "score")]))

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        path = file if self.images is None else f"{self.image_folder}/{file}"
        write_new(self.folder / "class" / f"{stem}.png", encode_png(instances.label_map().astype(self._dtype)))
        for row, rle in enumerate(instances.rles):
            mask_path = f"mask/{stem}/{row:03d}.png"
            mask = decode_rle([rle])[0].numpy().astype(np.uint8) * np.uint8(255)
            write_new(self.folder / mask_path, encode_png(mask))
            value, score = int(instances.phrase_ids[row]) + 1, instances.scores[row]
            known_score = score if np.isfinite(score) else ""
            self._write_lines(csv_lines([(path, mask_path, value, self.classes[value - 1], known_score)]))


def encode_png(values: Integer[np.ndarray, "h w"], palette: Sequence[int] | None = None) -> bytes:
    """Return values as a PNG file of 8 bits, or of 16 where their dtype is uint16.

    Args:
        values: uint8 or uint16.
        palette: red, green and blue of each value, for uint8 values only; grey without.
    """
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    return image_bytes(image)


def count_hidden(instances: Instances, visible: Int[np.ndarray, "n"], lost: Counter[str]) -> None:
    """Count instances that lie under better ones, where each pixel has one value.

    Args:
        instances: of one image.
        visible: pixels of each instance that remain.
        lost: is added to.
    """
    lost["instances wholly under better ones"] += int((visible == 0).sum())
    lost["instances partly under better ones"] += int(((visible > 0) & (visible < rle_area(instances.rles))).sum())
