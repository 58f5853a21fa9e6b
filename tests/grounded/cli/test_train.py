"""`grounded train`: what is written, said and refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import segany
from grounded.cli.train import train
from grounded.training.log import read_log
from tests.data import ROOT
from tests.grounded.training.drawn import SMALL, draw, write


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/instances.json, its images and a small segmenter. Not to be changed."""
    folder = tmp_path_factory.mktemp("train")
    write(folder / "data", draw(folder / "data"))
    torch.manual_seed(0)
    segany.save(segany.SegAny(SMALL), folder / "small.safetensors")
    return folder


def run(command: str, place: Path, *arguments: object) -> Result:
    fixed = ["--data", place / "data/instances.json", "--precision", "float32"]
    return CliRunner().invoke(train, [command, *map(str, [*fixed, *arguments])])


def test_a_segmenter_from_the_command_line(tmp_path: Path, place: Path) -> None:
    options = ("--from", place / "small.safetensors", "--out", tmp_path / "out", "--steps", 2, "--batch", 1)
    result = run("segmenter", place, *options, "--rounds", 1, "--no-flip")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert "to learn from: 2 images, 4 objects, 2 classes (disk 2, square 2)" in lines
    assert any(line.startswith("IoU on held-out images") for line in lines)
    assert lines[-1] == f"-> {tmp_path / 'out/model'}, {tmp_path / 'out/preset.yaml'}"
    assert segany.load(tmp_path / "out/model").config == SMALL
    # Once more: it is finished already.
    before = read_log(tmp_path / "out")
    assert run("segmenter", place, *options, "--rounds", 1, "--no-flip").exit_code == 0
    assert read_log(tmp_path / "out") == before
    other = run("segmenter", place, *options, "--rounds", 2, "--no-flip")
    assert other.exit_code == 2 and "interactive.rounds 1 instead of 2; --restart begins anew" in other.stderr


def test_checking_alone_writes_nothing(tmp_path: Path, place: Path) -> None:
    shutil.copytree(place / "data", tmp_path / "data")
    (tmp_path / "data/1.png").unlink()
    result = run("detector", tmp_path, "--check", "--class", "disk", "--class", "square")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-3:] == [
        "Warning: images that are missing, left out: 1 (1.png)",
        "to learn from: 1 image, 2 objects, 2 classes (disk 1, square 1)",
        "to measure on: 1 image, 1 object, 1 class (disk 1)",
    ]
    assert not (tmp_path / "out").exists()


def test_data_of_its_own_to_measure_on(tmp_path: Path, place: Path) -> None:
    coco = draw(tmp_path)
    coco["annotations"][0]["iscrowd"] = 1
    result = run("segmenter", place, "--check", "--class", "disk", "--validation", write(tmp_path, coco))
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert "to learn from: 3 images, 3 objects, 1 class (disk 3)" in lines
    assert any(line.startswith("Warning: instances.json: crowd regions, left out: 1") for line in lines)
    assert lines[-1] == "to measure on: 2 images, 2 objects, 1 class (disk 2)"


REFUSED = {
    "no --out": ((), 2, "--out is missing"),
    "no such class": (("--check", "--class", "disc"), 2, "the data has no class 'disc'; there is 'disk'"),
    "no such device": (("--check", "--device", "nonsense"), 2, "nonsense"),
    "no folder of images": (("--check", "--images", "/nowhere"), 2, "no such folder of images: /nowhere"),
    "no checkpoint": (("--out", "OUT", "--from", "none.pth"), 1, "none.pth: no such checkpoint"),
}


@pytest.mark.parametrize(("arguments", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, place: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    result = run("segmenter", place, *(tmp_path / "out" if one == "OUT" else one for one in arguments))
    assert result.exit_code == status and message in result.stderr
    assert "Traceback" not in result.output


def test_data_that_leaves_nothing(tmp_path: Path) -> None:
    coco = draw(tmp_path / "data")
    write(tmp_path / "data", {**coco, "annotations": []})
    result = run("detector", tmp_path, "--check")
    assert result.exit_code == 1 and "has no object to learn from" in result.stderr


def test_another_folder_stays_as_it_is(tmp_path: Path, place: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    result = run("segmenter", place, "--out", tmp_path)
    assert result.exit_code == 2 and "must be new, empty, or of a training" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_text_prompt_from_the_command_line(tmp_path: Path, place: Path) -> None:
    options = ("--from", place / "small.safetensors", "--out", tmp_path / "out", "--steps", 1, "--batch", 1)
    result = run("text-prompt", place, *options, "--clip", "bundled:clip", "--crops", 1, "--no-flip")
    assert result.exit_code == 0, result.output
    adapter = tmp_path / "out/model/text_adapter.safetensors"
    assert segany.load(place / "small.safetensors", text_adapter=adapter).config.text_dim == 128


@pytest.mark.long
def test_killed_and_gone_on(tmp_path: Path, place: Path) -> None:
    """kill -9 in the middle, then the same command: the weights are those of a training that was never stopped."""

    def command(out: str) -> list[str]:
        options = ["--data", place / "data/instances.json", "--from", place / "small.safetensors", "--out"]
        numbers = ["--steps", 16, "--validate-every", 4, "--precision", "float32", "--rounds", 2]
        return [sys.executable, "-m", "grounded", "train", "segmenter", *map(str, [*options, tmp_path / out, *numbers])]

    subprocess.run(command("whole"), check=True, cwd=ROOT, capture_output=True)
    process = subprocess.Popen(command("parts"), cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "parts/state.pt").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    subprocess.run(command("parts"), check=True, cwd=ROOT, capture_output=True)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    for name, value in states[0]["trained"].items():
        assert torch.equal(value, states[1]["trained"][name]), name
    assert states[0]["progress"] == states[1]["progress"]


@pytest.mark.slow
def test_two_processes(tmp_path: Path, place: Path) -> None:
    pytest.importorskip("accelerate")
    options = ["--from", place / "small.safetensors", "--out", tmp_path / "out", "--steps", 2, "--rounds", 2]
    common = ["--data", place / "data/instances.json", "--device", "cpu", "--precision", "float32"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29713", "-m"]
    result = subprocess.run(
        [*launch, "grounded", "train", "segmenter", *map(str, [*common, *options])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("to learn from") == 1  # the first process alone speaks
    assert json.loads((tmp_path / "out/training.json").read_text())["loop"]["steps"] == 2
    assert segany.load(tmp_path / "out/model").config == SMALL
