"""Tables, as CSV or Parquet, with all that a record tells of its instances but for the scores against other phrases.

    instances.csv   a row for each instance, in `INSTANCES` columns
    images.csv      a row for each picture, in `IMAGES` columns, also for those without instances
    images/         with copies of the pictures

Boxes are xyxy in pixels: of the detector (box_...) and the tight one of the mask (mask_...). `rle_counts` is COCO's
compressed run-length encoding, which with the size of the picture is the mask. Unknown scores are empty.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pycocotools import mask as coco_mask

from grounded.labelling.formats import pictures
from grounded.labelling.formats.coco_write import copy
from grounded.labelling.formats.labels import numbered, of_classes
from grounded.labelling.formats.png import csv_rows
from grounded.labelling.records import ImageInfo, Record
from grounded.utils.files import explained
from grounded.utils.folders import opened
from segany.utils.rle import rle_area

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
Add: TypeAlias = Callable[[Row], None]


def write_csv(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write `instances.csv` and `images.csv`; see `grounded.labelling.formats.exporting.Write`."""
    return _write(records, classes, folder, images, ".csv", _csv)


def write_parquet(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write `instances.parquet` and `images.parquet`; see `grounded.labelling.formats.exporting.Write`.

    Raises:
        ImportError: the package pyarrow is not installed.
    """
    _pyarrow()  # now rather than after the first folder
    return _write(records, classes, folder, images, ".parquet", _parquet)


def _write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None,
    extension: str,
    table: Callable[[Path, Mapping[str, str]], AbstractContextManager[Add]],
) -> Counter[str]:
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    with ExitStack() as stack:
        add_instance = stack.enter_context(table(folder / f"instances{extension}", INSTANCES))
        add_image = stack.enter_context(table(folder / f"images{extension}", IMAGES))
        for image_id, record in enumerate(records, start=1):
            file = copy(record.image, names, folder, images, lost)
            for row in _instance_rows(record, numbers, file, image_id):
                add_instance(row)
            add_image(_image_row(record.image, file, image_id, len(record.instances), images is not None))
    return lost


def _instance_rows(record: Record, numbers: Mapping[str, int], file: str, image_id: int) -> Iterator[Row]:
    instances = of_classes(record, numbers)
    rles = list(instances.rles)
    areas, tight = rle_area(rles), np.asarray(coco_mask.toBbox(rles), dtype=np.float32).reshape(-1, 4)
    tight[:, 2:] += tight[:, :2]
    columns = (instances.scores, instances.detector_scores, instances.clip_scores, instances.predicted_iou)
    for row, (class_id, rle) in enumerate(zip(instances.phrase_ids.tolist(), rles, strict=True)):
        numeric = [*(column[row] for column in columns), *instances.boxes[row], *tight[row]]
        yield (
            file,
            image_id,
            row,
            class_id,
            instances.phrases[class_id],
            *(number if np.isfinite(number) else None for number in numeric),
            int(areas[row]),
            str(instances.sources[row]),
            record.image.width,
            record.image.height,
            rle["counts"],
        )


def _image_row(image: ImageInfo, file: str, image_id: int, instances: int, copied: bool) -> Row:
    orientation = 1 if copied else image.orientation
    return image_id, file, image.width, image.height, orientation, image.sha256, instances, "; ".join(image.notes)


@contextmanager
def _csv(path: Path, columns: Mapping[str, str]) -> Iterator[Add]:
    with opened(path) as write:
        write(csv_rows([tuple(columns)]))
        yield lambda row: write(csv_rows([row]))


@contextmanager
def _parquet(path: Path, columns: Mapping[str, str]) -> Iterator[Add]:
    pyarrow, parquet = _pyarrow()
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()])
    rows: list[Row] = []

    def flush() -> None:
        by_column = zip(zip(*rows, strict=True), schema.types, strict=True)
        arrays = [pyarrow.array(column, kind) for column, kind in by_column]
        with explained(path):
            writer.write_table(pyarrow.table(arrays, schema=schema))
        rows.clear()

    def add(row: Row) -> None:
        rows.append(row)
        if len(rows) == ROWS_AT_ONCE:
            flush()

    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = parquet.ParquetWriter(path, schema, compression="zstd")
    try:
        yield add
        if rows:
            flush()
    finally:
        with explained(path):
            writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "pip install 'grounded-segany[parquet]'"
        raise ImportError(f"parquet needs the package pyarrow: {hint} ({error})") from error
