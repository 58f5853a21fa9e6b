import json
from pathlib import Path

import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.clips import ClipInMemory, FrameObjects
from grounded.evaluation.video.sources import EXTRA_CLIPS, SHIFTED, open_clips, pair_clips
from grounded.labelling.formats.annotations import Notes
from tests.grounded.evaluation.video.made import clip, write_masks
from tests.grounded.evaluation.video.test_youtube_vis import LEFT as RUNS
from tests.grounded.evaluation.video.test_youtube_vis import data

LEFT = {1: "left"}


def opened(path: Path, is_truth: bool = False) -> list[str]:
    return [clip.name for clip in open_clips(path, Notes(), is_truth=is_truth)]


def test_folders_and_files_of_clips(tmp_path: Path):
    davis = tmp_path / "DAVIS"
    for name in ("bear", "camel"):
        write_masks(davis / "Annotations" / "480p" / name, [LEFT] * 2)
    (davis / "JPEGImages" / "480p" / "bear").mkdir(parents=True)
    assert opened(davis) == opened(davis / "Annotations" / "480p") == ["bear", "camel"]
    assert opened(davis / "Annotations" / "480p" / "bear") == ["bear"]

    mot = tmp_path / "MOT17-train"
    for folder in ("gt", "det"):
        (mot / "MOT17-02" / folder).mkdir(parents=True)
        (mot / "MOT17-02" / folder / f"{folder}.txt").write_text("1,1,0,0,5,5,1\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "MOT17-02.txt").write_text("1,1,0,0,5,5,0.7,-1,-1,-1\n")
    assert opened(mot, is_truth=True) == opened(tmp_path / "results") == ["MOT17-02"]
    assert opened(tmp_path / "results" / "MOT17-02.txt") == ["MOT17-02"]

    (tmp_path / "truth.json").write_text(json.dumps(data()))
    truth = open_clips(tmp_path / "truth.json", Notes(), is_truth=True)
    (tmp_path / "results.json").write_text(json.dumps([{"video_id": 3, "segmentations": [RUNS, None]}]))
    (results,) = open_clips(tmp_path / "results.json", Notes(), truth=truth)
    assert results.name == "cats" and results.read(0).ids == (1,)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "frames.jsonl").write_text('{"image": {"frame": 0}}\n')
    assert opened(tmp_path / "run") == ["run"]


def test_nothing_to_open(tmp_path: Path):
    for path, message in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path, "expected a folder of indexed PNG masks"),
        (Path(__file__), "expected a folder of indexed PNG masks"),
    ):
        with pytest.raises(ResultError, match=message):
            opened(path)
    for folder in ("1", "2"):
        write_masks(tmp_path / folder / "bear", [LEFT])
    with pytest.raises(ResultError, match="must have different names, got 'bear' twice"):
        opened(tmp_path)


def numbered(*numbers: int, name: str = "a", lists_frames: bool = True) -> ClipInMemory:
    frame = FrameObjects.from_rles({}, (2, 2))
    return ClipInMemory(name, dict.fromkeys(numbers, frame), lists_frames)


def test_clips_are_paired_by_name():
    notes = Notes()
    truths = [clip([LEFT], "bear"), clip([LEFT], "camel")]
    predictions = [clip([LEFT], "camel.mp4"), clip([LEFT], "dog"), clip([LEFT], "bear")]
    pairs = pair_clips(truths, predictions, notes)
    assert [(pair.truth.name, pair.prediction.name) for pair in pairs] == [("bear", "bear"), ("camel", "camel.mp4")]
    assert notes.lines() == [f"{EXTRA_CLIPS}: 1 (dog)"]
    assert len(pair_clips(truths[:1], predictions[1:2], notes)) == 1, "one of each"
    with pytest.raises(ResultError, match=r"1 of 2 clips are not in the prediction: bear; it has camel\.mp4, dog"):
        pair_clips(truths, predictions[:2], notes)


@pytest.mark.parametrize(
    ("truth", "prediction", "is_davis", "numbers", "shift"),
    [
        pytest.param(numbered(0, 1, 2), numbered(0, 1, 2), False, [0, 1, 2], 0, id="all"),
        pytest.param(numbered(0, 5, 10), numbered(*range(12)), False, [0, 5, 10], 0, id="every fifth is true"),
        pytest.param(numbered(0, 1, 2), numbered(1, 2, 3), False, [0, 1, 2], 1, id="numbered from 1"),
        pytest.param(numbered(0, 1, 2), numbered(1), True, [0, 1, 2], 0, id="those that DAVIS measures"),
        pytest.param(numbered(0, 1, 2), numbered(1, lists_frames=False), False, [0, 1, 2], 0, id="text"),
        pytest.param(
            numbered(1, lists_frames=False), numbered(3, lists_frames=False), False, [1, 2, 3], 0, id="both are text"
        ),
    ],
)
def test_frames_are_paired_by_number(
    truth: ClipInMemory, prediction: ClipInMemory, is_davis: bool, numbers: list[int], shift: int
):
    notes = Notes()
    (pair,) = pair_clips([truth], [prediction], notes, is_davis=is_davis)
    assert (list(pair.numbers), pair.shift) == (numbers, shift)
    assert notes.lines() == ([f"{SHIFTED}: 1 (a)"] if shift else [])


@pytest.mark.parametrize(
    ("truth", "prediction", "is_davis", "message"),
    [
        pytest.param(numbered(*range(9)), numbered(1, 2), False, "7 of 9 frames .*: 0, 3, 4, 5, 6, …", id="many"),
        pytest.param(numbered(0, 1, 2), numbered(0, 2), True, "1 of 1 frames are not in the prediction: 1", id="DAVIS"),
        pytest.param(numbered(0, 1, 2), numbered(0, 2, 3), False, "1 of 3 frames .*: 1", id="as many, but others"),
        pytest.param(numbered(), numbered(0), False, "clip a: the truth has no frame", id="none"),
    ],
)
def test_missing_frames(truth: ClipInMemory, prediction: ClipInMemory, is_davis: bool, message: str):
    with pytest.raises(ResultError, match=message):
        pair_clips([truth], [prediction], Notes(), is_davis=is_davis)
