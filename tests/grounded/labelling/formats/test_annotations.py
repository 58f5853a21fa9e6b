import json
from pathlib import Path

import pytest

from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.annotations import AnnotationReader, Notes, guess_format, open_annotations, read_json
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
        with pytest.raises(ConfigError, match=f"the format of {path} cannot be told: name one of coco, labelme"):
            guess_format(path)


def test_errors(tmp_path: Path):
    with pytest.raises(ResultError, match=r"cannot read .*none\.json: No such file"):
        guess_format(tmp_path / "none.json")
    with pytest.raises(ResultError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="format must be one of coco, labelme, label-studio, got 'yolo'"):
        open_annotations(tmp_path, "yolo")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ResultError, match="is not JSON"):
        read_json(tmp_path / "deep.json")


def test_notes():
    notes = Notes()
    assert notes.lines() == []
    for i in range(5):
        notes.add("images left out", f"{i % 4}.jpg")
    notes.add("crowds", count=0)
    notes.add("points", count=7)
    assert notes.lines() == ["images left out: 5 (0.jpg, 1.jpg, 2.jpg, …)", "points: 7"]
