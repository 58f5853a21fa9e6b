import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grounded.cli.evaluate import evaluate
from grounded.labelling import store
from tests.grounded.evaluation.made import block, coco, record
from tests.grounded.evaluation.video.made import write_masks

SIZE = (40, 60)
LEFT, RIGHT = block(2, 2, 20, 30, SIZE), block(30, 4, 20, 30, SIZE)
FILES = ["confusion.png", "evaluation.json", "evaluation.md", "reliability.png", "worst.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run about two of three images, with its ground truth and its images beside it."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1], (90, 140, 90)).save(tmp_path / "images" / name)
    phrases = ("a dog", "kitten")
    run = store.Run(source=str(tmp_path / "images"), phrases=phrases)
    with store.open_run(tmp_path / "run", run) as writer:
        writer.append(record("a.png", phrases, [("a dog", LEFT, 0.9), ("kitten", RIGHT, 0.6)], SIZE))
        writer.append(record("b.png", phrases, [("a dog", RIGHT, 0.4)], SIZE))
    data = coco(
        {"a.png": [("dog", LEFT), ("cat", RIGHT)], "b.png": [("dog", LEFT)], "c.png": [("dog", LEFT)]},
        ("dog", "cat", "fox"),
        SIZE,
    )
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return tmp_path / "run"


def run(folder: Path, *arguments: object) -> Result:
    truth = folder.parent / "truth.json"
    return CliRunner().invoke(evaluate, ["labels", str(folder), "--truth", str(truth), *map(str, arguments)])


def report(folder: Path) -> dict:
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())


def test_all_files_are_written(folder: Path):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (folder / "evaluation").iterdir()) == FILES
    assert result.stdout == (
        "3 images, 1 classes: mask AP 33.7, box AP 33.7, precision 50.0, recall 33.3, mean IoU of matches 100.0, "
        f"boundary F of matches 100.0, calibration error 25.0\n-> {folder / 'evaluation' / 'evaluation.md'}\n"
    )
    assert result.stderr.splitlines() == [
        "Warning: images of the ground truth without a record, counted as empty: 1 (c.png)",
        "Warning: phrases that are no class of the ground truth, left out: 1 (kitten)",
        "Warning: classes of the ground truth that no phrase asks for, left out: 2 (cat, fox)",
    ]
    sheet = np.asarray(Image.open(folder / "evaluation" / "worst.png"))
    assert (sheet == (90, 140, 90)).all(axis=2).mean() > 0.02, "the images are on the sheet"


def test_options(folder: Path, tmp_path: Path):
    out = tmp_path / "elsewhere"
    options = ["--map", "a kitten=Cat", "--missing", "skip", "--iou", "box", "--worst", 1, "--out", out]
    result = run(folder, *options)
    assert result.exit_code == 0, result.output
    data = json.loads((out / "evaluation.json").read_text())
    assert data["asked"]["classes"] == {"a dog": "dog", "kitten": "cat"}
    assert data["images"]["measured"] == 2 and data["images"]["missing"] == ["c.png"]
    assert list(data["average_precision"]) == ["box"]
    assert [one["file"] for one in data["worst"]] == ["b.png"]
    assert not (folder / "evaluation").exists()


def test_corrections_count_unless_they_are_not_wanted(folder: Path):
    from grounded.labelling.review import log

    log.append_reviews(folder, log.Review(file="b.png", instance=0, action="reject"))
    assert run(folder).exit_code == 0
    assert report(folder)["overall"]["answers"] == 1
    assert run(folder, "--as-found").exit_code == 0
    assert report(folder)["overall"]["answers"] == 2


def test_images_that_were_moved(folder: Path):
    (folder.parent / "images").rename(folder.parent / "moved")
    result = run(folder)
    assert result.exit_code == 0 and "--images says where they are" in result.stderr
    grey = (folder / "evaluation" / "worst.png").read_bytes()
    assert run(folder, "--images", folder.parent / "moved").exit_code == 0
    assert (folder / "evaluation" / "worst.png").read_bytes() != grey


def test_records_without_a_run(folder: Path):
    (folder / "run.json").unlink()
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert report(folder)["overall"]["objects"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--map", "kitten"], "expected PHRASE=CLASS, got 'kitten'", id="no class"),
        pytest.param(["--map", "kitten=cta"], "the ground truth has no such class; there is 'cat'", id="unknown class"),
        pytest.param(["--truth", "none.json"], "'none.json' does not exist", id="no truth"),
        pytest.param(["--iou", "pixel"], "'pixel' is not one of", id="IoU of what"),
        pytest.param(["--iou-threshold", "0"], "0.0 is not in the range", id="threshold"),
        pytest.param(["--images", "/none/such"], "/none/such", id="no images"),
    ],
)
def test_wrong_arguments(folder: Path, arguments: list[str], message: str):
    result = run(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (folder / "evaluation").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda folder: (folder.parent / "truth.json").write_text("{"), "is not JSON", id="truth"),
        pytest.param(lambda folder: (folder / "run.json").write_text("{"), "run.json is not JSON", id="run"),
        pytest.param(
            lambda folder: (folder / "records" / "00000.jsonl").write_text("{}\n"), "00000.jsonl", id="records"
        ),
        pytest.param(
            lambda folder: (folder.parent / "truth.json").write_text(json.dumps(coco({"x.png": []}, ("fox",)))),
            "nothing to measure",
            id="another truth",
        ),
    ],
)
def test_failures_are_one_line(folder: Path, damage, message: str):
    damage(folder)
    result = run(folder)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    assert len(errors) == 1 and errors[0].startswith("Error: ") and message in errors[0]
    assert list(folder.glob("evaluation/*")) == []


def test_a_folder_that_is_no_run(tmp_path: Path):
    (tmp_path / "truth.json").write_text(json.dumps(coco({"a.png": []})))
    (tmp_path / "run").mkdir()
    result = run(tmp_path / "run")
    assert result.exit_code == 1 and "holds no run" in result.stderr


def test_a_truth_of_crowds_alone(folder: Path):
    truth = folder.parent / "truth.json"
    data = json.loads(truth.read_text())
    for entry in data["annotations"]:
        entry["iscrowd"] = 1
    truth.write_text(json.dumps(data))
    result = run(folder)
    assert result.exit_code == 1
    assert "objects of the ground truth are crowds" in result.stderr and "--count-crowds" in result.stderr
    assert run(folder, "--count-crowds").exit_code == 0


def test_damaged_records_are_named_and_cost_the_exit_status(folder: Path):
    shard = folder / "records" / "00000.jsonl"
    shard.write_bytes(shard.read_bytes() + b"{}\n")
    result = run(folder)
    assert result.exit_code == 1
    assert "Warning: left out: " in result.stderr and "1 records or reviews cannot be read" in result.stderr
    assert (folder / "evaluation" / "evaluation.json").exists()


# ---- grounded evaluate video ----

CLIP = [{1: "left", 2: "right"}] * 4


def run_video(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, ["video", *map(str, arguments)])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with the truth of two clips, and a prediction in which object 2 of one is missed in the third frame."""
    for name in ("bear", "camel"):
        write_masks(tmp_path / "truth" / name, CLIP)
        write_masks(tmp_path / "found" / name, CLIP)
    write_masks(tmp_path / "found" / "camel", [CLIP[0], CLIP[0], {1: "left"}, CLIP[0]])
    return tmp_path


def test_video_by_the_protocol_of_davis(clips: Path):
    result = run_video(
        clips / "found", "--truth", clips / "truth", "--protocol", "davis", "--json", clips / "out" / "measures.json"
    )
    assert result.exit_code == 0, result.output
    assert [line.split()[:6] for line in result.stdout.splitlines()[1:]] == [
        ["bear", "1", "1", "2", "100.0", "100.0"],
        ["bear", "2", "2", "2", "100.0", "100.0"],
        ["camel", "1", "1", "2", "100.0", "100.0"],
        ["camel", "2", "2", "2", "50.0", "50.0"],
        ["mean", "87.5", "87.5", "87.5", "25.0", "87.5"],
        ["->", str(clips / "out" / "measures.json")],
    ]
    data = json.loads((clips / "out" / "measures.json").read_text())
    assert data["j_and_f"] == 0.875 and data["tracks"] is None and data["notes"] == []


def test_video_by_tracks(clips: Path):
    pytest.importorskip("trackeval")
    result = run_video(clips / "found", "--truth", clips / "truth", "--match-ids")
    assert result.exit_code == 0, result.output
    assert "J&F" in result.stdout and "HOTA" in result.stdout and result.stderr == ""
    alone = run_video(clips / "found" / "bear", "--truth", clips / "truth" / "camel", "--protocol", "tracks")
    assert alone.exit_code == 0, alone.output
    assert "J&F" not in alone.stdout and alone.stdout.splitlines()[1].split()[:3] == ["camel", "2", "100.0"]


def test_video_with_copies_of_the_first_masks(clips: Path):
    write_masks(clips / "truth" / "camel", [CLIP[0], CLIP[0], {1: "below", 2: "right"}, CLIP[0]])
    result = run_video("--truth", clips / "truth", "--baseline", "first-mask", "--protocol", "davis")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].split()[2] == "87.5", "J of one object in one of two frames is 0"


def test_video_names_what_it_leaves_out(clips: Path):
    write_masks(clips / "found" / "dog", CLIP)
    result = run_video(clips / "found", "--truth", clips / "truth", "--protocol", "davis")
    assert result.exit_code == 0
    assert result.stderr == "Warning: predicted clips that the truth does not have, left out: 1 (dog)\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda found: (found / "camel" / "00001.png").unlink(), "1 of 2 frames are not in", id="frame"),
        pytest.param(
            lambda found: Image.new("L", (3, 2), 1).save(found / "bear" / "00002.png"),
            "clip bear, frame 2: the prediction must have the (height, width) of the truth, (24, 40), got (2, 3)",
            id="size",
        ),
        pytest.param(
            lambda found: write_masks(found / "bear", [{1: "left", 9: "right"}] * 4),
            "clip bear: the prediction must have the ids of the truth, [1, 2], got [9]",
            id="id",
        ),
        pytest.param(lambda found: shutil.rmtree(found / "bear"), "1 of 2 clips are not in the prediction", id="clip"),
        pytest.param(lambda found: (found / "bear" / "00001.png").write_bytes(b""), "cannot read", id="damaged"),
        pytest.param(lambda found: [shutil.rmtree(path) for path in found.iterdir()], "expected a folder", id="none"),
    ],
)
def test_video_that_cannot_be_measured(clips: Path, change: Callable[[Path], object], message: str):
    change(clips / "found")
    result = run_video(clips / "found", "--truth", clips / "truth", "--protocol", "davis", "--json", clips / "a.json")
    assert result.exit_code == 1, result.output
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (clips / "a.json").exists()


def test_video_with_wrong_arguments(clips: Path):
    truth = ["--truth", clips / "truth"]
    for arguments in (truth, [clips / "found", *truth, "--baseline", "first-mask"]):
        result = run_video(*arguments)
        assert result.exit_code == 2 and "give either PREDICTION or --baseline" in result.stderr
    assert run_video(clips / "none", *truth).exit_code == 2
    assert run_video(clips / "found", *truth, "--protocol", "best").exit_code == 2
