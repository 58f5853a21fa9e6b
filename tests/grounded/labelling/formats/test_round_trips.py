"""What goes out comes back: every export format is told by its contents, read, and gives the same instances."""

from pathlib import Path

import numpy as np
import pytest

from grounded.labelling import store
from grounded.labelling.formats import EXPORT_FORMATS, IMPORT_FORMATS, corrections, ground_truth
from grounded.labelling.formats.annotations import Notes, guess_format, open_annotations
from grounded.labelling.formats.exporter import export
from grounded.labelling.records import Record
from grounded.labelling.review import apply
from tests.grounded.labelling.formats import made, runs
from tests.grounded.labelling.formats.test_corrections import annotated

# Two images whose names differ by the extension alone cannot be told from one another without their copies.
RECORDS = [record for name, record in made.RECORDS.items() if name != "same stem"]
READ_AS = {name: name for name in EXPORT_FORMATS} | {
    "yolo-seg": "yolo",
    "yolo-box": "yolo",
    "labelme-mask": "labelme",
    "label-studio-polygon": "label-studio",
}
BOXES = {"yolo-box"}
ONE_LAYER = {"voc", "panoptic"}  # of instances that overlap the better one has the pixel
every = pytest.mark.parametrize("name", EXPORT_FORMATS)


def exported(name: str, folder: Path, with_images: bool) -> Path:
    """A run in `folder` with RECORDS, exported."""
    out = folder.parent / "out"
    records = apply.corrected_records(runs.write(folder, RECORDS))
    export(name, records, made.CLASSES, out, made.images if with_images else None)
    if name.startswith("label-studio"):
        annotated(out / "tasks.json")  # what nobody has looked at is not taken back
    if name == "coco-results":  # the file that the ids are of
        export("coco", apply.corrected_records(folder), made.CLASSES, folder.parent / "coco")
        (folder.parent / "coco" / "instances.json").rename(out / "instances.json")
    return out


def expected(record: Record, name: str) -> list[tuple[str, np.ndarray]]:
    """The labels and masks of a record, as far as a format can hold them."""
    shown = made.shown(record) if name not in ("csv", "parquet") else record.instances
    masks = made.visible(shown) if name in ONE_LAYER else list(shown.masks)
    return list(zip(shown.labels.tolist(), masks, strict=True))


def test_there_is_a_reader_for_every_format():
    assert set(READ_AS.values()) == set(IMPORT_FORMATS)


@every
@pytest.mark.parametrize(
    "with_images", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["without images", "with images"]
)
def test_corrections_that_change_nothing(name: str, with_images: bool, tmp_path: Path):
    path, notes = exported(name, tmp_path / "run", with_images), Notes()
    form = guess_format(path)
    assert form == ("coco" if name == "coco-results" else READ_AS[name])
    reader = open_annotations(path, READ_AS[name])
    result = corrections.import_corrections(tmp_path / "run", reader, form, notes)
    assert (result.images, result.refused) == (len(RECORDS), {}), notes.lines()
    assert result.actions["reject"] == result.actions["relabel"] == result.actions["add"] == 0
    if name not in BOXES:  # which accept nothing
        hidden = sum(name in ONE_LAYER and not mask.any() for one in RECORDS for _, mask in expected(one, name))
        shown = sum(len(made.shown(record)) for record in RECORDS)
        assert result.actions == {"accept": shown - hidden}


@every
def test_a_run_of_its_own(name: str, tmp_path: Path):
    path, notes = exported(name, tmp_path / "run", with_images=True), Notes()
    reader = open_annotations(path, READ_AS[name])
    run = ground_truth.run_of(reader, path, READ_AS[name], str(path))
    names = [record.image.file for record in RECORDS]
    sizes = {record.image.file: record.instances.image_size for record in RECORDS}
    # All others tell the sizes of images without instances themselves, or by the copies.
    read_size = sizes.__getitem__ if name.startswith("label-studio") else None
    result = ground_truth.import_ground_truth(tmp_path / "new", reader, run, notes, names, read_size=read_size)
    assert (result.images, result.refused) == (len(RECORDS), {}), notes.lines()
    assert not [line for line in notes.lines() if "left out" in line]
    found = {record.image.file: record for record in store.read_records(tmp_path / "new")}
    for record in RECORDS:
        again = found[record.image.file]
        assert again.instances.image_size == record.instances.image_size
        if name in BOXES:
            shown = made.shown(record)
            assert again.instances.labels.tolist() == shown.labels.tolist()
            for box, mask in zip(again.instances.boxes, shown.masks, strict=True):
                rows, columns = np.nonzero(mask)
                tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(box, tight, atol=1e-3)
        else:
            pairs = expected(record, name)
            if name == "panoptic":  # which has no place for what is hidden
                pairs = [(label, mask) for label, mask in pairs if mask.any()]
            runs.assert_equal(runs.pairs(again), pairs)
