import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ConfigError, ResultError
from grounded.labelling import store
from grounded.labelling.formats import ground_truth
from grounded.labelling.formats.annotations import SOURCE, AnnotatedImage, Annotation, Notes, open_annotations
from grounded.labelling.sources import open_source
from segany.utils.rle import encode_rle
from tests.grounded.labelling.formats import made, runs
from tests.grounded.labelling.formats.test_corrections import FORMATS, as_labelme


def imported(
    path: Path, folder: Path, name: str, files: Sequence[str] | None = None, restart: bool = False
) -> tuple[ground_truth.ImportedGroundTruth, Notes]:
    reader, notes = open_annotations(path, name), Notes()
    run = ground_truth.run_of(reader, path, name, str(path.parent))
    return ground_truth.import_ground_truth(folder, reader, run, notes, files, restart), notes


@pytest.mark.parametrize("name", ["coco", "labelme", "labelme-mask"])
def test_records_have_the_masks_of_the_export(name: str, tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, form = FORMATS[name](folder)
    result, _ = imported(path, tmp_path / "new", form)
    assert (result.images, result.refused) == (len(made.ALL), {})
    found = {record.image.file: record for record in store.read_records(tmp_path / "new")}
    for record in made.ALL:
        again = found[record.image.file]
        assert (again.image.width, again.image.height) == (record.image.width, record.image.height)
        assert set(again.instances.sources) <= {SOURCE}
        runs.assert_equal(
            runs.pairs(again), list(zip(*[made.shown(record).labels, made.shown(record).masks], strict=True))
        )
        expected = made.shown(record).scores if form == "coco" else np.nan
        np.testing.assert_array_equal(again.instances.scores, np.broadcast_to(expected, len(again.instances)))
    run = store.Run.read(tmp_path / "new")
    assert run.config == again.config and set(run.phrases) >= {"a dog", "ein Stück Käse 猫"}
    assert run.configuration["imported"]["format"] == form


def test_label_studio_does_not_tell_the_size_of_an_empty_image(tmp_path: Path):
    path, form = FORMATS["label-studio"](runs.write(tmp_path / "run"))
    result, _ = imported(path, tmp_path / "new", form)
    assert result.refused == {"sub/nothing.png": "the size of the image is not stated"}
    assert result.images == len(made.ALL) - 1


def test_again_adds_nothing_and_a_changed_file_is_another_run(tmp_path: Path):
    path, form = as_labelme(runs.write(tmp_path / "run"))
    for _ in range(2):
        result, _ = imported(path, tmp_path / "new", form)
        assert result.images == len(made.ALL)
        assert len(list(store.read_records(tmp_path / "new"))) == len(made.ALL)
    (path / "one.json").unlink()
    with pytest.raises(ConfigError, match="differs in imported"):
        imported(path, tmp_path / "new", form)
    result, _ = imported(path, tmp_path / "new", form, restart=True)
    assert len(list(store.read_records(tmp_path / "new"))) == result.images == len(made.ALL) - 1


def test_names_of_the_source(tmp_path: Path):
    path, form = as_labelme(runs.write(tmp_path / "run", [made.RECORDS["one"], made.RECORDS["holes"]]))
    data = json.loads((path / "one.json").read_text())
    (path / "one.json").write_text(json.dumps({**data, "image_name": None}))
    result, notes = imported(path, tmp_path / "new", form, files=["deep/one.jpg", "other.jpg"])
    assert result.images == 2
    assert store.read_done_files(tmp_path / "new") == {"deep/one.jpg", "holes.jpg"}
    assert notes.lines() == [f"{ground_truth.UNKNOWN}: 1 (holes.jpg)"]


@pytest.mark.parametrize(
    ("annotated", "message"),
    [
        pytest.param(AnnotatedImage(names=("a.jpg",), error="damaged"), "damaged", id="damaged"),
        pytest.param(AnnotatedImage(names=("a.jpg",)), "the size of the image is not stated", id="no size"),
    ],
)
def test_what_is_no_record(annotated: AnnotatedImage, message: str):
    run = store.Run(source="", phrases=())
    with pytest.raises(ResultError, match=message):
        ground_truth.record_of(annotated, "a.jpg", run)


def test_nothing_annotated_and_no_label():
    record = ground_truth.record_of(
        AnnotatedImage(names=("a.jpg",), image_size=(3, 4)), "a.jpg", store.Run(source="", phrases=())
    )
    assert len(record.instances) == 0 and record.instances.image_size == (3, 4)


def test_boxes_are_kept_as_boxes():
    (nothing,) = encode_rle(np.zeros((1, 3, 4), bool))
    annotation = Annotation(label="a dog", rle=nothing, box=(1.0, 0.5, 3.0, 2.0))
    annotated = AnnotatedImage(names=("a.jpg",), image_size=(3, 4), annotations=(annotation,))
    record = ground_truth.record_of(annotated, "a.jpg", store.Run(source="", phrases=("a dog",)))
    assert record.instances.boxes.tolist() == [[1.0, 0.5, 3.0, 2.0]] and not record.instances.masks.any()


def test_sizes_are_those_of_the_images_where_the_file_has_none(tmp_path: Path):
    path, form = FORMATS["coco"](runs.write(tmp_path / "run", [made.RECORDS["turned"]]))
    data = json.loads(path.read_text())
    del data["images"][0]["width"]
    path.write_text(json.dumps(data))
    result, _ = imported(path, tmp_path / "a", form, ["x/turned.jpg"])
    assert result.refused == {"turned.jpg": "the image must have a width and a height"}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "turned.jpg").write_bytes(made.images("turned.jpg"))
    assert ground_truth.read_image_size(open_source(tmp_path), "x/turned.jpg") == (40, 30)
    assert ground_truth.read_image_size(open_source(tmp_path), "none.jpg") is None
    reader, notes = open_annotations(path, form), Notes()
    run = ground_truth.run_of(reader, path, form, str(tmp_path))
    result = ground_truth.import_ground_truth(
        tmp_path / "b", reader, run, notes, ["x/turned.jpg"], read_size=lambda file: (40, 30)
    )
    assert (result.images, result.instances) == (1, 1)
