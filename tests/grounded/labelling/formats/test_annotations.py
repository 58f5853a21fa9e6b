import json
from pathlib import Path

import pytest

from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotationReader,
    LeftOut,
    Notes,
    guess_format,
    open_annotations,
    read_json,
    read_label,
)
from tests.grounded.labelling.formats import runs
from tests.grounded.labelling.formats.test_corrections import FORMATS

COCO = {"info": {}, "images": [], "annotations": [], "categories": []}
LABELME = {"version": "5", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None}


@pytest.mark.parametrize("export", FORMATS.values(), ids=FORMATS)
def test_exports_are_recognised(export, tmp_path: Path):
    path, name = export(runs.write(tmp_path / "run"))
    assert guess_format(path) == name
    reader = open_annotations(path)
    assert isinstance(reader, AnnotationReader)
    assert set(reader.labels()) >= {"a dog", "ein Stück Käse 猫"}
    if name == "labelme":
        assert guess_format(path / "one.json") == "labelme"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(json.dumps(COCO), "coco", id="coco"),
        pytest.param("\ufeff \n" + json.dumps(COCO, indent=2), "coco", id="coco with a byte order mark"),
        pytest.param(json.dumps(LABELME), "labelme", id="labelme"),
        pytest.param("[]", "label-studio", id="label studio"),
        pytest.param('[{"id": 1, "annotations": [{"result": [{"image_id": 1}]}]}]', "label-studio", id="tasks"),
        pytest.param('\n[ {"category_id": 3, "image_id": 1}]', "coco-results", id="coco results"),
        pytest.param('{"images": [], "annotations": [{"segments_info": []}]}', "panoptic", id="panoptic"),
        pytest.param('<?xml version="1.0"?>\n<!-- <a> -->\n<annotations><version>', "cvat", id="cvat"),
        pytest.param("<annotation>\n<folder>", "voc", id="voc"),
        pytest.param("PAR1", "parquet", id="parquet"),
        pytest.param("<html>", None, id="html"),
        pytest.param('{"a": 1}', None, id="another"),
        pytest.param("", None, id="empty"),
    ],
)
def test_guess_format(text: str, expected: str | None, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    if expected:
        assert guess_format(path) == expected
    else:
        with pytest.raises(ConfigError, match=rf"the format of {path} cannot be told: name one of coco, .*, parquet$"):
            guess_format(path)


def test_errors(tmp_path: Path):
    with pytest.raises(ResultError, match=r"cannot read .*none\.json: No such file"):
        guess_format(tmp_path / "none.json")
    with pytest.raises(ResultError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"format must be one of coco, .*, parquet, got 'yolo-9'"):
        open_annotations(tmp_path, "yolo-9")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ResultError, match="is not JSON"):
        read_json(tmp_path / "deep.json")


@pytest.mark.parametrize("separator", [",", "\t"], ids=["csv", "tsv"])
def test_tables_of_label_studio_are_refused_by_name(separator: str, tmp_path: Path):
    path = tmp_path / f"a.{'csv' if separator == ',' else 'tsv'}"
    path.write_text(separator.join(["image", "id", '"label"', "annotator", "annotation_id", "lead_time"]) + "\n")
    with pytest.raises(ResultError, match=r"is Label Studio's [CT]SV export, .*: export as JSON instead"):
        guess_format(path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"a.jpg": ""}, None, id="images alone"),
        pytest.param({"data.yaml": "names: [a]", "labels/a.txt": ""}, "yolo", id="yolo"),
        pytest.param({"Annotations/a.xml": "<annotation/>", "labels.txt": "a"}, "voc", id="voc"),
        pytest.param({"a.xml": "<annotation/>"}, "voc", id="voc, flat"),
        pytest.param({"a/b.json": json.dumps(LABELME)}, "labelme", id="labelme"),
        pytest.param({"annotations.xml": "<annotations/>"}, "cvat", id="cvat"),
        pytest.param({"instances.json": json.dumps(COCO)}, "coco", id="coco"),
        pytest.param({"instances.csv": "file,class", "images.csv": "file"}, "csv", id="csv"),
        pytest.param({"instances.csv": "image_name,mask,class", "mask/a/000.png": ""}, "png", id="png"),
    ],
)
def test_folders(files: dict[str, str], expected: str | None, tmp_path: Path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    if expected:
        assert guess_format(tmp_path) == expected
    else:
        with pytest.raises(ConfigError, match="cannot be told"):
            guess_format(tmp_path)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        pytest.param("a dog", "a dog", id="text"),
        pytest.param(3, "3", id="number"),
        pytest.param(None, "it has no label", id="none"),
        pytest.param(" ", "it has no label", id="blank"),
        pytest.param("...", "a label must be a phrase", id="no word"),
        pytest.param(True, "a label must be text", id="bool"),
        pytest.param(["a"], "a label must be text", id="list"),
    ],
)
def test_labels(label: object, expected: str):
    if expected in ("a dog", "3"):
        assert read_label(label) == expected
    else:
        with pytest.raises(ResultError, match=expected):
            read_label(label)


def test_left_out():
    notes = Notes()
    left_out = LeftOut(notes, "a.jpg")
    left_out.add(DAMAGED, "annotation 7", "it has no label")
    left_out.add("points, left out")
    assert left_out.count == 2
    assert notes.lines() == [f"{DAMAGED}: 1 (a.jpg annotation 7: it has no label)", "points, left out: 1 (a.jpg)"]


def test_notes():
    notes = Notes()
    assert notes.lines() == []
    for i in range(5):
        notes.add("images left out", f"{i % 4}.jpg")
    notes.add("crowds", count=0)
    notes.add("points", count=7)
    assert notes.lines() == ["images left out: 5 (0.jpg, 1.jpg, 2.jpg, …)", "points: 7"]
