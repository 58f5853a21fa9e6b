import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grounded.cli.import_ import import_
from grounded.labelling import store
from grounded.labelling.review import log
from tests.grounded.labelling.formats import made, runs
from tests.grounded.labelling.formats.test_corrections import as_coco, as_labelme


def run(*arguments: object) -> Result:
    return CliRunner().invoke(import_, [*map(str, arguments)])


def test_corrections(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, _ = as_labelme(folder)
    data = json.loads((path / "one.json").read_text())
    (path / "one.json").write_text(json.dumps({**data, "shapes": []}))
    (path / "holes.json").unlink()
    result = run(path, "--into", folder)
    assert result.exit_code == 0, result.output
    expected = sum(len(made.shown(record)) for record in made.ALL) - 2
    assert result.stdout == f"{path} -> {folder}: {len(made.ALL) - 1} images, {expected} accepted, 1 rejected\n"
    assert result.stderr == "  note: images of the run that are not annotated, left as they are: 1\n"
    assert {review.source for review in log.read_reviews(folder)} == {"labelme"}
    again = run(path, "--into", folder, "--format", "labelme")
    assert again.stdout == f"{path} -> {folder}: {len(made.ALL) - 1} images, nothing new\n"


def test_a_run_of_its_own(tmp_path: Path):
    path, _ = as_coco(runs.write(tmp_path / "run"))
    out = tmp_path / "new"
    result = run(path, "--out", out)
    assert result.exit_code == 0, result.output
    instances = sum(len(made.shown(record)) for record in made.ALL)
    assert result.stdout == f"{path} -> {out}: {len(made.ALL)} images, {instances} instances\n"
    assert store.Run.read(out).source == str(path)
    assert store.read_done_files(out) == {record.image.file for record in made.ALL}


def test_ids_of_a_coco_file_stay(tmp_path: Path):
    path, _ = as_coco(runs.write(tmp_path / "run", [made.RECORDS["one"], made.RECORDS["holes"]]))
    data = json.loads(path.read_text())
    for entry in data["annotations"]:
        entry |= {"image_id": entry["image_id"] + 1000, "category_id": entry["category_id"] + 50}
    for entry in data["images"]:
        entry["id"] += 1000
    for entry in data["categories"]:
        entry["id"] += 50
    path.write_text(json.dumps(data))
    assert run(path, "--out", tmp_path / "new").exit_code == 0
    again, _ = as_coco(tmp_path / "new")
    found = json.loads(again.read_text())
    assert [image["id"] for image in found["images"]] == [1001, 1002]
    assert {entry["image_id"] for entry in found["annotations"]} == {1001, 1002}
    assert {entry["category_id"] for entry in found["annotations"]} == {51}


def test_images_elsewhere(tmp_path: Path):
    path, _ = as_coco(runs.write(tmp_path / "run", [made.RECORDS["one"], made.RECORDS["holes"]]))
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "one.jpg").write_bytes(made.images("one.jpg"))
    result = run(path, "--out", tmp_path / "new", "--images", tmp_path / "images")
    assert result.exit_code == 0, result.output
    assert "images that the source does not have, kept under the name that the file has: 1 (holes.jpg)" in result.stderr
    assert store.read_done_files(tmp_path / "new") == {"deep/one.jpg", "holes.jpg"}
    assert store.Run.read(tmp_path / "new").source == str(tmp_path / "images")


def test_images_that_are_refused(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, _ = as_labelme(folder)
    for name in ("one", "holes"):
        data = json.loads((path / f"{name}.json").read_text())
        (path / f"{name}.json").write_text(json.dumps({**data, "imageWidth": 41}))
    (path / "turned.json").write_text("{")
    result = run(path, "--into", folder)
    assert result.exit_code == 1
    assert f"Error: turned.json: {path}/turned.json is not JSON: " in result.stderr
    assert "Error: one.jpg: the image must be of 40 x 30 pixels, got 41 x 30\n" in result.stderr
    assert "Error: holes.jpg: " in result.stderr
    assert {review.file for review in log.read_reviews(folder)}.isdisjoint({"one.jpg", "holes.jpg", "turned.jpg"})


def test_no_image_of_the_run(tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["one"]])
    path, _ = as_labelme(runs.write(tmp_path / "other", [made.RECORDS["holes"]]))
    result = run(path, "--into", folder)
    assert result.exit_code == 1
    assert "images that the run does not have, left out: 1 (holes.jpg)" in result.stderr
    assert result.stderr.endswith("Error: no image was imported\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param([], 2, "Missing argument 'PATH'", id="no path"),
        pytest.param(["{tmp}/none.json", "--out", "{tmp}/new"], 2, "does not exist", id="no file"),
        pytest.param(["{tmp}/a.json"], 2, "give either --into", id="nowhere"),
        pytest.param(["{tmp}/a.json", "--into", "{tmp}", "--out", "{tmp}/b"], 2, "give either --into", id="both"),
        pytest.param(["{tmp}/a.json", "--into", "{tmp}", "--restart"], 2, "go with --out", id="restart"),
        pytest.param(["{tmp}/a.json", "--out", "{tmp}/b", "--keep-missing"], 2, "goes with --into", id="keep"),
        pytest.param(["{tmp}/a.json", "--out", "{tmp}/b"], 2, "cannot be told: name one of", id="unknown"),
        pytest.param(["{tmp}/a.json", "--out", "{tmp}/b", "--format", "coco"], 1, "must hold", id="not COCO"),
        pytest.param(["{tmp}/list.json", "--into", "{tmp}"], 1, "holds no run", id="no run"),
        pytest.param(
            ["{tmp}/a.json", "--out", "{tmp}/b", "--format", "x"], 2, "'x' is not one of 'coco',", id="format"
        ),
        pytest.param(["{tmp}/a.json", "--out", "{tmp}/b", "--format", "voc"], 1, "is not XML", id="not VOC"),
        pytest.param(["{tmp}/empty", "--out", "{tmp}/b"], 2, "coco, coco-results, labelme,", id="an empty folder"),
        pytest.param(["{tmp}/list.json", "--out", "{tmp}/b", "--coco", "{tmp}/a.json"], 2, "with COCO", id="coco"),
        pytest.param(["{tmp}/min.json", "--out", "{tmp}/b"], 1, "JSON-MIN export, which", id="JSON-MIN"),
    ],
)
def test_errors(arguments: list[str], status: int, message: str, tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "min.json").write_text('[{"image": "a.jpg", "annotator": 1}]')
    (tmp_path / "empty").mkdir()
    result = run(*[argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert not (tmp_path / "b").exists()


def test_nothing_is_rejected_where_a_shape_cannot_be_read(tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["one"], made.RECORDS["holes"]])
    path, _ = as_labelme(folder)
    for name in ("one", "holes"):
        data = json.loads((path / f"{name}.json").read_text())
        del data["shapes"][0]
        data["shapes"] += [{"label": "a dog", "points": [[1, 2], [3, 4]]}] * (name == "one")
        (path / f"{name}.json").write_text(json.dumps(data))
    result = run(path, "--into", folder)
    assert result.exit_code == 0, result.output
    assert "annotations that cannot be read, left out: 1 (one.jpg shape 1 'a dog': a polygon must have" in result.stderr
    assert [(review.file, review.action) for review in log.read_reviews(folder)] == [("holes.jpg", "reject")]


def test_results_with_the_file_that_they_are_about(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    coco, results = runs.exported(folder, "coco"), runs.exported(folder, "coco-results")
    path = results / "results.json"
    result = run(path, "--out", tmp_path / "new")
    assert result.exit_code == 1 and "with --coco" in result.stderr
    result = run(path, "--out", tmp_path / "new", "--coco", coco / "instances.json")
    assert result.exit_code == 0, result.output
    assert f"{len(made.ALL)} images" in result.stdout


def test_a_busy_folder(tmp_path: Path):
    path, _ = as_coco(runs.write(tmp_path / "run"))
    with store.open_run(tmp_path / "new", store.Run(source="x", phrases=("y",))):
        result = run(path, "--out", tmp_path / "new")
    assert result.exit_code == 1 and result.stderr.startswith("Error: another run is writing into")


def test_nothing_but_strays(tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["one"]])
    path, _ = as_coco(folder)
    data = json.loads(path.read_text())
    for entry in data["annotations"]:
        entry["image_id"] = 99
    path.write_text(json.dumps(data))
    for arguments in (("--into", folder), ("--out", tmp_path / "new")):
        result = run(path, *arguments)
        assert result.exit_code == 1
        assert result.stderr == f"Error: {path}: none of its 1 annotations is of an image that is listed\n"
    assert log.read_reviews(folder) == []
