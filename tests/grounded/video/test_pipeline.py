"""Text, masks or clicks in, tracks out, on the bundled models."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from grounded.errors import PromptError, VideoError
from grounded.models.trackers.propagation import PropagationTracker
from grounded.video.clip import ClipInfo, Frame
from grounded.video.pipeline import VideoPipeline
from grounded.video.prompts import ObjectPrompt
from grounded.video.tracks import TrackedFrame
from segany import Predictor
from segany.utils.rle import RLE, encode_rle, rle_area
from tests.grounded.video.drawn import DrawnClip, drawn_clip, line

COUNT = 6
TEXT = "a dog. a lemon"
DOG, LEMON = 0, 1  # things of the clip


@pytest.fixture(scope="module")
def clip() -> DrawnClip:
    """A dog and a lemon that pass each other."""
    return drawn_clip({"dog": line((60, 120), (180, 100), COUNT), "lemon": line((260, 180), (220, 60), COUNT)})


@pytest.fixture(scope="module")
def by_text(video: VideoPipeline, clip: DrawnClip) -> list[TrackedFrame]:
    return list(video.track(clip, TEXT))


def with_settings(video: VideoPipeline, **values) -> VideoPipeline:
    config = video.pipeline.config
    return replace(
        video, pipeline=replace(video.pipeline, config=replace(config, video=replace(config.video, **values)))
    )


def as_dicts(frames: Iterable[TrackedFrame]) -> list[dict]:
    return [frame.to_dict() for frame in frames]


def ious(clip: DrawnClip, frames: Iterable[TrackedFrame], track_id: int, thing: int) -> list[float]:
    """Of a track with a thing, frame by frame; 0 where the track is not in sight."""
    found = []
    for frame in frames:
        rles = frame[frame.track_ids == track_id].instances.rles
        found.append(clip.iou(frame.number, thing, rles[0]) if rles else 0.0)
    return found


def swapped_mask(frame: TrackedFrame, rle: RLE) -> TrackedFrame:
    """The frame with another mask of track 1, its first."""
    rles = (rle, *frame.instances.rles[1:])
    return replace(frame, instances=replace(frame.instances, rles=rles))


def given(clip: DrawnClip, thing: int, frame: int = 0, label: str | None = None) -> ObjectPrompt:
    """The true mask of a thing, as the prompt of the track 1 + its row."""
    return ObjectPrompt(frame=frame, track_id=1 + thing, label=label, rle=clip.rles[frame][thing])


def test_each_thing_that_the_text_names_is_one_track(clip: DrawnClip, by_text: list[TrackedFrame]):
    assert [frame.number for frame in by_text] == list(range(COUNT))
    assert [frame.track_ids.tolist() for frame in by_text] == [[1, 2]] * COUNT
    assert all(frame.instances.labels.tolist() == ["a dog", "a lemon"] for frame in by_text)
    assert min(ious(clip, by_text, 1, DOG)) > 0.85 and min(ious(clip, by_text, 2, LEMON)) > 0.85
    assert [frame.seconds for frame in by_text] == [number / 24 for number in range(COUNT)]


@pytest.mark.slow
def test_the_detector_looks_at_key_frames_only(video: VideoPipeline, clip: DrawnClip, by_text: list[TrackedFrame]):
    assert [frame.number for frame in by_text if frame.is_key_frame] == [0]
    assert np.isfinite(by_text[0].instances.detector_scores).all()
    assert np.isnan(by_text[1].instances.detector_scores).all()
    often = list(with_settings(video, key_frame_every=2).track(clip, "a dog", stop=4))
    assert [frame.number for frame in often if frame.is_key_frame] == [0, 2]
    assert [frame.track_ids.tolist() for frame in often] == [[1]] * 4


def test_frames_come_one_by_one(video: VideoPipeline, clip: DrawnClip):
    """A frame is yielded before the next one is read."""
    read = []

    @dataclass
    class Watched:
        info: ClipInfo

        def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
            for frame in clip.frames(start, stop):
                read.append(frame.number)
                yield frame

    frames = video.track(Watched(clip.info), "a dog")
    next(frames)
    assert read == [0]
    frames.close()


@pytest.mark.parametrize(
    "backwards", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forwards", "backwards"]
)
def test_given_masks_are_followed(video: VideoPipeline, clip: DrawnClip, backwards: bool):
    first = COUNT - 1 if backwards else 0
    prompts = [given(clip, DOG, first, "my dog"), given(clip, LEMON, first)]
    direction = "backwards" if backwards else "forwards"
    frames = list(video.track(clip, prompts=prompts, start=first, direction=direction))
    assert [frame.number for frame in frames] == (list(range(COUNT))[::-1] if backwards else list(range(COUNT)))
    assert all(frame.instances.labels.tolist() == ["my dog", "object"] for frame in frames)
    assert frames[0].instances.rles == (clip.rles[first][DOG], clip.rles[first][LEMON])
    assert min(ious(clip, frames, 1, DOG)) > 0.85 and min(ious(clip, frames, 2, LEMON)) > 0.85
    assert [frame.is_key_frame for frame in frames] == [True] + [False] * (COUNT - 1)


@pytest.mark.slow
def test_both_directions_keep_the_ids(video: VideoPipeline, clip: DrawnClip):
    frames = list(video.track(clip, prompts=[given(clip, DOG, 2)], start=2, direction="both"))
    assert [frame.number for frame in frames] == [2, 3, 4, 5, 1, 0]
    assert min(ious(clip, frames, 1, DOG)) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param({"box": (145.0, 70.0, 215.0, 140.0)}, id="box"),
        pytest.param({"points": ((180.0, 104.0), (180.0, 84.0)), "point_labels": (1, 1)}, id="points"),
    ],
)
def test_boxes_and_points_on_a_later_frame(video: VideoPipeline, clip: DrawnClip, prompt: dict):
    prompts = [ObjectPrompt(frame=COUNT - 1, track_id=4, **prompt), given(clip, LEMON, COUNT - 2)]
    frames = list(video.track(clip, prompts=prompts, start=COUNT - 2))
    assert [frame.track_ids.tolist() for frame in frames] == [[2], [2, 4]]
    assert ious(clip, frames, 4, DOG)[1] > 0.8


@pytest.mark.slow
def test_prompts_on_later_frames_correct_a_track(video: VideoPipeline, clip: DrawnClip):
    """Points on the mask that was tracked until then, and an empty mask: the object is said to be out of sight."""
    x, y = clip.centre(2, DOG)
    points = ObjectPrompt(frame=2, track_id=1, points=((x - 15, y), (x + 15, y)), point_labels=(1, 1))
    away = ObjectPrompt(frame=3, track_id=1, rle=encode_rle(np.zeros((1, 240, 320), bool))[0])
    frames = list(video.track(clip, prompts=[given(clip, DOG), points, away], stop=5))
    assert [frame.is_key_frame for frame in frames] == [True, False, True, True, False]
    assert min(ious(clip, frames[:3], 1, DOG)) > 0.85 and len(frames[3]) == 0


@pytest.mark.slow
def test_text_beside_given_masks_makes_no_second_track(video: VideoPipeline, clip: DrawnClip):
    frames = list(video.track(clip, TEXT, prompts=[given(clip, DOG)], stop=2))
    assert [frame.track_ids.tolist() for frame in frames] == [[1, 2]] * 2
    assert frames[0].instances.labels.tolist() == ["object", "a lemon"]


@pytest.mark.slow
def test_an_interrupted_pass_goes_on(video: VideoPipeline, clip: DrawnClip, by_text: list[TrackedFrame]):
    before = {frame.number: frame for frame in by_text[:3]}
    rest = list(video.track(clip, TEXT, start=3, before=before))
    assert [frame.number for frame in rest] == [3, 4, 5]
    assert all(frame.track_ids.tolist() == [1, 2] for frame in rest)
    assert min(ious(clip, rest, 1, DOG)) > 0.85 and min(ious(clip, rest, 2, LEMON)) > 0.85


@pytest.mark.parametrize("kind", [pytest.param("mask", marks=pytest.mark.slow), "points"])
def test_a_correction_changes_its_own_track_from_its_frame_on(
    video: VideoPipeline, clip: DrawnClip, by_text: list[TrackedFrame], kind: str
):
    """Of a track that went over to the lemon in frame 2."""
    strayed = {frame.number: frame for frame in by_text}
    for number in (2, 3, 4, 5):
        strayed[number] = swapped_mask(strayed[number], clip.rles[number][LEMON])
    point = {"points": (clip.centre(3, DOG),), "point_labels": (1,)}
    prompt = ObjectPrompt(frame=3, track_id=1, **({"rle": clip.rles[3][DOG]} if kind == "mask" else point))
    changed = list(video.correct(clip, {**strayed, 3: by_text[3]} if kind == "points" else strayed, [prompt]))
    assert [frame.number for frame in changed] == [3, 4, 5]
    assert min(ious(clip, changed, 1, DOG)) > 0.8
    for frame in changed:
        others, before = (one[one.track_ids != 1] for one in (frame, strayed[frame.number]))
        assert others.to_dict()["instances"] == before.to_dict()["instances"]


@pytest.mark.slow
def test_a_thing_that_comes_later_is_found_at_the_next_key_frame(video: VideoPipeline):
    lemon = [None, None, *line((220, 100), (225, 110), 4)]
    clip = drawn_clip({"dog": line((80, 120), (90, 120), 6), "lemon": lemon})
    frames = list(with_settings(video, key_frame_every=3).track(clip, TEXT))
    assert [frame.track_ids.tolist() for frame in frames] == [[1]] * 3 + [[1, 2]] * 3


@pytest.mark.slow
def test_an_absent_thing_has_no_mask(video: VideoPipeline):
    """The dog leaves and comes back, and is the same track."""
    path = [*line((120, 120), (128, 120), 3), None, None, *line((132, 120), (140, 120), 3)]
    clip = drawn_clip({"dog": path, "lemon": line((260, 60), (260, 70), 8)})
    frames = list(with_settings(video, key_frame_every=5).track(clip, TEXT))
    assert all(2 in frame.track_ids for frame in frames)
    in_sight = [1 in frame.track_ids for frame in frames]
    assert in_sight[:3] == [True] * 3 and not any(in_sight[3:5]) and in_sight[5:] == [True] * 3
    assert {int(id) for frame in frames for id in frame.track_ids} == {1, 2}


@pytest.mark.slow
def test_a_scene_cut_hides_tracks_until_they_are_recognised(video: VideoPipeline, clip: DrawnClip):
    """After a cut the memory of places is worth nothing: only the detector says what is there."""
    other = drawn_clip({"lemon": line((90, 80), (100, 80), 3)}, seed=11)
    cut = replace(
        clip,
        info=ClipInfo("cut", 24.0, 6),
        images=(*clip.images[:3], *other.images),
        rles=(*clip.rles[:3], *((rles[0], rles[0]) for rles in other.rles)),
    )
    frames = list(with_settings(video, scene_cut_threshold=0.05).track(cut, TEXT))
    assert frames[3].is_key_frame
    assert [frame.instances.labels.tolist() for frame in frames[3:]] == [["a lemon"]] * 3


@pytest.mark.slow
def test_propagation_follows_text_prompts_and_corrections(video: VideoPipeline, clip: DrawnClip):
    assert isinstance(video.pipeline.segmenter, Predictor)
    without_memory = replace(video, segmenter=PropagationTracker(video.pipeline.segmenter))
    frames = list(without_memory.track(clip, TEXT))
    assert [frame.track_ids.tolist() for frame in frames] == [[1, 2]] * COUNT
    assert min(ious(clip, frames, 1, DOG)) > 0.85 and min(ious(clip, frames, 2, LEMON)) > 0.85
    both = list(without_memory.track(clip, prompts=[given(clip, DOG, 2)], start=2, direction="both"))
    assert [frame.number for frame in both] == [2, 3, 4, 5, 1, 0]
    assert min(ious(clip, both, 1, DOG)) > 0.85
    strayed = {frame.number: frame for frame in frames}
    for number in (3, 4, 5):
        strayed[number] = swapped_mask(strayed[number], clip.rles[number][LEMON])
    prompt = ObjectPrompt(frame=3, track_id=1, rle=clip.rles[3][DOG])
    assert min(ious(clip, without_memory.correct(clip, strayed, [prompt]), 1, DOG)) > 0.85


def test_a_text_that_is_never_seen_gives_empty_frames(video: VideoPipeline, clip: DrawnClip):
    frames = list(video.track(clip, "a giraffe", stop=2))
    assert [len(frame) for frame in frames] == [0, 0]


def test_a_pass_over_nothing(video: VideoPipeline, clip: DrawnClip):
    assert list(video.track(clip, TEXT, start=COUNT)) == []


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        pytest.param({}, PromptError, "text, or prompts", id="nothing to follow"),
        pytest.param({"text": " . "}, PromptError, "phrase", id="no phrase"),
        pytest.param(
            {"prompts": [ObjectPrompt(frame=9, track_id=1, rle={"size": [4, 4], "counts": [16]})]},
            PromptError,
            "object 1 in frame 9.*4",
            id="mask of another size",
        ),
    ],
)
def test_wrong_arguments(video: VideoPipeline, clip: DrawnClip, arguments: dict, error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        next(video.track(clip, **arguments))


def test_a_pass_that_goes_on_has_one_direction(video: VideoPipeline, clip: DrawnClip, by_text: list[TrackedFrame]):
    with pytest.raises(PromptError, match="got both"):
        next(video.track(clip, TEXT, direction="both", before={0: by_text[0]}))


def test_a_damaged_clip_gives_its_whole_frames(video: VideoPipeline, clip: DrawnClip):
    @dataclass
    class Damaged:
        info: ClipInfo

        def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
            yield from clip.frames(start, 2)
            raise VideoError("frame 2 cannot be decoded")

    frames = video.track(Damaged(clip.info), "a dog")
    assert [next(frames).number, next(frames).number] == [0, 1]
    with pytest.raises(VideoError, match="frame 2"):
        next(frames)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        pytest.param([], "one object, got 0", id="none"),
        pytest.param(
            [ObjectPrompt(frame=0, track_id=id, points=((1.0, 1.0),), point_labels=(1,)) for id in (1, 2)],
            "one object, got 2",
            id="two objects",
        ),
        pytest.param(
            [ObjectPrompt(frame=99, track_id=1, points=((1.0, 1.0),), point_labels=(1,))],
            "a tracked frame, got frame 99",
            id="beyond the end",
        ),
    ],
)
def test_wrong_corrections(video: VideoPipeline, clip: DrawnClip, by_text, prompts: list[ObjectPrompt], says: str):
    with pytest.raises(PromptError, match=says):
        next(video.correct(clip, {frame.number: frame for frame in by_text}, prompts))


def test_masks_in_results_are_never_empty(by_text: list[TrackedFrame]):
    assert all((rle_area(frame.instances.rles) > 0).all() for frame in by_text)
