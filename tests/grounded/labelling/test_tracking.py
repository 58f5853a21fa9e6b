"""Clips in a labelling run, with a task without models: ids are those of an undisturbed run wherever it was stopped."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from grounded.errors import ConfigError
from grounded.labelling.engines.local import EngineOptions, label_local
from grounded.labelling.progress import NoProgress, RunCounter, RunSummary
from grounded.labelling.sources import Source, open_source
from grounded.labelling.store import Run, index_frames, open_run, read_failures
from grounded.labelling.store.reader import read_finished_clips
from grounded.labelling.tracking import count_frames, frames_to_go_on_from, remembered_frames
from grounded.video.clip import Frame
from tests.grounded.conftest import random_image
from tests.grounded.labelling.engines.test_local import contents
from tests.grounded.labelling.standin import PHRASES, Bright, open_clips, tracked, write_clip_folder, write_images
from tests.grounded.video.clips import write_clip

COUNT = 11


class StopAt(NoProgress):
    """Wishes the run to stop when so many images and frames are done."""

    def __init__(self, done: int) -> None:
        self.done, self.wished = done, False

    def update(self, counter: RunCounter) -> None:
        self.wished = self.wished or counter.done >= self.done

    def __call__(self) -> bool:
        return self.wished


def label(source: Source, out: Path, task: object = None, stop: int = 10**6, **options: object) -> RunSummary:
    run = Run(source=source.spec, phrases=PHRASES, config="1", configuration={"video": options.pop("video", {})})
    wish = StopAt(stop)
    with open_run(out, run) as writer:
        task = Bright() if task is None else task
        return label_local(source, task, writer, EngineOptions(**options), progress=wish, should_stop=wish)


def lines(out: Path) -> int:
    return sum(shard.read_bytes().count(b"\n") for shard in (out / "records").glob("*.jsonl"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips as folders of images."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip_folder(folder / "a", COUNT)
    write_clip_folder(folder / "b", 3, seed=1)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("undisturbed")
    label(open_clips(folder), out)
    return contents(out)


def test_frames_become_records(folder: Path, undisturbed: dict[str, dict], tmp_path: Path):
    assert list(undisturbed)[:COUNT] == [f"a/{number}.png" for number in range(COUNT)], "9 comes before 10"
    frame = undisturbed["a/8.png"]
    assert (frame["image"]["clip"], frame["image"]["frame"]) == ("a", 8)
    assert [(one["phrase"], one["track_id"]) for one in frame["instances"]] == [("bright", 1), ("dark", 2)]
    summary = label(open_clips(folder), tmp_path / "out")
    assert (summary.images, summary.frames, summary.failures) == (COUNT + 3, COUNT + 3, 0)
    assert "0 images and 14 frames of clips labelled" in str(summary)
    assert str(summary).endswith("2 clips finished, 4 tracks")
    finished = read_finished_clips(tmp_path / "out")
    assert {clip: (one.frames, one.tracks) for clip, one in finished.items()} == {
        "a": (COUNT, {"bright": 1, "dark": 1}),
        "b": (3, {"bright": 1, "dark": 1}),
    }
    again = label(open_clips(folder), tmp_path / "out")
    assert (again.images, again.skipped) == (0, COUNT + 3)


@pytest.mark.parametrize("stop", [1, 3, 8, 11, 12])
def test_a_stopped_clip_goes_on_with_its_ids(folder: Path, undisturbed: dict[str, dict], tmp_path: Path, stop: int):
    first = label(open_clips(folder), tmp_path / "out", stop=stop)
    assert first.interrupted and lines(tmp_path / "out") == stop
    rest = label(open_clips(folder), tmp_path / "out")
    assert rest.images == COUNT + 3 - stop
    assert contents(tmp_path / "out") == undisturbed and lines(tmp_path / "out") == len(undisturbed)


def test_frames_to_go_on_from(folder: Path, tmp_path: Path):
    label(open_clips(folder), tmp_path / "out", stop=8)
    before = frames_to_go_on_from(tmp_path / "out", "a")
    assert list(before) == [0, 1, 4, 5, 6, 7], "the last three of each object, the last key frame, the last of all"
    assert frames_to_go_on_from(tmp_path / "out", "c") == {}


def test_what_is_remembered_does_not_grow_with_a_clip():
    ids: dict[str, int] = {}
    clip = (tracked(Frame(number, 0.0, random_image(6, 8)), ids) for number in range(50))
    assert list(remembered_frames(clip)) == [41, 47, 48, 49]
    assert remembered_frames(iter(())) == {}


def test_images_come_before_clips(tmp_path: Path):
    write_images(tmp_path / "in", 2)
    write_clip(tmp_path / "in" / "0.mp4", 4)
    (tmp_path / "in" / "broken.mkv").write_bytes(b"no video")
    source = open_source(tmp_path / "in", videos=True)
    summary = label(source, tmp_path / "out", workers=2)
    assert (summary.images, summary.frames, summary.failures) == (6, 4, 1)
    assert sorted(contents(tmp_path / "out")) == [
        *(f"0.mp4/{number:06d}" for number in range(4)),
        "0000.png",
        "0001.png",
    ]
    (failure,) = read_failures(tmp_path / "out").values()
    assert (failure.file, failure.kind) == ("broken.mkv", "clip") and "cannot be read as a video" in failure.reason
    assert label(source, tmp_path / "out").failures == 0, "it is not tried again unless that is wished"
    assert count_frames(source) == 2 + 4 + 1
    assert count_frames(open_source(tmp_path / "in")) == 2, "videos are asked for"


def test_a_damaged_clip_keeps_its_whole_frames(folder: Path, undisturbed: dict[str, dict], tmp_path: Path):
    write_clip_folder(tmp_path / "in" / "a", COUNT)
    write_clip_folder(tmp_path / "in" / "b", 3, seed=1)
    frame = tmp_path / "in" / "a" / "5.png"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:60])
    summary = label(open_clips(tmp_path / "in"), tmp_path / "out")
    assert (summary.images, summary.failures) == (5 + 3, 1)
    (failure,) = read_failures(tmp_path / "out").values()
    assert (failure.file, failure.kind) == ("a", "clip") and failure.reason.startswith("frame 5: ")
    frame.write_bytes(whole)
    summary = label(open_clips(tmp_path / "in"), tmp_path / "out", retry_failures=True)
    assert (summary.images, summary.failures) == (COUNT - 5, 0)
    assert contents(tmp_path / "out") == undisturbed
    assert read_failures(tmp_path / "out") == {}


def test_videos_in_tar_files(tmp_path: Path):
    write_clip(tmp_path / "clip.mp4", 3)
    for name in ("plain.tar", "packed.tar.gz"):
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.add(tmp_path / "clip.mp4", "below/clip.mp4")
        summary = label(open_source(tmp_path / name, videos=True), tmp_path / f"out-{name}")
        assert (summary.images, summary.failures) == (3, 0)
        assert f"{name}/below/clip.mp4/000002" in contents(tmp_path / f"out-{name}")
    with pytest.raises(ConfigError, match="unpack"):
        open_clips(tmp_path / "plain.tar")


class Blind(Bright):
    """Sees nothing."""

    def track(self, clip, before) -> Iterator:
        for frame in super().track(clip, before):
            yield frame[[]]


@pytest.mark.parametrize(
    ("task", "failures", "says"),
    [(Blind(), 0, "nothing was seen in a, b"), (lambda images: [], 2, "2 failures")],
    ids=["never seen", "a task for images"],
)
def test_clips_without_a_track(folder: Path, tmp_path: Path, task: object, failures: int, says: str):
    summary = label(open_clips(folder), tmp_path / "out", task)
    assert summary.failures == failures and says in str(summary)


@pytest.mark.parametrize("stop", [4, 10**6], ids=["unfinished", "finished"])
def test_other_settings_of_video_are_refused(folder: Path, tmp_path: Path, stop: int):
    label(open_clips(folder), tmp_path / "out", stop=stop)
    with pytest.raises(ConfigError, match="holds a, which was tracked with other settings of video"):
        label(open_clips(folder), tmp_path / "out", video={"key_frame_every": 3})
    assert lines(tmp_path / "out") == min(stop, COUNT + 3)


def test_places_of_frames(folder: Path, tmp_path: Path):
    label(open_clips(folder), tmp_path / "out")
    index = index_frames(tmp_path / "out")
    assert [place.number for place in index["a"]] == list(range(COUNT))
    assert [place.file for place in index["b"]] == ["b/0.png", "b/1.png", "b/2.png"]
    assert list(index_frames(tmp_path / "out", without={"a"})) == ["b"]
