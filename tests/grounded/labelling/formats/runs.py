"""Runs to be corrected elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from grounded.labelling.formats.annotations import Notes, open_annotations
from grounded.labelling.formats.corrections import ImportedCorrections, import_corrections
from grounded.labelling.formats.exporter import export
from grounded.labelling.records import Record
from grounded.labelling.review import apply
from grounded.labelling.store import Run, open_run, read_records
from grounded.labelling.store.source_ids import SourceIds
from tests.grounded.labelling.formats import made

CLASSES = (*made.CLASSES, "a red dog")


def write(folder: Path, records: list[Record] = made.ALL) -> Path:
    """A run in `folder` with these records."""
    run = Run(source=str(folder.parent / "images"), phrases=made.CLASSES, config="")
    with open_run(folder, run) as writer:
        for record in records:
            writer.append(record)
    return folder


def exported(folder: Path, name: str, at_most: int | None = None) -> Path:
    """Export the run in `folder` as it is corrected so far, with `at_most` instances of each image, beside it."""
    out = folder.parent / f"{name}-{len(list(folder.parent.iterdir()))}"
    records = (replace(one, instances=one.instances[:at_most]) for one in apply.corrected_records(folder))
    export(name, records, CLASSES, out, source_ids=SourceIds.read(folder))
    return out


def taken_back(
    path: Path, folder: Path, name: str | None = None, keep_missing: bool = False
) -> tuple[ImportedCorrections, Notes]:
    """Import corrections into the run in `folder`."""
    notes = Notes()
    return import_corrections(folder, open_annotations(path, name), name or "labelme", notes, keep_missing), notes


def corrected(folder: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Labels and masks of each image after reviews."""
    return {record.image.file: pairs(record) for record in apply.corrected_records(folder)}


def before(folder: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    return {record.image.file: pairs(record) for record in read_records(folder)}


def pairs(record: Record) -> list[tuple[str, np.ndarray]]:
    return list(zip(record.instances.labels.tolist(), record.instances.masks, strict=True))


def assert_equal(found: list[tuple[str, np.ndarray]], expected: list[tuple[str, np.ndarray]]) -> None:
    assert [label for label, _ in found] == [label for label, _ in expected]
    for (_, mask), (_, truth) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, truth)
