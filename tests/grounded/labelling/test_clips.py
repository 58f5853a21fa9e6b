"""The run of one clip with the bundled models: stopped anywhere, it goes on as if it had not been."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from grounded.errors import BusyError, ConfigError
from grounded.labelling.clips import TrackedFrames, open_clip_run, track_into
from grounded.labelling.store import open_run, read_records
from grounded.video.pipeline import VideoPipeline
from grounded.video.prompts import ObjectPrompt
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import rle_iou
from tests.grounded.labelling.engines.test_local import RUN
from tests.grounded.labelling.standin import record, write_clip_folder
from tests.grounded.labelling.test_tracking import label, open_clips
from tests.grounded.video.drawn import DrawnClip, drawn_clip, line
from tests.video_models import bundled_video

COUNT = 5


@pytest.fixture(scope="module")
def video() -> VideoPipeline:
    return bundled_video()


@pytest.fixture(scope="module")
def clip() -> DrawnClip:
    return drawn_clip({"dog": line((60, 120), (100, 100), COUNT), "lemon": line((260, 180), (220, 60), COUNT)})


@pytest.fixture(scope="module")
def prompts(clip: DrawnClip) -> list[ObjectPrompt]:
    """Their true masks in the middle of the clip."""
    return [
        ObjectPrompt(frame=2, track_id=1 + thing, label=label, rle=clip.rles[2][thing])
        for thing, label in enumerate(("dog", "lemon"))
    ]


def run(
    video: VideoPipeline, clip: DrawnClip, prompts: Sequence[ObjectPrompt], out: Path, stop_after: int = 99, **options
) -> list[int]:
    """The numbers of the frames that one run tracked, in their order."""
    numbers: list[int] = []
    with open_clip_run(out, video, "drawn", prompts=prompts) as writer:
        frames = track_into(
            writer, video, clip, prompts=prompts, should_stop=lambda: len(numbers) >= stop_after, **options
        )
        for frame in frames:
            numbers.append(frame.number)
    return numbers


def same_tracks(one: TrackedFrame, other: TrackedFrame) -> bool:
    """Whether the ids and labels are the same, and the masks nearly: a memory that is made again is not equal."""
    ious = [rle_iou([a], [b])[0, 0] for a, b in zip(one.instances.rles, other.instances.rles, strict=False)]
    return (
        one.track_ids.tolist() == other.track_ids.tolist()
        and one.instances.labels.tolist() == other.instances.labels.tolist()
        and min(ious, default=1) > 0.8
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_after", "expected"),
    [
        pytest.param(2, [[0, 1], [2, 3, 4]], id="forwards"),
        pytest.param(4, [[2, 3, 4, 1], [0]], id="both"),
    ],
)
def test_a_stopped_run_goes_on(
    video: VideoPipeline, clip: DrawnClip, prompts: list[ObjectPrompt], tmp_path: Path, stop_after: int, expected
):
    options = {"start": 2, "direction": "both"} if stop_after > 2 else {}
    first = run(video, clip, prompts, tmp_path / "out", stop_after, **options)
    rest = run(video, clip, prompts, tmp_path / "out", **options)
    assert [first, rest] == expected
    assert run(video, clip, prompts, tmp_path / "whole", **options) == [*first, *rest]
    found, whole = list(TrackedFrames(tmp_path / "out")), list(TrackedFrames(tmp_path / "whole"))
    assert [frame.number for frame in found] == list(range(COUNT))
    assert all(map(same_tracks, found, whole))
    records = {one.image.file: one for one in read_records(tmp_path / "out")}
    assert sorted(records) == [f"drawn/{number:06d}" for number in range(COUNT)]
    assert all(one.image.clip == "drawn" and one.frame is not None for one in records.values())
    assert run(video, clip, prompts, tmp_path / "out", **options) == [], "nothing is left"


def test_a_folder_holds_one_run(video: VideoPipeline, clip: DrawnClip, prompts: list[ObjectPrompt], tmp_path: Path):
    run(video, clip, prompts, tmp_path / "out", 1)
    with (
        open_clip_run(tmp_path / "out", video, "drawn", prompts=prompts),
        pytest.raises(BusyError, match="another run is writing"),
    ):
        open_clip_run(tmp_path / "out", video, "drawn", prompts=prompts)
    for source, text, given, says in (
        ("other", None, prompts, "holds a run on .*drawn"),
        ("drawn", "a cat", prompts, "differs in phrases"),
        ("drawn", None, prompts[:1], "differs in phrases"),
    ):
        with pytest.raises(ConfigError, match=says):
            open_clip_run(tmp_path / "out", video, source, text, given)
    with pytest.raises(ConfigError, match="expected a start there, got 4"):
        run(video, clip, prompts, tmp_path / "out", start=4)
    with open_clip_run(tmp_path / "out", video, "other", "a cat", restart=True) as writer:
        assert not writer.done


def test_only_the_run_of_one_clip_is_read(tmp_path: Path):
    with open_run(tmp_path / "images", RUN) as writer:
        writer.append(record("a.png"))
    with pytest.raises(ConfigError, match="must hold the run of one clip, got a run of images"):
        TrackedFrames(tmp_path / "images")
    for name in ("a", "b"):
        write_clip_folder(tmp_path / "in" / name, 1)
    label(open_clips(tmp_path / "in"), tmp_path / "two")
    with pytest.raises(ConfigError, match="got a run of 2 clips"):
        TrackedFrames(tmp_path / "two")
