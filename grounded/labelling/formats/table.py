"""Tables, as CSV or Parquet, with all that a record holds of its instances but the scores against other phrases.

    instances.csv   a row for each instance, in `INSTANCES` columns
    images.csv      a row for each image, in `IMAGES` columns, also for those without instances
    images/         with copies of the images

Boxes are xyxy in pixels: of the detector (box_...) and the tight one of the mask (mask_...). `rle_counts` is COCO's
compressed run-length encoding, which with the size of the image is the mask. Unknown scores are empty.
"""

import csv
import importlib
import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from grounded.data.instances import Instances
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.records import ImageInfo, Record
from grounded.utils.files import open_new, output_errors
from segany.utils.rle import rle_area, rle_boxes

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
ROWS_AT_ONCE = 10_000  # of Parquet, which lays columns down in groups of rows

Row: TypeAlias = tuple[Any, ...]
AddRow: TypeAlias = Callable[[Row], None]


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


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "pip install 'grounded-segany[parquet]'"
        raise ImportError(f"parquet needs the package pyarrow: {hint} ({error})") from error
