"""Clips within the limits of the server, and whether there is a model to follow objects in them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from grounded.config import VideoConfig
from grounded.errors import VideoError
from grounded.models import trackers
from grounded.ui.actions import Actions
from grounded.ui.clips import load_video, open_clip_within
from grounded.ui.state import Limits
from tests.grounded.video.clips import HEIGHT, WIDTH, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 64 x 48 pixels, 25 per second."""
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")


def test_a_short_clip_is_taken_as_it_is(clip: Path):
    opened = open_clip_within(clip, "my clip.mp4", Limits())
    assert (opened.info.name, opened.info.count, opened.size, opened.notes) == ("my clip.mp4", 24, (WIDTH, HEIGHT), ())
    assert [frame.number for frame in opened.frames(20)] == [20, 21, 22, 23]
    assert opened.frame(7).image.size == (WIDTH, HEIGHT)
    with pytest.raises(VideoError, match=r"my clip.mp4 has no frame 24"):
        opened.frame(24)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        pytest.param(Limits(max_clip_frames=10), 10, id="frames"),
        pytest.param(Limits(max_clip_seconds=0.4), 10, id="seconds"),
    ],
)
def test_of_a_long_clip_the_beginning_is_taken(clip: Path, limits: Limits, count: int):
    opened = open_clip_within(clip, "a.mp4", limits)
    assert len(list(opened.frames())) == len(list(opened.frames(0, 99))) == opened.info.count == count
    assert opened.notes == ("The clip has 24 frames (1.0 s); only the first 10 are followed here.",)


def test_large_frames_are_scaled_down(clip: Path):
    opened = open_clip_within(clip, "a.mp4", Limits(max_clip_side=32))
    assert opened.size == opened.frame(3).image.size == (32, 24)
    assert opened.notes == ("Frames are scaled down from 64 × 48 to 32 × 24 pixels.",)


def test_where_the_length_is_not_stated_the_limits_are_told(tmp_path: Path):
    path = write_clip(tmp_path / "a.webm", 6, codec="libvpx-vp9")
    opened = open_clip_within(path, "a.webm", Limits(max_clip_frames=5))
    assert opened.info.count is None and len(list(opened.frames())) == 5
    assert opened.notes == ("At most 5 frames and 60 s are followed here.",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"no video", "my.mp4 cannot be read as a video", id="something else"),
        pytest.param(b"", "my.mp4 cannot be read as a video", id="empty"),
        pytest.param(None, "my.mp4 is no longer on the server", id="gone"),
    ],
)
def test_what_is_no_clip(tmp_path: Path, data: bytes | None, message: str):
    path = tmp_path / "my.mp4"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(VideoError, match=message):
        open_clip_within(path, "my.mp4", Limits())


def test_nothing_but_a_file_is_opened(tmp_path: Path, clip: Path):
    for path in (tmp_path, tmp_path / "*.mp4", Path("0"), Path("http://127.0.0.1/a.mp4")):
        with pytest.raises(VideoError, match="no longer on the server"):
            open_clip_within(path, "it", Limits())


def test_the_bundled_models_follow_objects(actions: Actions):
    assert actions.video is not None and actions.video_missing == ""
    assert actions.video.pipeline is actions.pipeline


@pytest.mark.parametrize(
    ("video", "message"),
    [
        pytest.param(VideoConfig(kind="segany", checkpoint="/srv/none/other.pt"), "the checkpoint other.pt", id="file"),
        pytest.param(
            VideoConfig(kind="segany", checkpoint="bundled:other"), "These models cannot follow objects", id="bundled"
        ),
    ],
)
def test_without_a_video_model_a_sentence_says_so(actions: Actions, video: VideoConfig, message: str):
    pipeline = replace(actions.pipeline, config=replace(actions.config, video=video))
    model, missing = load_video(pipeline)
    assert model is None and message in missing and "/srv" not in missing
    assert missing.endswith(".") and "\n" not in missing


def test_without_pyav_a_sentence_says_so(actions: Actions, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(trackers, "build", lambda *parts: pytest.fail("no model is loaded then"))
    model, missing = load_video(actions.pipeline)
    assert model is None and "pip install 'grounded-segany[video]'" in missing
