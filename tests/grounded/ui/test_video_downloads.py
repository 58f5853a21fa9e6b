"""What a user downloads of a clip."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import PromptError, VideoError
from grounded.ui.progress import TimeLimitError
from grounded.ui.state import Limits
from grounded.ui.tracking import ClipState
from grounded.ui.video_downloads import VIDEO_DOWNLOADS, write_clip_download
from grounded.video.frames import open_clip
from grounded.video.tracks import TrackedFrame


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


def written(state: ClipState, kind: str) -> Path:
    return Path(write_clip_download(state, kind, Limits()))


def test_all_kinds_lie_in_folders_that_the_server_empties(crossed: ClipState, uploads: Path):
    named = replace(crossed, name="../a: b")
    paths = [written(named, kind) for kind in VIDEO_DOWNLOADS]
    assert [path.name for path in paths] == [
        "a- b-tracks.mp4",
        "a- b-masks.zip",
        "a- b-mot.txt",
        "a- b-coco-video.json",
        "a- b-records.jsonl",
    ]
    assert all(path.parent.parent == uploads and len(list(path.parent.iterdir())) == 1 for path in paths)


def test_the_video_has_all_frames(crossed: ClipState):
    frames = list(open_clip(written(crossed, "video")).frames())
    assert len(frames) == 6 and frames[0].image.size == (64, 48)


def test_the_masks_are_those_of_davis(crossed: ClipState, tmp_path: Path):
    with zipfile.ZipFile(written(crossed, "masks")) as archive:
        archive.extractall(tmp_path / "masks")
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [*(f"{number:05d}.png" for number in range(6)), "labels.json"]
    ids = np.asarray(Image.open(tmp_path / "masks" / "00003.png"))
    np.testing.assert_array_equal(ids, crossed.frames[3].id_map())


def test_texts_and_records(crossed: ClipState):
    rows = [line.split(",")[:2] for line in written(crossed, "mot").read_text().splitlines()]
    assert [int(frame) for frame, track in rows if track == "2"] == [3, 4]
    coco = json.loads(written(crossed, "coco").read_text())
    assert coco["videos"][0]["length"] == 6 and len(coco["annotations"]) == 2
    lines = written(crossed, "records").read_text().splitlines()
    frames = [TrackedFrame.from_dict(json.loads(line)) for line in lines]
    assert [frame.number for frame in frames] == list(range(6))
    assert frames[2].names == ["a dog 1", "a cat 2"]


def test_what_cannot_be_written(crossed: ClipState, tmp_path: Path, uploads: Path):
    with pytest.raises(PromptError, match="there is no clip yet"):
        written(ClipState(), "mot")
    with pytest.raises(PromptError, match="nothing was followed yet"):
        written(replace(crossed, frames={}), "mot")
    with pytest.raises(TimeLimitError):
        write_clip_download(crossed, "mot", Limits(seconds=0.0))
    (tmp_path / "small.mp4").unlink()
    with pytest.raises(VideoError, match="small"):
        written(crossed, "video")
    assert not [path for path in uploads.rglob("*") if path.is_file()]
