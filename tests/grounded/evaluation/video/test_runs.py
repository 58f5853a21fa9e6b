import json
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.runs import read_track_runs
from grounded.labelling import store
from grounded.labelling.records import ImageInfo, Record
from grounded.video.tracks import TrackedFrame
from tests.grounded.evaluation.made import record
from tests.grounded.evaluation.video.made import SIZE, Places, masks


def tracked(number: int, places: Places) -> TrackedFrame:
    found = [("a dog", mask, 0.9) for mask in masks(places).values()]
    ids = np.array(list(places), np.int64)
    instances = record("a", ["a dog"], found, SIZE).instances
    return TrackedFrame(number=number, seconds=number / 25, instances=instances, track_ids=ids)


FRAMES = [tracked(0, {4: "left", 2: "right"}), tracked(1, {}), tracked(3, {2: "below"})]
IDS = {0: (4, 2), 1: (), 3: (2,)}


def test_lines_of_frames(tmp_path: Path):
    path = tmp_path / "frames.jsonl"
    path.write_text("".join(json.dumps(frame.to_dict()) + "\n" for frame in FRAMES) + '{"image": {"frame": 4')
    (clip,) = read_track_runs(path, "cats")
    assert clip.name == "cats" and clip.numbers == (0, 1, 3), "a line that is cut off has not been written"
    assert {number: clip.read(number).ids for number in clip.numbers} == IDS
    assert (clip.read(0).masks() == np.array([*masks({4: "left", 2: "right"}).values()])).all()


def test_the_store_of_labelling(tmp_path: Path):
    with store.open_run(tmp_path / "run", store.Run(source="cats.mp4", phrases=("a dog",))) as writer:
        for frame in reversed(FRAMES):
            for name in ("cats.mp4", "{dogs}.mp4"):
                info = ImageInfo(file=f"{name}/{frame.number:06d}", width=SIZE[1], height=SIZE[0])
                writer.append(Record(image=info, instances=frame.instances, frame=frame))
    clips = read_track_runs(tmp_path / "run", "run")
    assert sorted(clip.name for clip in clips) == ["cats.mp4", "{dogs}.mp4"]
    for clip in clips:
        assert clip.numbers == (0, 1, 3)
        assert {number: clip.read(number).ids for number in clip.numbers} == IDS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param('{"image": {"file": "a.jpg"}}', "0 bytes from its beginning: not a frame", id="an image"),
        pytest.param("{", "not a frame of a clip", id="damaged"),
        pytest.param("[]", "not a frame of a clip", id="a list"),
    ],
)
def test_other_lines(tmp_path: Path, line: str, message: str):
    (tmp_path / "frames.jsonl").write_text(f"{line}\n")
    with pytest.raises(ResultError, match=message):
        read_track_runs(tmp_path / "frames.jsonl", "a")


def test_a_damaged_frame_is_named(tmp_path: Path):
    (tmp_path / "frames.jsonl").write_text('{"image": {"frame": 7}, "instances": 3}\n')
    (clip,) = read_track_runs(tmp_path / "frames.jsonl", "a")
    with pytest.raises(ResultError, match=r"frames\.jsonl, 0 bytes from its beginning: "):
        clip.read(7)
