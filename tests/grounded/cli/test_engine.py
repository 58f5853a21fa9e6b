"""`grounded engine`: its messages and exit statuses, and the whole loop with the simulated annotator."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import segany
from grounded.cli.main import main
from grounded.engine.rounds import Engine
from grounded.engine.simulate import read_truths
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.store import read_records
from recipes.tiny.coco import write_scenes
from tests.grounded.engine.conftest import accept_truths
from tests.grounded.training.drawn import SMALL, draw, write

LOOSE = ["--points-per-side", "2", "--crop-layers", "0", "--iou", "0", "--stability", "0", "--confident-iou", "0"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["engine", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four drawn images, and their annotations."""
    return write(tmp_path / "drawn", draw(tmp_path / "drawn", images=4))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A segmenter of random weights."""
    torch.manual_seed(1)
    segany.save(segany.SegAny(SMALL), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_rounds_one_after_the_other(data: Path, base: Path, tmp_path: Path):
    out = tmp_path / "engine"
    options = ["--out", out, "--from", base, "--plan", "assisted:2,auto", "--steps", "2", *LOOSE]
    result = run("start", data.parent, *options)
    assert result.exit_code == 0, result.output
    assert f"round 1 of 2, assisted, is ready: grounded engine annotate {out}" in result.output
    assert run("start", data.parent, *options).exit_code == 0  # it is there, and goes on
    result = run("next", out)
    assert result.exit_code == 1 and "nothing is accepted in round 1" in result.output
    accept_truths(Engine.read(out), read_truths(str(data), Notes()))
    result = run("next", out)
    assert result.exit_code == 0, result.output
    assert "round 2 of 2, auto, is ready" in result.output
    assert len(list(read_records(out / "rounds" / "02-auto"))) == 2
    assert run("next", out).exit_code == 0
    result = run("next", out)
    assert result.exit_code == 1 and "all 2 rounds are done" in result.output
    result = run("status", out, "--truth", data)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n|") == 3 and "assisted" in result.stdout
    figures = json.loads((out / "report.json").read_text())["rounds"]
    assert [one["number"] for one in figures] == [1, 2] and figures[0]["seconds_per_mask"] == 10


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        pytest.param(["--plan", "manual:3"], 2, "a round must be one of", id="no such stage"),
        pytest.param(["--from", "none.pth"], 1, "none.pth", id="no such checkpoint"),
        pytest.param(["--from", "sam2"], 2, "kind 'sam2'", id="no Segment Anything"),
    ],
)
def test_what_cannot_be_started(change: list[str], status: int, message: str, data: Path, tmp_path: Path):
    result = run("start", data.parent, "--out", tmp_path / "engine", "--plan", "semi:2", *LOOSE, *change)
    assert result.exit_code == status and message in result.output


def test_folders_without_an_engine(tmp_path: Path):
    for command in ("next", "status", "annotate"):
        result = run(command, tmp_path)
        assert result.exit_code == 1 and "holds no data engine" in result.output


def test_a_round_that_is_not_prepared_is_not_annotated(data: Path, base: Path, tmp_path: Path):
    out = tmp_path / "engine"
    run("start", data.parent, "--out", out, "--from", base, "--plan", "assisted:2,auto")
    Engine.read(out).in_phase("train")
    result = run("annotate", out)
    assert result.exit_code == 1 and "round 1 is to be trained on: grounded engine next" in result.output


def test_data_without_all_images_is_not_simulated(data: Path, tmp_path: Path):
    coco = json.loads(data.read_text())
    (tmp_path / "drawn" / "less.json").write_text(json.dumps({**coco, "images": []}))
    result = run("simulate", "--data", tmp_path / "drawn" / "less.json", "--out", tmp_path / "engine")
    assert result.exit_code in (1, 2) and "image" in result.output


@pytest.mark.long
def test_the_whole_loop_with_the_simulated_annotator(tmp_path: Path):
    data = write_scenes(tmp_path / "scenes", "test", 6)
    out = tmp_path / "engine"
    options = ["--plan", "assisted:3,semi:2,auto", "--steps", "4", "--batch", "1", "--points-per-side", "8"]
    options += ["--crop-layers", "0", "--iou", "0.6", "--stability", "0.8", "--confident-iou", "0.7", "--sample", "1"]
    result = run("simulate", "--data", data, "--out", out, *options)
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "report.json").read_text())["rounds"]
    assert [one["stage"] for one in figures] == ["assisted", "semi", "auto"]
    for one in figures[:2]:
        assert one["masks_per_image"] > 1 and one["seconds_per_mask"] >= 1
        assert one["accepted_truth_iou"] > 0.85 and 0 <= one["before"] <= one["after"]
    assert figures[0]["clicks_per_mask"] >= 1 > figures[1]["clicks_per_mask"]  # most masks were shown already
    assert figures[2]["truth_iou"] > 0.1
    assert (out / "report.png").stat().st_size > 1000
    files = list((out / "rounds" / "03-auto" / "sa1b").iterdir())
    assert len(files) == 1
    again = run("simulate", "--data", data, "--out", out, *options)
    assert again.exit_code == 0 and again.stdout == result.stdout
