"""`grounded edges`, `grounded evaluate edges` and `grounded evaluate points` on small images."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grounded.cli.edges import edges
from grounded.cli.evaluate import evaluate
from tests.data import disk
from tests.grounded.evaluation.made import coco

SIZE = (60, 80)
DISK = disk(*SIZE, 40, 30, 16)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [*map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of a disk, its outline as ground truth in PNG, and its mask in COCO format."""
    for name in ("images", "truth"):
        (tmp_path / name).mkdir()
    pixels = np.full((*SIZE, 3), 230, np.uint8)
    pixels[DISK] = (200, 30, 30)
    outline = DISK & ~np.roll(DISK, 1, 0) | DISK & ~np.roll(DISK, -1, 0)
    outline |= DISK & ~np.roll(DISK, 1, 1) | DISK & ~np.roll(DISK, -1, 1)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(outline).save(tmp_path / "truth" / f"{name}.png")
    data = coco({f"{name}.png": [("ball", DISK)] for name in ("a", "b")}, ("ball",), SIZE)
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


@pytest.mark.parametrize("method", ["automatic", "sobel"])
def test_edges_of_one_image(folder: Path, method: str):
    out, overlay = folder / "out" / "edges.png", folder / "overlay.png"
    arguments = [folder / "images" / "a.png", "--out", out, "--overlay", overlay, "--method", method]
    result = CliRunner().invoke(edges, [*map(str, arguments), "--points-per-side", "2"])
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        assert image.size == SIZE[::-1] and np.asarray(image).max() == 65535
    assert Image.open(overlay).size == SIZE[::-1]


def test_an_image_that_cannot_be_read(folder: Path):
    (folder / "bad.png").write_bytes(b"no image")
    result = CliRunner().invoke(edges, [str(folder / "bad.png"), "--out", str(folder / "e.png")])
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and not (folder / "e.png").exists()


def test_edges_are_measured_and_kept(folder: Path):
    (folder / "images" / "c.png").write_bytes((folder / "images" / "a.png").read_bytes())
    out, kept = folder / "out", folder / "kept"
    common = ("--truth", folder / "truth", "--tolerance", 0.03, "--workers", 1, "--out", out)
    first = run("edges", folder / "images", *common, "--method", "sobel", "--write-edges", kept)
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[1].split()[0] == "sobel"
    assert "images without ground truth, left out: 1 (c)" in first.stderr
    data = json.loads((out / "edges.json").read_text())
    assert data["ods"] > 0.95 and [one["name"] for one in data["images"]] == ["a", "b"]
    assert (out / "edges.png").exists()
    again = run("edges", "--edges", kept, *common)
    assert json.loads((out / "edges.json").read_text())["ods"] == pytest.approx(data["ods"], abs=1e-3), again.output


@pytest.mark.slow
def test_several_processes_measure_the_same(folder: Path):
    found = []
    for workers in (1, 2):
        arguments = ("--truth", folder / "truth", "--method", "canny", "--workers", workers, "--out", folder / "out")
        assert run("edges", folder / "images", *arguments).exit_code == 0
        found.append(json.loads((folder / "out" / "edges.json").read_text()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param([], 2, "give either IMAGES", id="neither"),
        pytest.param(["images", "--edges", "images"], 2, "give either IMAGES", id="both"),
        pytest.param(["truth", "--method", "sobel", "--limit", 1], 0, "left out by --limit: 1", id="a part"),
        pytest.param(["--edges", "images"], 1, "must be grey with 8 or 16 bits", id="colours"),
    ],
)
def test_arguments_of_edges(folder: Path, arguments: list, code: int, message: str):
    paths = [folder / str(one) if str(one) in ("images", "truth") else one for one in arguments]
    result = run("edges", *paths, "--truth", folder / "truth", "--workers", 1, "--thresholds", 5)
    assert result.exit_code == code and message in result.output, result.output


def test_points_with_groups_go_on_where_they_were(folder: Path):
    ids = [one["id"] for one in json.loads((folder / "instances.json").read_text())["annotations"]]
    rows = [f"{id},round" for id in ids]
    (folder / "groups.csv").write_text("\n".join(["annotation_id,group", *rows, "77,nobody"]))
    out = folder / "out"
    arguments = ["points", folder / "instances.json", "--images", folder / "images", "--out", out, "--clicks", 3]
    arguments += ["--groups", folder / "groups.csv"]
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert "annotations of --groups that were not measured: 1 (77)" in first.stderr
    data = json.loads((out / "points.json").read_text())
    assert data["masks"] == 2 and data["groups"]["round"]["3"]["masks"] == 2
    assert [len(means) for means in data["mean_iou"].values()] == [3] * 4
    log = out / "points.jsonl"
    lines = log.read_text().splitlines()
    assert len(lines) == 3
    log.write_text("\n".join([*lines[:2], lines[2][:40]]))  # as after an interrupt
    assert run(*arguments).stdout == first.stdout
    assert log.read_text().splitlines() == lines
    other = run(*arguments, "--seed", 5)
    assert other.exit_code == 2 and "other settings" in other.output
    assert run(*arguments, "--seed", 5, "--restart").exit_code == 0


def test_points_without_a_mask(folder: Path):
    (folder / "images" / "a.png").unlink()
    result = run(
        "points", folder / "instances.json", "--images", folder / "images", "--limit", 1, "--out", folder / "o"
    )
    assert result.exit_code == 1 and "nothing to measure" in result.stderr
