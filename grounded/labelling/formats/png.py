"""Plain PNG files, which anything reads, and PNG helpers of the other formats.

    classes.csv       value, class: the class of each value in the class maps, from 1; 0 is no instance
    class/a/b.png     class of each pixel; grey, 8 bits, 16 for more than 255 classes
    mask/a/b/000.png  mask of one instance, 255 inside and 0 outside, numbered as the record has them
    instances.csv     image_name, mask, value, class, score: a row for each mask
    images/a/b.jpg    with copies of the images

All are of the image's size. Masks hold every pixel, also where instances overlap; in the class map the better score
has the pixel. Read are the masks, and from the class maps which images have none.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer, Shaped
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from scipy.ndimage import find_objects

from grounded.data.instances import Instances
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
    read_label,
)
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_sizes import images_by_stem, stated_size, upright_size
from grounded.labelling.formats.table import as_score, csv_lines, read_csv
from grounded.labelling.records import Record
from grounded.utils.files import image_bytes, open_new, write_new
from segany.utils.rle import RLE, decode_rle, encode_columns, encode_rle, rle_area

CLASSES, INSTANCES = "classes.csv", "instances.csv"
_OPAQUE = 128  # least alpha of a pixel in a mask
MAX_CLASSES = 65535  # values of 16 bits, but for 0


# ---- Writing ----


class PngExporter(Exporter):
    """Writes class maps and masks."""

    has_file_per_image = True

    def begin(self) -> None:
        if len(self.classes) > MAX_CLASSES:
            raise ConfigError(f"png holds at most {MAX_CLASSES} classes, got {len(self.classes)}")
        self._dtype = np.uint8 if len(self.classes) < 256 else np.uint16
        rows = [("value", "class"), *enumerate(self.classes, start=1)]
        write_new(self.folder / CLASSES, csv_lines(rows))
        self._write_lines = self.open_files.enter_context(open_new(self.folder / INSTANCES))
        self._write_lines(csv_lines([("image_name", "mask", "value", "class", "score")]))

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


def decode_png(source: bytes | Path) -> Shaped[np.ndarray, "..."]:
    """Return the values of a PNG file as they are stored: (h, w) of grey, bits or a palette, (h, w, c) of colours.

    Raises:
        ResultError: it is no PNG file, damaged, or larger than any image.
    """
    name = str(source) if isinstance(source, Path) else "a mask"
    try:
        # Not by `Image.open`, which has another limit.
        with PngImageFile(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            stated_size(image.height, image.width)
            return np.asarray(image)
    except ResultError:
        raise
    except OSError as error:  # Pillow's errors are some, without a reason of the system
        problem = f"cannot be read: {error.strerror}" if error.strerror else "is no PNG file, or a damaged one"
        raise ResultError(f"{name} {problem}") from error
    except Exception as error:  # damaged data make Pillow's decoders raise nearly anything
        raise ResultError(f"{name} is a damaged PNG file: {error or type(error).__name__}") from error


def decode_mask(source: bytes | Path) -> Bool[np.ndarray, "h w"]:
    """Return which pixels of a PNG file are set: those that are opaque, and where all are opaque, those not black.

    Raises:
        ResultError: as `decode_png`.
    """
    values = decode_png(source)
    if values.ndim == 2:
        return np.asarray(values > 0)
    has_alpha = values.shape[2] in (2, 4)
    if has_alpha and not (values[..., -1] == 255).all():
        return np.asarray(values[..., -1] >= _OPAQUE)
    return np.asarray((values[..., :-1] if has_alpha else values).any(axis=2))


def encode_values(values: Integer[np.ndarray, "h w"]) -> dict[int, RLE]:
    """Return the mask of each value but 0 that an image of values has."""
    found, inverse = np.unique(values, return_inverse=True)
    numbers = inverse.reshape(values.shape).astype(np.int32) + 1  # of the values, from 1
    masks = {}
    for number, (rows, columns) in enumerate(find_objects(numbers), start=1):
        value = int(found[number - 1])
        if value != 0:
            crop = torch.from_numpy(numbers[rows, columns] == number).T.contiguous()
            (masks[value],) = encode_columns(crop[None], (columns.start, rows.start), values.shape)
    return masks


def count_hidden(instances: Instances, visible: Int[np.ndarray, "n"], lost: Counter[str]) -> None:
    """Count instances that lie under better ones, where each pixel has one value.

    Args:
        instances: of one image.
        visible: pixels of each instance that remain.
        lost: is added to.
    """
    lost["instances wholly under better ones"] += int((visible == 0).sum())
    lost["instances partly under better ones"] += int(((visible > 0) & (visible < rle_area(instances.rles))).sum())


# ---- Reading ----


@dataclass(frozen=True)
class PngReader(AnnotationReader):
    """A folder of masks. The rows of its tables are in memory, masks are read image by image."""

    root: Path
    rows: Mapping[str, Sequence[Mapping[str, str]]]  # of instances.csv, by image

    @classmethod
    def open(cls, path: Path) -> "PngReader":
        """Open a folder, or the `instances.csv` in it. Raises ResultError where it is not of this format."""
        table = path / INSTANCES if path.is_dir() else path
        rows: dict[str, list[Mapping[str, str]]] = {}
        for row in read_csv(table, ("image_name", "mask", "class")):
            rows.setdefault(row["image_name"], []).append(row)
        return cls(table.parent, rows)

    def files(self) -> tuple[Path, ...]:
        return (self.root / INSTANCES, *sorted(self.root.rglob("*.png")))

    def labels(self) -> tuple[str, ...]:
        path = self.root / CLASSES
        classes = [row["class"] for row in read_csv(path, ("class",))] if path.is_file() else []
        found: dict[str, None] = {}
        for label in (*classes, *(row["class"] for rows in self.rows.values() for row in rows)):
            with suppress(ResultError):
                found[read_label(label)] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        done = set[str]()
        for image_name, rows in self.rows.items():
            names = tuple(dict.fromkeys(filter(None, (image_name, image_name.removeprefix("images/"))))) or (
                "an image",
            )
            done |= {
                str(PurePosixPath(row["mask"]).parent.relative_to("mask")) for row in rows if _is_mask(row["mask"])
            }
            yield self._read(names, rows, LeftOut(notes, names[0]))
        folder = self.root / "class"
        for path in sorted(folder.rglob("*.png")):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            size = upright_size(path) if stem not in done else None
            if size is not None:
                copies = images_by_stem((self.root / "images" / stem).parent).get(PurePosixPath(stem).name, [])
                names = (*(copy.relative_to(self.root).as_posix() for copy in copies), stem)
                yield AnnotatedImage(names=names, image_size=size)

    def _read(self, names: tuple[str, ...], rows: Sequence[Mapping[str, str]], left_out: LeftOut) -> AnnotatedImage:
        size: tuple[int, int] | None = None
        annotations = []
        for row in rows:
            what = f"mask {row['mask'][:80]!r}"
            try:
                label = read_label(row["class"])
                if not _is_mask(row["mask"]):
                    raise ResultError("a mask must be a PNG file below mask/")
                mask = decode_mask(self.root / row["mask"])
                size = size or (mask.shape[0], mask.shape[1])
                if mask.shape != size:
                    raise ResultError(f"masks must be of one size, got {mask.shape[::-1]} after {size[::-1]}")
                (rle,) = encode_rle(mask[None])
            except ResultError as error:
                left_out.add(DAMAGED, what, error)
                continue
            annotations.append(Annotation(label=label, rle=rle, score=as_score(row.get("score"))))
        if size is None:
            return AnnotatedImage(names=names, error="none of its masks can be read")
        return AnnotatedImage(names=names, image_size=size, annotations=tuple(annotations), left_out=left_out.count)


def _is_mask(name: str) -> bool:
    """Whether the name of a file is one below the folder of masks."""
    parts = PurePosixPath(name).parts
    return len(parts) > 2 and parts[0] == "mask" and ".." not in parts and "\0" not in name
