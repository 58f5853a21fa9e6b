"""Runs to be corrected elsewhere."""

from pathlib import Path

import numpy as np

from grounded.labelling.formats.corrections import Corrected, import_corrections
from grounded.labelling.formats.exporting import export
from grounded.labelling.formats.importing import Notes, open_annotations
from grounded.labelling.records import Record
from grounded.labelling.review import apply
from grounded.labelling.store import Run, open_run
from grounded.labelling.store import records as stored
from tests.grounded.labelling.formats import made

CLASSES = (*made.CLASSES, "a red dog")


def write(folder: Path, records: list[Record] = made.ALL) -> Path:
    """A run in `folder` with these records."""
    run = Run(source=str(folder.parent / "pictures"), phrases=made.CLASSES, config="")
    with open_run(folder, run) as writer:
        for record in records:
            writer.append(record)
    return folder


def exported(folder: Path, name: str, write=None) -> Path:
    """The run in `folder` as it is corrected so far, in a format, beside it."""
    out = folder.parent / f"{name}-{len(list(folder.parent.iterdir()))}"
    if write is None:
        export(name, apply.corrected(folder), CLASSES, out)
    else:
        out.mkdir()
        write(apply.corrected(folder), CLASSES, out)
    return out


def taken_back(
    path: Path, folder: Path, name: str | None = None, keep_missing: bool = False
) -> tuple[Corrected, Notes]:
    """Import corrections into the run in `folder`."""
    notes = Notes()
    return import_corrections(folder, open_annotations(path, name), name or "labelme", notes, keep_missing), notes


def corrected(folder: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Labels and masks of each picture after reviews."""
    return {record.image.file: pairs(record) for record in apply.corrected(folder)}


def before(folder: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    return {record.image.file: pairs(record) for record in stored(folder)}


def pairs(record: Record) -> list[tuple[str, np.ndarray]]:
    return list(zip(record.instances.labels.tolist(), record.instances.masks, strict=True))


def assert_equal(found: list[tuple[str, np.ndarray]], expected: list[tuple[str, np.ndarray]]) -> None:
    assert [label for label, _ in found] == [label for label, _ in expected]
    for (_, mask), (_, truth) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, truth)
