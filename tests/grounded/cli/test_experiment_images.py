"""`grounded evaluate proposals`, `boxes` and `text`, and `grounded similar`, on small drawn images."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounded.cli.evaluate import evaluate
from grounded.cli.experiment_images import class_phrase
from grounded.cli.similar import similar
from tests.data import disk
from tests.grounded.evaluation.made import coco

SIZE = (60, 80)
BALL, PLATE = disk(*SIZE, 22, 30, 14), disk(*SIZE, 60, 30, 12)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [*map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of a red and a blue disk, their masks in COCO format, and the same as LVIS writes it."""
    (tmp_path / "val2017").mkdir()
    pixels = np.full((*SIZE, 3), 230, np.uint8)
    pixels[BALL], pixels[PLATE] = (200, 30, 30), (30, 60, 200)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / "val2017" / f"{name}.png")
    objects = [("soccer ball", BALL), ("cookie", PLATE)]
    data = coco({f"{name}.png": objects for name in ("a", "b")}, ("soccer ball", "cookie"), SIZE)
    for number, annotation in enumerate(data["annotations"]):
        annotation["id"] = number + 1
    write(tmp_path / "instances.json", data)
    for category, frequency in zip(data["categories"], "rf", strict=True):
        category["frequency"] = frequency
    for image in data["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    write(tmp_path / "lvis.json", data)
    return tmp_path


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def common(folder: Path, name: str = "instances.json") -> list:
    """Arguments that name a file, its images and a folder of results."""
    return [folder / name, "--images", folder / "val2017", "--out", folder / "out"]


@pytest.mark.parametrize(("name", "groups"), [("instances.json", 4), ("lvis.json", 7)])
def test_proposals_go_on_where_they_were(folder: Path, name: str, groups: int):
    arguments = ["proposals", *common(folder, name), "--points-per-side", 2, "--limit", 1]
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    data = read(folder / "out" / "proposals.json")
    assert len(data["average_recall"]) == groups and data["images"] == 1
    assert data["average_recall"]["all"]["objects"] == 2 and data["average_recall"]["all"]["AR@1000"] > 0.3
    if name == "lvis.json":
        assert data["average_recall"]["rare"]["objects"] == 1 and "published for LVIS" in first.stdout
    log = folder / "out" / "proposals.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, '{"image": "b.p']))  # as after an interrupt
    assert run(*arguments).stdout == first.stdout and log.read_text().splitlines() == lines
    other = run(*arguments[:-3], 3, "--limit", 1)
    assert other.exit_code == 2 and "other settings" in other.output
    header = json.loads(lines[0])
    assert set(header["weights"]) == {"segmenter"}
    header["weights"]["segmenter"] = "0" * 16  # as if the file had been replaced since
    log.write_text("\n".join([json.dumps(header), *lines[1:]]))
    assert run(*arguments).exit_code == 2


def test_masks_of_true_boxes_can_be_evaluated_elsewhere(folder: Path):
    result = run("boxes", *common(folder))
    assert result.exit_code == 0, result.output
    data, results = read(folder / "out" / "boxes.json"), read(folder / "out" / "results.json")
    assert data["masks"] == len(results) == 4 and data["mean_iou"]["mean"] > 0.8 and data["protocol"] == "COCO"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "instances.json"))
        evaluator = COCOeval(truth, truth.loadRes(results), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert data["average_precision"]["mean"] == pytest.approx(evaluator.stats[0])
    assert data["average_precision"]["small"] == pytest.approx(evaluator.stats[3])


def test_boxes_of_a_file_and_of_lvis(folder: Path):
    truth = read(folder / "lvis.json")
    boxes = [{key: one[key] for key in ("image_id", "category_id", "bbox")} for one in truth["annotations"]]
    wrong = {**boxes[0], "bbox": [1, 1, 5, 5], "score": 0.1}
    path = write(folder / "boxes.json", [wrong, *({**one, "score": 0.9} for one in boxes)])
    result = run("boxes", *common(folder, "lvis.json"), "--boxes", path, "--max-boxes", 2, "--limit", 1)
    assert result.exit_code == 0, result.output
    data = read(folder / "out" / "boxes.json")
    assert data["protocol"] == "LVIS" and data["masks"] == 2 and data["mean_iou"] is None
    assert data["average_precision"]["rare"] > 0.3 and data["average_precision"]["common"] is None


@pytest.mark.slow
def test_boxes_of_the_detector(folder: Path):
    result = run("boxes", *common(folder), "--boxes", "detector", "--limit", 1, "--max-boxes", 5)
    assert result.exit_code == 0, result.output
    assert read(folder / "out" / "boxes.json")["settings"]["detector"]["box_threshold"] == 0.05


@pytest.mark.parametrize("prompt", ["adapter", pytest.param("dense-clip", marks=pytest.mark.slow)])
def test_text(folder: Path, prompt: str):
    result = run("text", *common(folder), "--text-prompt", prompt, "--limit", 1)
    assert result.exit_code == 0, result.output
    found = read(folder / "out" / "text.json")
    assert [one["phrase"] for one in found["images"][0]["objects"]] == ["soccer ball", "cookie"]
    assert found["mean_iou"]["box + text"]["mean"] > 0.5
    assert Image.open(folder / "out" / "text.png").width == 12 + 5 * 312


def test_names_of_several_objects_are_left_out(folder: Path):
    data = read(folder / "instances.json")
    for annotation in data["annotations"]:
        annotation["category_id"] = data["categories"][0]["id"]
    write(folder / "instances.json", data)
    result = run("text", *common(folder))
    assert result.exit_code == 1 and "every name has several objects in its image, see --repeated" in result.stderr


@pytest.mark.parametrize(
    ("command", "change", "options", "code", "message"),
    [
        pytest.param("proposals", {"annotations": []}, [], 1, "no mask is annotated in 2 images", id="no masks"),
        pytest.param("boxes", {"images": 3}, [], 1, "must hold 'images', a list", id="no images"),
        pytest.param("text", {}, ["--images", "nowhere"], 2, "no such file or folder", id="no folder"),
        pytest.param("boxes", {}, ["--boxes", "nothing.json"], 2, "must be truth, detector or a file", id="no boxes"),
        pytest.param("text", {}, ["--config", "nothing"], 2, "nothing", id="no preset"),
    ],
)
def test_bad_data_is_named(folder: Path, command: str, change: dict, options: list, code: int, message: str):
    write(folder / "instances.json", read(folder / "instances.json") | change)
    result = run(command, *common(folder), *options)
    assert result.exit_code == code and message in result.output, result.output


def test_images_that_are_not_there_and_of_another_size(folder: Path):
    data = read(folder / "instances.json")
    data["images"][0] |= {"height": 61}
    data["annotations"] = data["annotations"][2:]
    data["images"].append({"id": 99, "file_name": "c.png", "height": 60, "width": 80})
    write(folder / "instances.json", data)
    result = run("boxes", *common(folder), "--sample", 3, "--boxes", "truth")
    assert result.exit_code == 0, result.output
    assert "images that are not there, left out: 1 (c.png)" in result.stderr
    assert "whose size differs in the annotation file, left out: 1 (a.png)" in result.stderr
    assert read(folder / "out" / "boxes.json")["images"] == 1


@pytest.mark.parametrize(
    ("label", "phrase"), [("dog", "dog"), ("bow_(weapon)", "bow weapon"), ("hot_dog", "hot dog"), ("a  b", "a b")]
)
def test_phrases_of_classes(label: str, phrase: str):
    assert class_phrase(label) == phrase


def test_similar_masks_of_an_image(folder: Path):
    image, out = folder / "val2017" / "a.png", folder / "out"
    options = ["--points-per-side", 2, "--threshold", -1, "--stability-score-thresh", 0, "--pred-iou-thresh", 0]
    result = CliRunner().invoke(similar, [*map(str, [image, "--point", "22,30", "--out", out, *options])])
    assert result.exit_code == 0, result.output
    data = read(out / "similar.json")
    cosines = [one["cosine"] for one in data["masks"]]
    assert cosines == sorted(cosines, reverse=True) and all(one["is_similar"] for one in data["masks"])
    assert data["query"]["mask"]["size"] == list(SIZE) and Image.open(out / "similar.png").size == SIZE[::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param([], "give --point, --box, or both", id="neither"),
        pytest.param(["--point", "1"], "expected X,Y, got '1'", id="one number"),
        pytest.param(["--point", "80,3"], "the point must lie in the image of 80 x 60 pixels, got 80,3", id="outside"),
        pytest.param(["--box", "5,5,5,9"], "the box must be X0,Y0,X1,Y1 in the image", id="no area"),
    ],
)
def test_arguments_of_similar(folder: Path, options: list, message: str):
    arguments = [str(folder / "val2017" / "a.png"), *options, "--out", str(folder / "out")]
    result = CliRunner().invoke(similar, arguments)
    assert result.exit_code == 2 and message in result.output, result.output
