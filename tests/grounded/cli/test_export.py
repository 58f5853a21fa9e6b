import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grounded.cli.export import export
from grounded.labelling.formats import EXPORT_FORMATS, NOTE
from grounded.labelling.review import log
from grounded.labelling.review.log import Review
from grounded.labelling.store import Run, open_run
from segany.utils.rle import encode_rle
from tests.data import ROOT
from tests.grounded.labelling.formats import made

CASES = ("one", "nothing found", "several parts", "holes", "whole image", "overlapping", "turned")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run over images that exist."""
    folder = tmp_path / "run"
    for name in CASES:
        path = tmp_path / "images" / made.RECORDS[name].image.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.images(made.RECORDS[name].image.file))
    with open_run(folder, Run(source=str(tmp_path / "images"), phrases=made.CLASSES)) as writer:
        for name in CASES:
            writer.append(made.RECORDS[name])
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(export, [*map(str, arguments)])


def coco(path: Path) -> dict:
    return json.loads((path / "instances.json").read_text(encoding="utf-8"))


def names(data: dict) -> list[str]:
    """The labels of the annotations, in their order."""
    known = {category["id"]: category["name"] for category in data["categories"]}
    return [known[annotation["category_id"]] for annotation in data["annotations"]]


def test_what_it_prints_and_where_it_writes(run_folder: Path):
    result = run(run_folder, "--format", "yolo-seg")
    assert result.exit_code == 0, result.output
    out = run_folder / "exports" / "yolo-seg"
    first, *others = result.stdout.splitlines()
    assert first == f"{run_folder} -> {out} (7 images, 9 instances)"
    assert "  lost: holes joined to the outline by bridges of no width: 2" in others
    assert (out / "labels" / "sub" / "nothing.txt").read_bytes() == b""


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_format(run_folder: Path, tmp_path: Path, name: str):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    result = run(run_folder, "--format", name, "--out", tmp_path / "out", "--with-images")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / NOTE).is_file()
    turned = next((tmp_path / "out").rglob("turned.jpg"))
    with Image.open(turned) as opened:
        assert opened.size == (30, 40) and not opened.getexif().get(0x0112)
        assert np.asarray(opened)[2, 2].tolist()[0] > 200  # the red corner


def test_scores(run_folder: Path, tmp_path: Path):
    assert run(run_folder, "--format", "coco", "--out", tmp_path / "out", "--min-score", 0.85).exit_code == 0
    data = coco(tmp_path / "out")
    assert len(data["images"]) == len(CASES)  # images stay
    # 0.8 and 0.7 are left out, and two instances of unknown score stay
    assert sorted(annotation.get("score", -1) for annotation in data["annotations"]) == [
        -1,
        -1,
        0.9,
        0.9,
        0.9,
        0.9,
        0.9,
    ]


@pytest.fixture
def reviewed(run_folder: Path) -> Path:
    """Of nine instances one is accepted, one rejected, two are called by new names, and one is added."""
    added = encode_rle(made.pixel()[None])[0]
    log.append_reviews(
        run_folder,
        Review(file="one.jpg", action="accept", instance=0),
        Review(file="holes.jpg", action="reject", instance=0),
        Review(file="sub/parts.jpg", action="relabel", instance=0, phrase="a zebra"),
        Review(file="overlapping.jpg", action="relabel", instance=2, phrase="an ant"),
        Review(file="sub/nothing.png", action="add", id="x", phrase="a dog", mask=added),
    )
    return run_folder


def test_reviews(reviewed: Path, tmp_path: Path):
    assert run(reviewed, "--format", "coco", "--out", tmp_path / "out").exit_code == 0
    data = coco(tmp_path / "out")
    assert [category["name"] for category in data["categories"]] == [*made.CLASSES, "a zebra", "an ant"]
    assert names(data).count("a zebra") == names(data).count("an ant") == 1
    assert len(data["annotations"]) == 9 and len(data["images"]) == len(CASES)


def test_as_found(reviewed: Path, tmp_path: Path):
    assert run(reviewed, "--format", "coco", "--out", tmp_path / "out", "--as-found").exit_code == 0
    data = coco(tmp_path / "out")
    assert [category["name"] for category in data["categories"]] == list(made.CLASSES)
    assert set(names(data)) == set(made.CLASSES[:2]) and len(names(data)) == 9


def test_accepted_only(reviewed: Path, tmp_path: Path):
    assert run(reviewed, "--format", "csv", "--out", tmp_path / "out", "--accepted-only").exit_code == 0
    with (tmp_path / "out" / "instances.csv").open(encoding="utf-8", newline="") as file:
        found = sorted((row["file"], row["class"]) for row in csv.DictReader(file))
    assert found == [
        ("one.jpg", "a dog"),
        ("overlapping.jpg", "an ant"),
        ("sub/nothing.png", "a dog"),
        ("sub/parts.jpg", "a zebra"),
    ]


def test_images_that_have_been_moved(run_folder: Path, tmp_path: Path):
    (tmp_path / "images").rename(tmp_path / "moved")
    out = ("--format", "coco", "--out", tmp_path / "out")
    assert run(run_folder, *out).exit_code == 0  # they are not needed
    failed = run(run_folder, *out, "--replace", "--with-images")
    assert failed.exit_code == 2 and "--images where the images are now" in " ".join(failed.stderr.split())
    result = run(run_folder, *out, "--replace", "--with-images", "--images", tmp_path / "moved")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "images" / "sub" / "nothing.png").is_file()


def test_an_image_that_is_gone(run_folder: Path, tmp_path: Path):
    (tmp_path / "images" / "holes.jpg").unlink()
    result = run(run_folder, "--format", "coco", "--out", tmp_path / "out", "--with-images")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: cannot copy holes.jpg: no such image\n"
    assert not (tmp_path / "out").exists()


def test_a_second_export_needs_a_word(run_folder: Path):
    assert run(run_folder, "--format", "csv").exit_code == 0
    again = run(run_folder, "--format", "csv")
    assert again.exit_code == 1 and "must be new or empty" in again.stderr
    assert run(run_folder, "--format", "csv", "--replace").exit_code == 0


def test_labels_that_nobody_asked_for(run_folder: Path, tmp_path: Path):
    stray = made.record("stray.jpg", [made.pixel()], ["a stray"])
    with open_run(run_folder, Run.read(run_folder)) as writer:
        writer.append(stray)
    result = run(run_folder, "--format", "coco", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "Error: stray.jpg: 'a stray' is not among the 3 classes\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["{run}"], "Missing option '--format'", id="no format"),
        pytest.param(["{run}", "--format", "bmp"], "'bmp' is not one of 'coco'", id="no such format"),
        pytest.param(["{run}/none", "--format", "coco"], "does not exist", id="no such folder"),
        pytest.param(
            ["{run}", "--format", "coco", "--as-found", "--accepted-only"], "--as-found leaves out", id="both"
        ),
        pytest.param(["{run}", "--format", "coco", "--images", "x"], "--images needs --with-images", id="no copies"),
        pytest.param(["{run}", "--format", "coco", "--min-score", "2"], "0<=x<=1", id="score"),
    ],
)
def test_wrong_arguments(run_folder: Path, arguments: list[str], message: str):
    result = run(*(argument.replace("{run}", str(run_folder)) for argument in arguments))
    assert result.exit_code == 2 and message in result.stderr
    assert not (run_folder / "exports").exists()


def test_a_folder_that_holds_no_run(tmp_path: Path):
    result = run(tmp_path, "--format", "coco")
    assert (result.exit_code, result.stderr) == (1, f"Error: {tmp_path} holds no run: there is no run.json\n")


def test_help_needs_no_model():
    code = "import sys, grounded.cli.export; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert "--accepted-only" in run("--help").stdout
