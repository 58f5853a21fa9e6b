"""Plain PNG files, which anything reads:

    classes.csv       value, class: what the values of the class pictures mean, from 1; 0 is no instance
    class/a/b.png     class of each pixel; grey, 8 bits, 16 for more than 255 classes
    mask/a/b/000.png  mask of one instance, 255 inside and 0 outside, numbered as the record has them
    instances.csv     picture, mask, value, class, score: a row for each mask
    images/a/b.jpg    with copies of the pictures

All are of the picture's size. Masks hold every pixel, also where instances overlap; in the class picture the better
score has the pixel.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from grounded.errors import ConfigError
from grounded.labelling.formats import pictures
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.formats.layers import png
from grounded.labelling.records import Record
from grounded.utils.folders import opened, write_file
from segany.utils.rle import decode_rle

MOST = 65535  # values of 16 bits, but for 0


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write class pictures and masks; see `grounded.labelling.formats.exporting.Write`.

    Raises:
        ConfigError: there are more than 65,535 classes, which two bytes do not hold.
    """
    if len(classes) > MOST:
        raise ConfigError(f"png holds at most {MOST} classes, got {len(classes)}")
    dtype = np.uint8 if len(classes) < 256 else np.uint16
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    write_file(folder / "classes.csv", csv_rows([("value", "class"), *enumerate(classes, start=1)]))
    with opened(folder / "instances.csv") as listed:
        listed(csv_rows([("picture", "mask", "value", "class", "score")]))
        for record in records:
            instances = with_pixels(of_classes(record, numbers), lost)
            stem = names.stem(record.image)
            picture = record.image.file
            if images is not None:
                picture = f"images/{stem}{pictures.suffix(record.image)}"
                pictures.save(folder / picture, record.image, images, lost)
            write_file(folder / "class" / f"{stem}.png", png(instances.label_map().astype(dtype)))
            for row, rle in enumerate(instances.rles):
                mask = f"mask/{stem}/{row:03d}.png"
                write_file(folder / mask, png(decode_rle([rle])[0].numpy().astype(np.uint8) * np.uint8(255)))
                score = instances.scores[row]
                value = int(instances.phrase_ids[row]) + 1
                listed(csv_rows([(picture, mask, value, classes[value - 1], score if np.isfinite(score) else "")]))
    return lost


def csv_rows(rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows as lines of a CSV file in UTF-8."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
