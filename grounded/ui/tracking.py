"""What the app does with a clip, without any layout: each action takes a state, and returns or yields the next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import ConfigError, PromptError, VideoError
from grounded.query import QuerySettings
from grounded.stages.cache import StageCache
from grounded.ui.actions import Actions, Tool, instance_at
from grounded.ui.clips import LimitedClip, closing_iterator, open_clip_within
from grounded.ui.progress import Deadline, TimeLimitError
from grounded.ui.state import AppState, EditState
from grounded.video.output.write import with_images
from grounded.video.pipeline import VideoPipeline
from grounded.video.prompts import ObjectPrompt
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import RLE, check_rle

Activity = Literal["none", "tracking", "correcting"]
_STOPPED: dict[str, Any] = {"is_complete": True, "message": "Stopped."}


@dataclass(frozen=True, eq=False)
class Correction:
    """The correction of one track on one frame that is under way."""

    frame: int
    track_id: int
    image: AppState  # the frame as an image; the selected instance is the track's, with its clicks so far

    @property
    def rle(self) -> RLE | None:
        """The mask as it was corrected; None before the first click."""
        mask = self.mask
        return None if mask is None or not self.image.history else mask.rles[0]

    @property
    def mask(self) -> Instances | None:
        """The track's instance in the frame as it is now; None where the track has no mask there."""
        edits = self.image.edits
        return None if edits is None or edits.selected is None else edits.instances[edits.selected]


class Interrupt:
    """How a user breaks off what is going on: looked at after each frame, so that no frame is half done or lost."""

    def __init__(self) -> None:
        self.wish: Literal["none", "pause", "stop"] = "none"


@dataclass(frozen=True, eq=False)
class ClipState:
    """One clip of one user, as far as its objects were followed. Events replace the state.

    `interrupt` alone is changed in place: it reaches the action that is going on, which each has one of its own.
    """

    clip: LimitedClip | None = None
    name: str = "clip"  # for the names of downloads
    query: tuple[str, QuerySettings] | None = None  # what is followed
    frames: Mapping[int, TrackedFrame] = field(default_factory=dict)  # by number, from the first on
    activity: Activity = "none"  # what is going on
    is_complete: bool = False  # no frames are left: the clip has ended, or is damaged there, or the user stopped
    message: str = ""  # why not all frames are done, where that is not plain
    correction: Correction | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)

    def __deepcopy__(self, memo: object) -> "ClipState":
        return self  # Gradio copies what it keeps for a user; this is a value

    def require_clip(self) -> LimitedClip:
        """The clip.

        Raises:
            PromptError: there is none yet.
        """
        if self.clip is None:
            raise PromptError("there is no clip yet: upload or record one")
        return self.clip

    def require_frame(self, number: int) -> TrackedFrame:
        """A frame in which objects were followed.

        Raises:
            PromptError: that frame was not reached.
        """
        if not self.frames:
            raise PromptError("nothing is followed yet: say what, and press Track")
        if number not in self.frames:
            raise PromptError(f"the frame must be one of 0 to {max(self.frames)}, got {number}")
        return self.frames[number]

    @property
    def labels(self) -> dict[int, str]:
        """The phrase of each track, by its id."""
        found: dict[int, str] = {}
        for frame in self.frames.values():
            found |= zip(frame.track_ids.tolist(), frame.instances.labels.tolist(), strict=True)
        return dict(sorted(found.items()))

    def correction_of(self, number: int, track_id: int | None) -> Correction | None:
        """The correction that is under way, if it is of this track on this frame."""
        one = self.correction
        return one if one is not None and (one.frame, one.track_id) == (number, track_id) else None

    @property
    def can_go_on(self) -> bool:
        """Whether more frames could be done."""
        return self.query is not None and self.activity == "none" and not self.is_complete

    def with_frame(self, frame: TrackedFrame) -> "ClipState":
        return replace(self, frames={**self.frames, frame.number: frame})


class Step(NamedTuple):
    """A state in the course of an action, and the frame that was just done; none at the beginning and the end."""

    state: ClipState
    frame: TrackedFrame | None = None
    image: Image.Image | None = None


@dataclass(frozen=True)
class ClipActions:
    """One method for each action of a user on a clip."""

    actions: Actions

    def open(self, path: Path, name: str) -> ClipState:
        """A new state with a clip, a file that was received under this name.

        Raises:
            VideoError: it cannot be read as a video, or holds no frame.
        """
        return ClipState(open_clip_within(path, name, self.actions.limits), Path(name).stem or "clip")

    def track(self, state: ClipState, text: str, settings: QuerySettings) -> Iterator[Step]:
        """Follow what a text names, from the first frame on; what was followed before is dropped.

        Yields:
            the state at the beginning, after each frame and at the end. Where the user breaks it off, the time is up,
            or a frame cannot be read, that is the end; its message says so, and all frames before are in it.

        Raises:
            VideoError: not even the first frame can be read.
            PromptError: there is no clip, or no phrase in the text.
            ConfigError: the settings do not fit one another, or these models cannot follow objects.
        """
        state.require_clip()
        parse(text)
        yield from self._run(replace(state, query=(text, settings), frames={}, is_complete=False))

    def go_on(self, state: ClipState) -> Iterator[Step]:
        """Follow the same objects further, as `track` does, in the frames after those that are done.

        Raises:
            PromptError: nothing was followed yet.
        """
        state.require_clip()
        if state.query is None:
            raise PromptError("nothing is followed yet: say what, and press Track")
        if state.is_complete:
            yield Step(state)
        else:
            yield from self._run(state)

    def _run(self, state: ClipState) -> Iterator[Step]:
        video, deadline, clip = self._video(), Deadline(self.actions.limits.seconds), state.require_clip()
        text, settings = state.query or ("", QuerySettings())
        pipeline, threshold = self.actions.with_settings(settings)
        interrupt = Interrupt()
        state = replace(state, activity="tracking", message="", correction=None, interrupt=interrupt)
        yield Step(state)
        frames = replace(video, pipeline=pipeline).track(
            clip,
            text,
            start=max(state.frames, default=-1) + 1,
            before=state.frames,
            box_threshold=threshold,
        )
        end: dict[str, Any] = {"is_complete": True}
        try:
            with closing_iterator(frames), closing_iterator(with_images(clip, frames)) as pairs:
                for frame, image in pairs:
                    state = state.with_frame(frame)
                    yield Step(state, frame, image)
                    if interrupt.wish != "none":
                        end = _STOPPED if interrupt.wish == "stop" else {}
                        break
                    deadline.check()
        except TimeLimitError:
            end = {"message": f"The time limit of {deadline.limit:g} s was reached after frame {max(state.frames)}."}
        except VideoError as error:
            if not state.frames:
                raise
            end = {"is_complete": True, "message": f"The clip ends early: {error}."}
        yield Step(replace(state, activity="none", **end))

    def pause(self, state: ClipState) -> None:
        """End what is going on after the frame that is being done; the action yields the state then."""
        state.interrupt.wish = "pause"

    def stop(self, state: ClipState) -> ClipState:
        """As `pause`, and no frames are followed any more: `go_on` does nothing."""
        state.interrupt.wish = "stop"
        return replace(state, **_STOPPED) if state.can_go_on else state

    def press(
        self, state: ClipState, number: int, track_id: int | None, tool: Tool, x: float, y: float
    ) -> tuple[ClipState, int | None]:
        """A press on a frame at (x, y), in its pixels.

        Args:
            state: with that frame.
            number: of the frame.
            track_id: of the track that is corrected; None for none.
            tool: "select" picks a track; "add point", "remove point" and "new by box" correct the mask of the track in
                this frame. Two presses draw a box.
            x: in pixels.
            y: in pixels.

        Returns:
            the next state, and which track is picked.

        Raises:
            PromptError: no track is picked, the frame was not reached, or the point lies outside of it.
        """
        frame = state.require_frame(number)
        if tool == "select":
            row = instance_at(frame.instances, x, y)
            return state, None if row is None else int(frame.track_ids[row])
        correction = state.correction_of(number, track_id) or self._begin_correction(state, number, track_id)
        image, label = correction.image, state.labels[correction.track_id]
        if tool == "new by box":
            image = self.actions.press(image, tool, x, y, label)
        elif image.edits is not None and image.edits.selected is not None:
            image = self.actions.press(image, tool, x, y)
        elif tool == "add point":  # the track is not in sight here
            image = self.actions.press(image, "new by click", x, y, label)
        else:
            raise PromptError(f"{label} {correction.track_id} has no mask in this frame: press on it with + first")
        return replace(state, correction=replace(correction, image=image)), track_id

    def _begin_correction(self, state: ClipState, number: int, track_id: int | None) -> Correction:
        frame = state.require_frame(number)
        if track_id is None or track_id not in state.labels:
            raise PromptError("no track is picked: choose the tool Select and press on one, or pick it in the list")
        rows = [row for row, name in enumerate(frame.track_ids.tolist()) if name == track_id]
        return Correction(
            number,
            track_id,
            AppState(
                image=SourceImage(state.require_clip().frame(number).image),
                cache=StageCache(),
                edits=EditState(frame.instances, selected=rows[0] if rows else None),
            ),
        )

    def undo(self, state: ClipState) -> ClipState:
        """Take the last click of the correction back. Without one nothing changes."""
        if state.correction is None:
            return state
        image = self.actions.undo(state.correction.image)
        return replace(state, correction=replace(state.correction, image=image))

    def hide(self, state: ClipState, number: int, track_id: int | None) -> ClipState:
        """Say that a track is not in sight in a frame.

        Raises:
            PromptError: no track is picked, or the frame was not reached.
        """
        begun = self._begin_correction(state, number, track_id)
        size = state.require_frame(number).instances.image_size
        empty = check_rle({"size": list(size), "counts": [size[0] * size[1]]})
        edits = begun.image.edits
        assert edits is not None
        if edits.selected is None:
            raise PromptError(f"{state.labels[begun.track_id]} {begun.track_id} has no mask in this frame already")
        rles = (*edits.instances.rles[: edits.selected], empty, *edits.instances.rles[edits.selected + 1 :])
        image = begun.image.with_step(replace(edits, instances=replace(edits.instances, rles=rles)))
        return replace(state, correction=replace(begun, image=image))

    def follow(self, state: ClipState) -> Iterator[Step]:
        """Follow the corrected track again, from the frame of the correction on; the other tracks stay as they are.

        Yields:
            the state at the beginning, after each frame, and at the end, without the correction. Where the user breaks
            it off, or the time is up, later frames are as they were.

        Raises:
            PromptError: nothing was corrected.
            VideoError: a frame cannot be read.
        """
        correction = state.correction
        if correction is None or correction.rle is None:
            raise PromptError("nothing is corrected yet: pick a track, and press where its mask is wrong")
        deadline, clip, last = Deadline(self.actions.limits.seconds), state.require_clip(), max(state.frames)
        prompt = ObjectPrompt(frame=correction.frame, track_id=correction.track_id, rle=correction.rle)
        frames = self._video().correct(clip, state.frames, [prompt])
        state, message = replace(state, activity="correcting", message=""), ""
        yield Step(state)
        try:
            with closing_iterator(frames), closing_iterator(with_images(clip, frames)) as pairs:
                for frame, image in pairs:
                    state = state.with_frame(frame)
                    yield Step(state, frame, image)
                    if frame.number == last:  # behind it the clip may be damaged
                        break
                    if state.interrupt.wish != "none":
                        message = "Broken off: later frames are as they were."
                        break
                    deadline.check()
        except TimeLimitError:
            message = f"The time limit of {deadline.limit:g} s was reached: later frames are as they were."
        yield Step(replace(state, activity="none", correction=None, message=message))

    def _video(self) -> VideoPipeline:
        if self.actions.video is None:
            raise ConfigError(self.actions.video_missing.removesuffix(".") or "these models cannot follow objects")
        return self.actions.video
