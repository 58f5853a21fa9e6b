"""Following objects through a clip, correcting them, and breaking it off."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ConfigError, PromptError, VideoError
from grounded.query import QuerySettings
from grounded.ui.actions import Actions
from grounded.ui.tracking import ClipActions, ClipState, Step
from segany.utils.rle import decode_rle
from tests.grounded.ui.conftest import PLACES
from tests.grounded.video.clips import HEIGHT, WIDTH, write_clip

COUNT = len(PLACES)
QUICK = QuerySettings()


@pytest.fixture(scope="module")
def clips(actions: Actions) -> ClipActions:
    return ClipActions(actions)


@pytest.fixture(scope="module")
def done(walked: list[Step]) -> ClipState:
    return walked[-1].state


def mask(state: ClipState, number: int, track: int = 1) -> np.ndarray:
    frame = state.frames[number]
    (rle,) = frame[frame.track_ids == track].instances.rles
    return decode_rle([rle])[0].numpy()


class TestTrack:
    def test_every_frame_is_a_step(self, walked: list[Step]):
        assert [step.frame and step.frame.number for step in walked] == [None, *range(COUNT), None]
        assert [step.state.activity for step in walked] == [*["tracking"] * (COUNT + 1), "none"]
        assert all(step.image.size == (320, 240) for step in walked if step.image is not None)

    def test_the_dog_keeps_its_id(self, done: ClipState):
        assert done.labels == {1: "a dog"} and done.is_complete and not done.can_go_on
        assert (done.name, list(done.frames)) == ("my walk", list(range(COUNT)))
        for number, (x, y) in enumerate(PLACES):
            assert mask(done, number)[round(y), round(x)]

    def test_a_pause_loses_nothing_and_can_go_on(self, clips: ClipActions, walk: Path):
        state = clips.open(walk, "walk.mp4")
        steps = []
        for step in clips.track(state, "a dog", QUICK):
            steps.append(step)
            if step.frame is not None:
                clips.pause(step.state)
        paused = steps[-1].state
        assert len(steps) == 3 and list(paused.frames) == [0] and paused.can_go_on
        for step in clips.go_on(paused):
            if step.frame is not None:
                clips.stop(step.state)
        stopped = step.state
        assert list(stopped.frames) == [0, 1] and stopped.labels == {1: "a dog"}
        assert stopped.message == "Stopped." and not stopped.can_go_on
        assert [step.frame for step in clips.go_on(stopped)] == [None]
        assert list(paused.frames) == [0]  # a state is a value

    def test_what_is_paused_can_be_stopped(self, clips: ClipActions, crossed: ClipState):
        paused = replace(crossed, is_complete=False)
        assert paused.can_go_on and not clips.stop(paused).can_go_on
        assert clips.stop(crossed) is crossed

    def test_when_the_time_is_up_the_frames_before_are_kept(self, actions: Actions, walk: Path):
        hasty = ClipActions(replace(actions, limits=replace(actions.limits, seconds=0.0)))
        *_, last = hasty.track(hasty.open(walk, "walk.mp4"), "a dog", QUICK)
        assert list(last.state.frames) == [0] and last.state.can_go_on
        assert "time limit of 0 s was reached after frame 0" in last.state.message

    def test_of_a_cut_clip_the_frames_before_are_kept(self, clips: ClipActions, tmp_path: Path):
        path = write_clip(tmp_path / "a.mkv", 12, options={"g": "1"})
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        *_, last = clips.track(clips.open(path, "a.mkv"), "a dog", QUICK)
        assert 0 < len(last.state.frames) < 12 and last.state.is_complete
        assert last.state.message.startswith("The clip ends early: ")

    @pytest.mark.parametrize("text", ["", " . "], ids=repr)
    def test_without_a_phrase(self, clips: ClipActions, crossed: ClipState, text: str):
        with pytest.raises(PromptError, match="no phrase"):
            next(clips.track(crossed, text, QUICK))

    def test_without_a_clip_or_a_query_or_a_model(self, actions: Actions, clips: ClipActions, crossed: ClipState):
        with pytest.raises(PromptError, match="there is no clip yet"):
            next(clips.track(ClipState(), "a dog", QUICK))
        with pytest.raises(PromptError, match="nothing is followed yet"):
            next(clips.go_on(replace(crossed, query=None)))
        without = ClipActions(replace(actions, video=None, video_missing="No model."))
        with pytest.raises(ConfigError, match="No model"):
            next(without.track(crossed, "a dog", QUICK))

    def test_the_box_threshold_of_the_user_counts(self, clips: ClipActions, walk: Path):
        steps = clips.track(clips.open(walk, "walk.mp4"), "a dog", QuerySettings(box_threshold=1.0))
        next(steps)
        assert len(next(steps).frame) == 0
        steps.close()

    def test_not_even_a_first_frame(self, clips: ClipActions, crossed: ClipState, tmp_path: Path):
        Path(tmp_path / "small.mp4").write_bytes(b"gone")
        with pytest.raises(VideoError):
            list(clips.track(crossed, "a dog", QUICK))


class TestCorrect:
    @pytest.fixture(scope="class")
    @staticmethod
    def corrected(clips: ClipActions, done: ClipState) -> ClipState:
        """The dog without its lower right part, in frame 2."""
        x, y = PLACES[2]
        return clips.press(done, 2, 1, "remove point", x + 14, y + 12)[0]

    def test_a_press_selects(self, clips: ClipActions, done: ClipState, crossed: ClipState):
        assert clips.press(done, 2, None, "select", *PLACES[2])[1] == 1
        assert clips.press(done, 2, 1, "select", 5.0, 5.0)[1] is None
        assert clips.press(crossed, 2, None, "select", 60.0, 18.0)[1] == 2

    def test_points_change_the_mask_of_that_frame(self, clips: ClipActions, corrected: ClipState, done: ClipState):
        assert corrected.correction is not None and corrected.correction.rle is not None
        new = decode_rle([corrected.correction.rle])[0].numpy()
        assert new.sum() > 0 and (new != mask(done, 2)).any()
        assert corrected.frames is done.frames
        assert clips.undo(corrected).correction.rle is None

    def test_only_that_track_is_followed_again_from_there_on(self, clips: ClipActions, corrected: ClipState):
        steps = list(clips.follow(corrected))
        assert [step.frame and step.frame.number for step in steps] == [None, 2, 3, None]
        state = steps[-1].state
        assert state.correction is None and state.activity == "none" and list(state.frames) == list(range(COUNT))
        np.testing.assert_array_equal(mask(state, 2), decode_rle([corrected.correction.rle])[0].numpy())
        assert [state.frames[number] is corrected.frames[number] for number in range(COUNT)] == [
            True,
            True,
            False,
            False,
        ]

    @pytest.mark.slow
    def test_the_other_tracks_stay(self, clips: ClipActions, crossed: ClipState):
        hidden = clips.hide(crossed, 3, 2)
        state = list(clips.follow(hidden))[-1].state
        assert [2 in state.frames[number].in_sight.track_ids for number in range(6)] == [0, 0, 1, 0, 0, 0]
        for number in range(6):
            np.testing.assert_array_equal(mask(state, number), mask(crossed, number))

    def test_two_presses_draw_a_box(self, clips: ClipActions, done: ClipState):
        (x, y), tool = PLACES[3], "new by box"
        half, picked = clips.press(done, 3, 1, tool, x + 40, y + 36)
        assert picked == 1 and half.correction.rle is None and half.correction.image.edits.corner is not None
        whole, _ = clips.press(half, 3, 1, tool, x - 40, y - 36)
        assert decode_rle([whole.correction.rle])[0].numpy()[round(y), round(x)]

    def test_a_track_that_is_out_of_sight_begins_with_a_point(self, clips: ClipActions, crossed: ClipState):
        with pytest.raises(PromptError, match=r"a cat 2 has no mask in this frame: press on it with \+ first"):
            clips.press(crossed, 0, 2, "remove point", 20.0, 20.0)
        state, _ = clips.press(crossed, 0, 2, "add point", 5.0, 10.0)
        assert state.correction.rle is not None
        with pytest.raises(PromptError, match="no mask in this frame already"):
            clips.hide(crossed, 0, 2)

    @pytest.mark.slow
    def test_a_user_breaks_it_off(self, clips: ClipActions, corrected: ClipState):
        for step in clips.follow(corrected):
            if step.frame is not None:
                clips.pause(step.state)
        assert step.state.message == "Broken off: later frames are as they were."
        assert step.state.frames[3] is corrected.frames[3] and step.state.frames[2] is not corrected.frames[2]

    @pytest.mark.parametrize(
        ("number", "track", "x", "message"),
        [
            pytest.param(2, None, 5.0, "no track is picked", id="no track"),
            pytest.param(2, 9, 5.0, "no track is picked", id="no such track"),
            pytest.param(6, 1, 5.0, "must be one of 0 to 5, got 6", id="no such frame"),
            pytest.param(2, 1, WIDTH + 1.0, "must lie", id="outside"),
        ],
    )
    def test_presses_that_cannot_be(
        self, clips: ClipActions, crossed: ClipState, number: int, track: int | None, x: float, message: str
    ):
        with pytest.raises(PromptError, match=message):
            clips.press(crossed, number, track, "add point", x, HEIGHT / 2)

    def test_nothing_to_correct(self, clips: ClipActions, crossed: ClipState):
        with pytest.raises(PromptError, match="nothing is corrected yet"):
            next(clips.follow(crossed))
        assert clips.undo(crossed) is crossed
        with pytest.raises(PromptError, match="nothing is followed yet"):
            clips.press(replace(crossed, frames={}), 0, 1, "select", 1.0, 1.0)
