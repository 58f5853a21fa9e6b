"""The video pipeline: text, masks or clicks in, a track of every object out. The main entry for clips from Python."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeAlias, get_args

from grounded.config import PipelineConfig, VideoConfig
from grounded.data.phrases import parse
from grounded.data.protocols import VideoSegmenter
from grounded.errors import PromptError
from grounded.models import build
from grounded.pipeline import Pipeline, Text
from grounded.video.clip import Clip
from grounded.video.correction import follow_again
from grounded.video.frames import ClipLike, frames_backwards, open_clip
from grounded.video.prompts import ObjectPrompt
from grounded.video.run import ClipRun, FirstFrames
from grounded.video.tracks import TrackedFrame
from segany.precision import own_precision

Direction: TypeAlias = Literal["forwards", "backwards", "both"]


@dataclass(frozen=True)
class VideoPipeline:
    """Text or masks in, a track of every object out. Holds models and settings; nothing is kept between clips."""

    pipeline: Pipeline
    segmenter: VideoSegmenter

    @classmethod
    @own_precision()
    def from_config(
        cls, source: str | PathLike[str] | PipelineConfig | None = None, **overrides: Any
    ) -> "VideoPipeline":
        """Load the models that a configuration names: those of `Pipeline.from_config`, CLIP, and the video segmenter.

        Raises:
            ConfigError: the configuration is wrong, or its parts do not fit together.
            CheckpointError: weights are missing or do not fit.
        """
        from grounded.models import trackers

        # CLIP tells whether a lost object has come back.
        pipeline = Pipeline.from_config(source, load_all=True, **overrides)
        config = pipeline.config
        return cls(pipeline, trackers.build(config.video, build.pick_device(config.device), pipeline.segmenter))

    @property
    def config(self) -> VideoConfig:
        """The settings of following objects."""
        return self.pipeline.config.video

    def track(
        self,
        clip: ClipLike | Clip,
        text: Text | None = None,
        *,
        prompts: Sequence[ObjectPrompt] = (),
        start: int = 0,
        stop: int | None = None,
        direction: Direction = "forwards",
        before: Mapping[int, TrackedFrame] | None = None,
        box_threshold: float | None = None,
    ) -> Iterator[TrackedFrame]:
        """Yield the objects of one frame after the other, as soon as they are known.

        Args:
            clip: whatever `open_clip` takes.
            text: what to look for on key frames; None: only follow what the prompts name.
            prompts: masks, boxes and points on any frames: new objects begin there, known ones are corrected.
            start: number of the first frame.
            stop: number of the frame before which to stop, or with "backwards" of the last one; None: to the end.
            direction: "forwards"; "backwards", from `start` down to the beginning; or "both": forwards, and then
                from the frame before `start` down to the beginning, with what is known of the objects by then.
            before: frames by number of an earlier pass that was interrupted, in the order of that pass. Its objects
                keep their ids, and their memory is made again from the masks in their last frames.
            box_threshold: as in `Pipeline.segment`.

        Raises:
            VideoError: the clip cannot be read; all frames before the damage have been yielded.
            PromptError: there is neither text nor a prompt, the text holds no phrase, a mask does not fit, or there is
                no such direction.
        """
        if text is None and not prompts:
            raise PromptError("a clip needs a text, or prompts for the objects to follow, got neither")
        if direction not in get_args(Direction):
            raise PromptError(f"a direction must be one of {', '.join(get_args(Direction))}, got {direction!r}")
        if direction == "both" and before:
            raise PromptError("a pass that goes on has one direction, got both")
        opened = clip if isinstance(clip, Clip) else open_clip(clip)
        if opened.info.is_live and direction != "forwards":
            raise PromptError(f"a camera can be followed forwards alone, got {direction}")
        phrases = () if text is None else parse(text)
        run = ClipRun(self.pipeline, self.segmenter, phrases, tuple(prompts), box_threshold)
        backwards = direction == "backwards"
        frames = frames_backwards(opened, start, stop or 0) if backwards else opened.frames(start, stop)
        firsts = FirstFrames()
        for frame in frames:
            if before and run.tracking is None:  # and not for a pass that is at its end already
                run.restore(opened, before)
            tracked = run.step(frame)
            if direction == "both":
                firsts.add(tracked)
            yield tracked
        if direction == "both" and start > 0:
            known = firsts.backwards()
            yield from self.track(
                opened,
                text,
                prompts=prompts,
                start=start - 1,
                direction="backwards",
                before=known,
                box_threshold=box_threshold,
            )

    def correct(
        self,
        clip: ClipLike | Clip,
        frames: Mapping[int, TrackedFrame],
        prompts: Sequence[ObjectPrompt],
        stop: int | None = None,
    ) -> Iterator[TrackedFrame]:
        """Follow one object again from the first of its corrections on; the others are left as they are.

        Args:
            clip: whatever `open_clip` takes.
            frames: the tracked frames by number, best all of them: what the object was like is taken from the frame
                where it was first seen, and from those just before the first correction.
            prompts: of one object, on one frame or several.
            stop: number of the frame before which to stop; None: at the last of `frames`.

        Yields:
            the frames from the first correction on, with the new masks of this object.

        Raises:
            PromptError: there is no prompt, they are for several objects, the first is not on one of `frames`, or a
                mask does not fit.
        """
        opened = clip if isinstance(clip, Clip) else open_clip(clip)
        yield from follow_again(self.pipeline, self.segmenter, opened, frames, prompts, stop)
