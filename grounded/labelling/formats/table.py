"""Tables, as CSV or Parquet, with all that a record holds of its instances but the scores against other phrases.

    instances.csv   a row for each instance, in `INSTANCES` columns
    images.csv      a row for each image, in `IMAGES` columns, also for those without instances
    images/         with copies of the images

Boxes are xyxy in pixels: of the detector (box_...) and the tight one of the mask (mask_...). `rle_counts` is COCO's
compressed run-length encoding, which with the size of the image is the mask. Unknown scores are empty. Read are masks,
classes and `score`, and of an instance without pixels the box.
"""

import csv
import importlib
import io
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import MaskError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    Box,
    FindSize,
    LeftOut,
    Notes,
    read_label,
)
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_sizes import stated_size
from grounded.labelling.records import ImageInfo, Record
from grounded.utils.files import open_new, output_errors
from segany.utils.rle import check_rle, rle_area, rle_boxes

SCORES = ("score", "detector_score", "clip_score", "predicted_iou")
BOXES = tuple(f"{kind}_{side}" for kind in ("box", "mask") for side in ("left", "top", "right", "bottom"))
# Column -> its type in Parquet
INSTANCES = {
    "file": "string",
    "image_id": "int64",
    "instance": "int32",
    "class_id": "int32",
    "class": "string",
    **dict.fromkeys((*SCORES, *BOXES), "float32"),
    "area": "int64",
    "source": "string",
    "width": "int32",
    "height": "int32",
    "rle_counts": "string",
}
IMAGES = {
    "image_id": "int64",
    "file": "string",
    "width": "int32",
    "height": "int32",
    "orientation": "int32",
    "sha256": "string",
    "instances": "int32",
    "notes": "string",
}
_LONGEST_FIELD = 2**31 - 1  # characters
ROWS_AT_ONCE = 10_000  # of Parquet, which lays columns down in groups of rows

Row: TypeAlias = tuple[Any, ...]
AddRow: TypeAlias = Callable[[Row], None]


# ---- Writing ----


class _TableExporter(Exporter):
    """Writes a table of instances and one of images; instances without pixels have rows as well."""

    keeps_empty_masks = True
    suffix: ClassVar[str]

    @abstractmethod
    def open_table(self, path: Path, columns: Mapping[str, str]) -> AbstractContextManager[AddRow]:
        """Open a new table to be written row by row. Yields `add(row)`.

        Args:
            path: of the file.
            columns: name to type, see `INSTANCES`.
        """

    def begin(self) -> None:
        instances, images = (self.folder / f"{name}{self.suffix}" for name in ("instances", "images"))
        self._add_instance = self.open_files.enter_context(self.open_table(instances, INSTANCES))
        self._add_image = self.open_files.enter_context(self.open_table(images, IMAGES))
        self._images = 0

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        self._images += 1
        image = record.image
        for row in _instance_rows(instances, image, file, self._images):
            self._add_instance(row)
        orientation = image.orientation if self.images is None else 1
        sizes = (image.width, image.height, orientation)
        self._add_image((self._images, file, *sizes, image.sha256, len(instances), "; ".join(image.notes)))


class CsvExporter(_TableExporter):
    """Writes `instances.csv` and `images.csv`."""

    suffix = ".csv"

    @contextmanager
    def open_table(self, path: Path, columns: Mapping[str, str]) -> Iterator[AddRow]:
        with open_new(path) as write:
            write(csv_lines([tuple(columns)]))
            yield lambda row: write(csv_lines([row]))


class ParquetExporter(_TableExporter):
    """Writes `instances.parquet` and `images.parquet`; needs the package pyarrow."""

    suffix = ".parquet"

    @contextmanager
    def open_table(self, path: Path, columns: Mapping[str, str]) -> Iterator[AddRow]:
        pyarrow, parquet = _import_pyarrow()
        schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()])
        rows: list[Row] = []

        def flush() -> None:
            by_column = zip(zip(*rows, strict=True), schema.types, strict=True)
            arrays = [pyarrow.array(column, kind) for column, kind in by_column]
            with output_errors(path):
                writer.write_table(pyarrow.table(arrays, schema=schema))
            rows.clear()

        def add(row: Row) -> None:
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                flush()

        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = parquet.ParquetWriter(path, schema, compression="zstd")
        try:
            yield add
            if rows:
                flush()
        finally:
            with output_errors(path):
                writer.close()


def _instance_rows(instances: Instances, image: ImageInfo, file: str, image_id: int) -> Iterator[Row]:
    areas, tight = rle_area(instances.rles), rle_boxes(instances.rles).astype(np.float32)
    columns = (instances.scores, instances.detector_scores, instances.clip_scores, instances.predicted_iou)
    for row, (class_id, rle) in enumerate(zip(instances.phrase_ids.tolist(), instances.rles, strict=True)):
        numbers = [*(column[row] for column in columns), *instances.boxes[row], *tight[row]]
        yield (
            file,
            image_id,
            row,
            class_id,
            instances.phrases[class_id],
            *(number if np.isfinite(number) else None for number in numbers),
            int(areas[row]),
            str(instances.sources[row]),
            image.width,
            image.height,
            rle["counts"],
        )


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows as lines of a CSV file in UTF-8."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# ---- Reading ----


@dataclass(frozen=True)
class TableReader(AnnotationReader):
    """Both tables, in memory."""

    paths: tuple[Path, ...]
    images_of: Mapping[str, Mapping[str, Any]]  # rows of the table of images, by file
    rows: Mapping[str, Sequence[Mapping[str, Any]]]  # of the table of instances, by file

    @classmethod
    def open(cls, path: Path) -> "TableReader":
        """Open a folder, or the table of instances in it. Raises ResultError where it is not of this format."""
        names = [path / f"instances{suffix}" for suffix in (".csv", ".parquet")] if path.is_dir() else [path]
        instances = next((name for name in names if name.is_file()), names[0])
        images = instances.with_name(f"images{instances.suffix}")
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for row in _read_table(instances, ("file", "class", "width", "height", "rle_counts")):
            rows.setdefault(str(row["file"]), []).append(row)
        listed = _read_table(images, ("file", "width", "height")) if images.is_file() else ()
        return cls((instances, images) if listed else (instances,), {str(row["file"]): row for row in listed}, rows)

    def files(self) -> tuple[Path, ...]:
        return self.paths

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for rows in self.rows.values():
            for row in rows:
                with suppress(ResultError):
                    found[read_label(row["class"])] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        for file in dict.fromkeys((*self.images_of, *self.rows)):
            rows, names = self.rows.get(file, ()), (file or "an image without a name",)
            left_out = LeftOut(notes, names[0])
            try:
                first = self.images_of.get(file) or rows[0]
                size = stated_size(first["height"], first["width"]) or (find_size(names) if find_size else None)
                if size is None:
                    raise ResultError("the image must have a width and a height")
                found = [_annotation(row, f"row {number}", size, left_out) for number, row in enumerate(rows, start=1)]
                annotations = tuple(one for one in found if one is not None)
                yield AnnotatedImage(names=names, image_size=size, annotations=annotations, left_out=left_out.count)
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))


def _annotation(row: Mapping[str, Any], what: str, image_size: tuple[int, int], left_out: LeftOut) -> Annotation | None:
    try:
        label = read_label(row["class"])
        rle = check_rle({"size": (row["height"], row["width"]), "counts": row["rle_counts"]}, image_size)
        box = None if rle_area([rle])[0] else _box(row)
    except (ResultError, MaskError) as error:
        left_out.add(DAMAGED, what, error)
        return None
    return Annotation(label=label, rle=rle, box=box, score=as_score(row.get("score")))


def _box(row: Mapping[str, Any]) -> Box | None:
    """Return the box of an instance without pixels; None where there is none."""
    x0, y0, x1, y1 = (as_score(row.get(name)) for name in BOXES[:4])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None  # False for nan too


def as_score(value: Any) -> float:
    """Return a finite number of a table that 32 bits hold; nan where there is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) < np.finfo(np.float32).max else math.nan


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    if path.suffix != ".parquet":
        return read_csv(path, columns)
    _, parquet = _import_pyarrow()
    try:
        with path.open("rb") as file:
            rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or ' '.join(str(error).split())[:200]}") from error
    except Exception as error:  # damaged files make it raise nearly anything
        raise ResultError(f"{path} is not Parquet: {' '.join(str(error).split())[:200]}") from error
    _check_columns(path, rows[0] if rows else dict.fromkeys(columns), columns)
    return rows


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a CSV file as text by column. Raises ResultError where it lacks one of the columns."""
    csv.field_size_limit(_LONGEST_FIELD)  # by default 131,072 characters: a mask of foliage may have more
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is not CSV in UTF-8: {error}") from error
    head, *others = rows or [[]]
    _check_columns(path, head, columns)
    return [dict(zip(head, [*row, *[""] * len(head)], strict=False)) for row in others if row]


def _check_columns(path: Path, head: Iterable[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in head]
    if missing:
        raise ResultError(f"{path} must have the columns {', '.join(columns)}, got none called {missing[0]}")


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "pip install 'grounded-segany[parquet]'"
        raise ImportError(f"parquet needs the package pyarrow: {hint} ({error})") from error
