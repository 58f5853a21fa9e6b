"""The video pipeline: text, masks or clicks in, a track of every object out. The main entry for clips from Python."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from grounded.config import PipelineConfig, VideoConfig
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.data.protocols import TrackedMask, Tracking, VideoSegmenter
from grounded.errors import PromptError
from grounded.models import build
from grounded.pipeline import Pipeline, Text
from grounded.video.clip import Clip
from grounded.video.frames import ClipLike, frames_backwards, open_clip
from grounded.video.prompts import ObjectPrompt
from grounded.video.run import ClipRun, mask_of_prompt
from grounded.video.tracks import TrackedFrame
from segany.precision import own_precision
from segany.utils.rle import RLE, rle_area


@dataclass(frozen=True)
class VideoPipeline:
    """Text or masks in, a track of every object out. Holds models and settings; nothing is kept between clips."""

    pipeline: Pipeline
    segmenter: VideoSegmenter

    @classmethod
    @own_precision()
    def from_config(cls, source: str | PathLike[str] | PipelineConfig = "tiny", **overrides: Any) -> "VideoPipeline":
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
        backwards: bool = False,
        before: Mapping[int, TrackedFrame] | None = None,
    ) -> Iterator[TrackedFrame]:
        """Yield the objects of one frame after the other, as soon as they are known.

        Args:
            clip: whatever `open_clip` takes.
            text: what to look for on key frames; None: only follow what the prompts name.
            prompts: masks, boxes and points on any frames: new objects begin there, known ones are corrected.
            start: number of the first frame.
            stop: number of the frame before which to stop, or with `backwards` of the last one; None: to the end.
            backwards: from `start` down to the beginning.
            before: frames by number of an earlier pass that was interrupted, in the order of that pass. Its objects
                keep their ids, and their memory is made again from the masks in their last frames.

        Raises:
            VideoError: the clip cannot be read; all frames before the damage have been yielded.
            PromptError: there is neither text nor a prompt, the text holds no phrase, or a mask does not fit.
        """
        if text is None and not prompts:
            raise PromptError("a clip needs a text, or prompts for the objects to follow, got neither")
        opened = clip if isinstance(clip, Clip) else open_clip(clip)
        run = ClipRun(self.pipeline, self.segmenter, () if text is None else parse(text), tuple(prompts))
        if before:
            run.restore(opened, before)
        frames = frames_backwards(opened, start, stop or 0) if backwards else opened.frames(start, stop)
        for frame in frames:
            yield run.step(frame)

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
            frames: the tracked frames by number, at least from some frames before the first correction on.
            prompts: of one object, on one frame or several.
            stop: number of the frame before which to stop; None: at the last of `frames`.

        Yields:
            the frames from the first correction on, with the new masks of this object.

        Raises:
            PromptError: there is no prompt, they are for several objects, or a mask does not fit.
        """
        names = {prompt.track_id for prompt in prompts}
        if len(names) != 1:
            raise PromptError(f"a correction must be of one object, got {len(names)}")
        (name,) = names
        opened = clip if isinstance(clip, Clip) else open_clip(clip)
        own = (frame[frame.track_ids == name] for frame in frames.values())
        phrase_id = next((int(one.instances.phrase_ids[0]) for one in own if len(one)), 0)
        first = min(prompt.frame for prompt in prompts)
        # What the object was like before the correction, from the frames nearest to it.
        known = [number for number in sorted(frames) if number < first and name in frames[number].track_ids]
        tracking: Tracking | None = None
        for frame in opened.frames(known[-self.config.key_frame_every :][0] if known else first, stop):
            if frame.number > max(frames):
                return
            tracking = tracking or self.segmenter.start((frame.image.height, frame.image.width))
            tracking.show(frame.number, frame.image)
            before = frames.get(frame.number)
            if frame.number < first:
                if before is not None and name in before.track_ids:
                    tracking.give({name: _rle_of(before, name)})
                continue
            tracked = tracking.track().get(name)
            for prompt in prompts:
                if prompt.frame == frame.number:
                    rle = mask_of_prompt(self.pipeline.segmenter, tracking, frame.image, prompt, tracked)
                    tracking.give({name: rle})
                    tracked = TrackedMask(rle, float(rle_area([rle])[0] > 0), 1.0)
            if before is not None and tracked is not None:
                yield _with_mask(before, name, phrase_id, tracked, self.config.presence_threshold)


def _rle_of(frame: TrackedFrame, track_id: int) -> RLE:
    return frame.instances.rles[int(np.flatnonzero(frame.track_ids == track_id)[0])]


def _with_mask(
    frame: TrackedFrame, track_id: int, phrase_id: int, mask: TrackedMask, presence_threshold: float
) -> TrackedFrame:
    """The frame with another mask of one of its objects, or without the object if it is not in sight."""
    others = frame[frame.track_ids != track_id]
    if mask.presence < presence_threshold or not rle_area([mask.rle])[0]:
        return others
    one = Instances.from_masks(
        frame.instances.phrases,
        frame.instances.image_size,
        [mask.rle],
        np.array([phrase_id], np.int64),
        np.array([mask.predicted_iou], np.float32),
        "track",
    )
    joined = Instances.concatenate([others.instances, one])
    ids = np.append(others.track_ids, track_id)
    changed = replace(others, instances=joined, track_ids=ids, is_key_frame=True)
    return changed[np.argsort(ids)]
