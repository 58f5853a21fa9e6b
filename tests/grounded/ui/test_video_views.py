"""What the Video tab shows: frames, tables and sentences."""

from dataclasses import replace

import numpy as np
import pytest

from grounded.ui.actions import Actions
from grounded.ui.tracking import ClipActions, ClipState
from grounded.ui.video_views import (
    clip_status,
    frame_image,
    screen_to_frame,
    seen_frames,
    track_choices,
    track_table,
)
from grounded.video.output.annotate import draw_tracks


def pixels(state: ClipState, number: int, track: int | None = None) -> np.ndarray:
    image = frame_image(state, number, track)
    assert image is not None and image.size == (64, 48)
    return np.asarray(image)


def test_a_frame_has_its_tracks_over_it(crossed: ClipState):
    shown = pixels(crossed, 2)
    expected = draw_tracks(crossed.require_clip().frame(2).image, crossed.frames[2])
    np.testing.assert_array_equal(shown, np.asarray(expected))
    plain = replace(crossed, frames={})
    np.testing.assert_array_equal(pixels(plain, 2), np.asarray(crossed.require_clip().frame(2).image))
    assert frame_image(ClipState(), 0) is None


def test_a_picked_track_is_clear_and_the_others_faint(crossed: ClipState):
    plain, band = np.asarray(crossed.require_clip().frame(2).image).astype(int), (slice(17, 19), slice(45, 60))

    def change(shown: np.ndarray) -> float:
        return float(np.abs(shown - plain)[band].mean())

    assert change(pixels(crossed, 2, 1)) < change(pixels(crossed, 2)) <= change(pixels(crossed, 2, 2))


def test_a_correction_is_seen_before_it_is_followed(actions: Actions, crossed: ClipState):
    corrected = ClipActions(actions).hide(crossed, 2, 2)
    assert (pixels(corrected, 2, 2) != pixels(crossed, 2, 2)).any()
    np.testing.assert_array_equal(pixels(corrected, 3, 2), pixels(crossed, 3, 2))  # of another frame
    np.testing.assert_array_equal(pixels(corrected, 2, 1), pixels(crossed, 2, 1))  # of another track


def test_presses_are_in_pixels_of_the_frame(crossed: ClipState):
    assert screen_to_frame(crossed, 10.0, 20.0) == (10.5, 20.5)
    large = replace(crossed, clip=replace(crossed.require_clip(), size=(2048, 1024)))
    assert screen_to_frame(large, 10.0, 20.0) == (21.0, 41.0)


def test_the_table_has_the_tracks_in_sight(crossed: ClipState):
    assert track_table(crossed, 2) == [
        [1, "a dog", "0.900", "0.900", 100, "0–5"],
        [2, "a cat", "0.900", "0.900", 640, "2–3"],
    ]
    assert [row[0] for row in track_table(crossed, 0)] == [row[0] for row in track_table(crossed, 5)] == [1]
    assert track_table(ClipState(), 0) == []
    assert seen_frames(crossed)[2] == [2, 3] and track_choices(crossed) == [("a dog 1", 1), ("a cat 2", 2)]


def test_gaps_are_counted(crossed: ClipState):
    frames = {number: frame if number != 3 else frame[:0] for number, frame in crossed.frames.items()}
    assert track_table(replace(crossed, frames=frames), 0)[0][-1] == "0–5, 5 of 6"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        pytest.param({}, ["2 tracks in 6 frames: a dog (1), a cat (1). Never seen: “a cow”."], id="done"),
        pytest.param(
            {"is_complete": False}, [..., "Paused: look at the frames, correct tracks, or go on."], id="paused"
        ),
        pytest.param({"message": "Stopped."}, [..., "Stopped."], id="message"),
        pytest.param(
            {"frames": {}, "query": None},
            ["Clip of 6 frames, 64 × 48 pixels, 25 per second. Say what to follow, and press Track."],
            id="opened",
        ),
    ],
)
def test_status(crossed: ClipState, changes: dict, lines: list):
    told = clip_status(replace(crossed, **changes))
    assert len(told) == len(lines) and all(line in (..., text) for line, text in zip(lines, told, strict=True))


def test_a_text_that_was_never_seen_is_told(crossed: ClipState):
    empty = replace(crossed, frames={number: frame[:0] for number, frame in crossed.frames.items()})
    assert clip_status(empty) == [
        "Nothing was seen in 6 frames: no “a dog”, “a cat”, “a cow”.",
        "Try other words, or a lower box threshold in the settings.",
    ]


def test_status_of_a_correction_and_of_nothing(actions: Actions, crossed: ClipState):
    clips = ClipActions(actions)
    half, _ = clips.press(crossed, 2, 1, "new by box", 3.0, 4.0)
    assert clip_status(half)[-1] == "Correcting a dog 1, frame 2: now press on the opposite corner of the box."
    assert "press more, or Follow" in clip_status(clips.hide(crossed, 2, 1))[-1]
    assert "Upload or record a clip" in clip_status(ClipState())[0]
