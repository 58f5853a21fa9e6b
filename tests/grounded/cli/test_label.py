import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools.coco import COCO

from grounded.cli.export import export
from grounded.cli.label import label
from grounded.config import PipelineConfig, override
from grounded.labelling.sources import open_source
from grounded.labelling.store import Run, open_run, read_failures, read_records
from tests.grounded.conftest import random_image, save_segmenter
from tests.grounded.video.clips import write_clip
from tests.grounded.video.drawn import drawn_clip, line
from tests.http_server import image_server


@pytest.fixture
def config(random_config: PipelineConfig, tmp_path: Path) -> str:
    path = tmp_path / "random.yaml"
    path.write_text(random_config.to_yaml())
    return str(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        random_image(seed=number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def segmenters(tmp_path: Path) -> tuple[Path, Path]:
    """Two small segmenters of one size with other weights."""
    first, second = (save_segmenter(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))
    return first, second


def run(*arguments: object) -> Result:
    return CliRunner().invoke(label, [str(argument) for argument in arguments])


def test_a_folder_is_labelled_and_then_done(images: Path, config: str, tmp_path: Path):
    out = tmp_path / "out"
    result = run(images, "a cat. dog", "--config", config, "--out", out)
    assert result.exit_code == 0, result.output
    found = {record.image.file: record for record in read_records(out)}
    assert sorted(found) == ["0.png", "1.png", "2.png"]
    assert found["0.png"].instances.phrases == ("a cat", "dog")
    assert result.stdout.startswith("3 images labelled, 0 failures, in ")
    instances = sum(len(record.instances) for record in found.values())
    assert f"\n{instances} instances\n" in result.stdout
    assert "3 of 3 images" in result.stderr or "3 images, " in result.stderr
    stated = Run.read(out)
    assert stated.source == str(images) and {record.config for record in found.values()} == {stated.config}

    again = run(images, "a cat. dog", "--config", config, "--out", out)
    assert again.exit_code == 0 and again.stdout.startswith("0 images labelled, 3 labelled before")
    changed = run(images, "a cat. dog", "--config", config, "--out", out, "--box-threshold", 0.9)
    assert changed.exit_code == 2 and "differs in detector.box_threshold; use --restart" in changed.stderr
    restarted = run(images, "a cat", "--config", config, "--out", out, "--restart", "--no-phrase-scores")
    assert restarted.exit_code == 0, restarted.output
    assert all(record.instances.phrases == ("a cat",) for record in read_records(out))
    assert "phrase_scores" not in (out / "records" / "00000.jsonl").read_text()
    assert len(list(read_records(out / "replaced" / "001"))) == 3


def test_weights_that_changed_under_the_same_name(
    images: Path, random_config: PipelineConfig, segmenters: tuple[Path, Path], tmp_path: Path
):
    checkpoint = tmp_path / "segmenter.safetensors"
    config, out = tmp_path / "own.yaml", tmp_path / "out"
    config.write_text(override(random_config, segmenter={"checkpoint": str(checkpoint)}).to_yaml())
    shutil.copy(segmenters[0], checkpoint)
    assert run(images, "dog", "--config", config, "--out", out).exit_code == 0
    random_image(seed=7).save(images / "later.png")
    shutil.copy(segmenters[1], checkpoint)
    changed = run(images, "dog", "--config", config, "--out", out)
    assert changed.exit_code == 2 and "other weights of segmenter under the same name" in changed.stderr
    assert len(list(read_records(out))) == 3
    shutil.copy(segmenters[0], checkpoint)
    assert run(images, "dog", "--config", config, "--out", out).exit_code == 0
    assert len(list(read_records(out))) == 4


def test_failures_are_told_and_retried(images: Path, config: str, tmp_path: Path):
    out = tmp_path / "out"
    (images / "broken.png").write_bytes(b"no image")
    Image.new("L", (1000, 1001)).save(images / "large.png")
    arguments = (images, "dog", "--config", config, "--out", out, "--max-megapixels", 1)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "3 images labelled, 2 failures" in result.stdout
    assert f"2 without a record, see {out / 'failures.jsonl'}; --retry-failures tries them again" in result.stderr
    assert set(read_failures(out)) == {"broken.png", "large.png"}
    again = run(*arguments)
    assert again.exit_code == 1 and "0 images labelled, 3 labelled before, 0 failures" in again.stdout
    random_image().save(images / "broken.png")
    (images / "large.png").unlink()
    random_image().save(images / "large.png")
    retried = run(*arguments, "--retry-failures")
    assert retried.exit_code == 0, retried.output
    assert "2 images labelled, 3 labelled before" in retried.stdout
    assert read_failures(out) == {}


def test_files_that_are_not_read_are_named(images: Path, config: str, tmp_path: Path):
    for name in ("IMG_0.CR3", "IMG_1.CR3"):
        (images / name).write_bytes(b"\0\0\0\x18ftypcrx " + bytes(50))
    (images / "drawing.svg").write_text("<svg></svg>")
    (images / "export").mkdir()
    random_image().save(images / "export" / "0.png")
    (images / "export" / "export.txt").write_text("1 images, 1 instances as yolo, by grounded 1.")
    result = run(images, "a cat", "--config", config, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout.startswith("3 images labelled, 3 failures")
    assert "Note: left out, as this program wrote it: export: an export\n" in result.stderr
    assert "2 files were not read: IMG_0.CR3, IMG_1.CR3: the file is the raw file of a camera" in result.stderr
    assert "1 file was not read: drawing.svg: the file is a drawing" in result.stderr


def test_addresses_of_a_list(images: Path, config: str, tmp_path: Path):
    with image_server() as server:
        server.image = (images / "0.png").read_bytes()
        addresses = [f"{server.url}/{path}" for path in ("image/a.png", "status/404")]
        (tmp_path / "list.txt").write_text("\n".join(addresses))
        result = run(tmp_path / "list.txt", "a cat", "--config", config, "--out", tmp_path / "out")
    assert result.exit_code == 1
    (record,) = read_records(tmp_path / "out")
    assert (record.image.file, record.image.address) == ("127.0.0.1/image/a.png", addresses[0])
    missing = f"127.0.0.1/status/404: cannot get {addresses[1]}: the server answers 404, there is nothing"
    assert f"1 file was not read: {missing}" in result.stderr


def test_a_vocabulary_file_and_tiles(images: Path, config: str, tmp_path: Path):
    words = tmp_path / "words.yaml"
    words.write_text("classes:\n  animal: [a cat, dog]\n  mug:\n")
    options = (
        "--config",
        config,
        "--tiles",
        "64:0.5",
        "--workers",
        1,
        "--batch",
        2,
        "--mode",
        "box",
        "--device",
        "cpu",
    )
    result = run(images / "0.png", words, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert [record.instances.phrases for record in read_records(tmp_path / "out")] == [("animal", "mug")]
    assert Run.read(tmp_path / "out").tiles == {"size": 64, "overlap": 0.5}


def test_a_coco_file_with_its_root(images: Path, config: str, tmp_path: Path):
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"file_name": "1.png"}]}))
    result = run(tmp_path / "coco.json", "dog", "--config", config, "--root", images, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [record.image.file for record in read_records(tmp_path / "out")] == ["1.png"]
    assert open_source(Run.read(tmp_path / "out").source).get("1.png") == (images / "1.png").read_bytes()


def test_ids_of_a_coco_file_stay(images: Path, config: str, tmp_path: Path):
    data = {
        "images": [
            {"id": 397133, "file_name": "1.png", "width": 8, "height": 8},
            {"id": 37777, "file_name": "2.png", "width": 8, "height": 8},
        ],
        "categories": [{"id": 18, "name": "a dog"}, {"id": 59, "name": "pizza"}],
        "annotations": [],
    }
    (images / "coco.json").write_text(json.dumps(data))
    out = tmp_path / "out"
    assert run(images / "coco.json", "dog. pizza. a cup", "--config", config, "--out", out).exit_code == 0
    for name in ("coco", "coco-results"):
        assert CliRunner().invoke(export, [str(out), "--format", name]).exit_code == 0
    written = json.loads((out / "exports" / "coco" / "instances.json").read_text())
    assert {image["file_name"]: image["id"] for image in written["images"]} == {"1.png": 397133, "2.png": 37777}
    assert [category["id"] for category in written["categories"]] == [18, 59, 60]
    results = json.loads((out / "exports" / "coco-results" / "results.json").read_text())
    assert len(results) == len(written["annotations"]) > 0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(images / "coco.json"))
        for taken in (results, written["annotations"]):
            assert len(truth.loadRes(taken).anns) == len(results)


WRONG = {
    "no source": (("nowhere", "dog"), "no such file or folder: nowhere"),
    "no image": (("empty", "dog"), "holds no image"),
    "no phrase": (("images", "..."), "holds no phrase"),
    "a path as text": (("images", "images"), "TEXT must be phrases or a YAML file"),
    "no vocabulary": (("images", "nowhere.yaml"), "nowhere.yaml"),
    "no preset": (("images", "dog", "--config", "nothing"), "no preset named 'nothing'"),
    "tiles": (("images", "dog", "--tiles", "many"), "many"),
    "address": (("images", "dog", "--address", "auto"), "need --engine ray"),
    "workers": (("images", "dog", "--workers", "0"), "--workers"),
    "no root": (("images", "dog", "--root", "nowhere"), "nowhere"),
    "device": (("images", "dog", "--device", "nothing"), "nothing"),
    "out is a file": (("images", "dog", "--out", "images/0.png"), "is a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    arguments, message = WRONG[case]
    result = run(*arguments, *(() if "--out" in arguments else ("--out", "out")))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_another_run_is_not_disturbed(images: Path, config: str, tmp_path: Path):
    with open_run(tmp_path / "out", Run(source="x", phrases=("y",))):
        result = run(images, "dog", "--config", config, "--out", tmp_path / "out", "--restart")
    assert result.exit_code == 1 and result.stderr.startswith("Error: another run is writing into")


def test_weights_that_are_missing(images: Path, random_config: PipelineConfig, tmp_path: Path):
    text = random_config.to_yaml().replace(random_config.segmenter.checkpoint, str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "broken.yaml").write_text(text)
    result = run(images, "dog", "--config", tmp_path / "broken.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ") and "nowhere.safetensors" in result.stderr
    assert "Traceback" not in result.stderr


def test_clips_that_cannot_be_tracked_are_named(images: Path, config: str, tmp_path: Path):
    (images / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    result = run(images, "a cat", "--config", config, "--out", out)
    assert result.exit_code == 1 and result.stdout.startswith("3 images labelled, 1 failure")
    assert "1 clip was not tracked to its end: broken.mp4: " in result.stderr
    assert [failure.kind for failure in read_failures(out).values()] == ["clip"]
    again = run(images, "a cat", "--config", config, "--out", out, "--clips")
    assert again.exit_code == 2 and "holds a run that differs in clips" in again.stderr
    wrong = run(images, "a cat", "--config", config, "--out", out, "--clips", "--root", tmp_path)
    assert wrong.exit_code == 2 and "--clips is for folders" in wrong.stderr


@pytest.mark.slow
def test_clips_and_what_is_exported_of_them(tmp_path: Path):
    clip = drawn_clip({"dog": line((60, 120), (80, 110), 3)})
    (tmp_path / "in").mkdir()
    clip.images[0].save(tmp_path / "in" / "still.png")
    write_clip(tmp_path / "in" / "a.mp4", 3, images=[np.asarray(image) for image in clip.images], size=(320, 240))
    classes = {"classes": {"pet": ["a dog", "a puppy"]}, "negatives": ["a lemon"]}
    (tmp_path / "classes.yaml").write_text(json.dumps(classes))
    out = tmp_path / "out"
    result = run(tmp_path / "in", tmp_path / "classes.yaml", "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1 image and 3 frames of clips labelled, 0 failures")
    assert result.stdout.endswith("1 clip finished, 1 track\n")
    frames = [record for record in read_records(out) if record.frame is not None]
    assert [record.image.file for record in frames] == [f"a.mp4/{number:06d}" for number in range(3)]
    assert all(record.frame.names == ["pet 1"] for record in frames)
    for name in ("coco", "mot"):
        more = ["--with-images"] if name == "coco" else []
        exported = CliRunner().invoke(export, [str(out), "--format", name, *more])
        assert exported.exit_code == 0, exported.output
    coco = json.loads((out / "exports" / "coco" / "instances.json").read_text())
    assert [image["file_name"] for image in coco["images"]][-1] == "a.mp4/000002.jpg"
    assert (out / "exports" / "coco" / "images" / "a.mp4" / "000002.jpg").exists()
    assert len((out / "exports" / "mot" / "a.mp4.txt").read_text().splitlines()) == 3
    refused = CliRunner().invoke(export, [str(out), "--format", "mot", "--with-images"])
    assert refused.exit_code == 2 and "written from the records of clips" in refused.output
