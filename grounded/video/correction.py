"""Corrections of one track: it is followed again from the first of them on, and all others stay as they are."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from grounded.data.instances import Instances
from grounded.data.protocols import TrackedMask, Tracking, VideoSegmenter
from grounded.errors import PromptError
from grounded.pipeline import Pipeline
from grounded.video.clip import Clip
from grounded.video.prompts import ObjectPrompt
from grounded.video.run import mask_of_prompt
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import RLE, rle_area, rle_iou

_ASTRAY = 0.5  # IoU of a mask with its correction, below which the track had left its object
_LATEST = 2  # frames before a correction that tell what the object was like, besides the one where it was first seen


def follow_again(
    pipeline: Pipeline,
    segmenter: VideoSegmenter,
    clip: Clip,
    frames: Mapping[int, TrackedFrame],
    prompts: Sequence[ObjectPrompt],
    stop: int | None = None,
) -> Iterator[TrackedFrame]:
    """Yield the frames from the first correction on, with the new masks of its object: see `VideoPipeline.correct`."""
    if len({prompt.track_id for prompt in prompts}) != 1:
        raise PromptError(f"a correction must be of one object, got {len({prompt.track_id for prompt in prompts})}")
    name = prompts[0].track_id
    by_number = {prompt.frame: prompt for prompt in prompts}
    first = min(by_number)
    if first not in frames:
        raise PromptError(f"a correction must be on a tracked frame, got frame {first}")
    own = {number: frame.rle(name) for number, frame in sorted(frames.items())}
    labelled = next((frame[frame.track_ids == name] for frame in frames.values() if own[frame.number]), None)
    phrase_id = 0 if labelled is None else int(labelled.instances.phrase_ids[0])
    corrected = _corrected(pipeline, clip, by_number[first], own[first])
    tracking = segmenter.start(frames[first].instances.image_size)
    _remember(tracking, clip, name, own, first, corrected)
    last = max(frames) + 1 if stop is None else min(stop, max(frames) + 1)
    for frame in clip.frames(first, last):
        tracking.show(frame.number, frame.image)
        mask = TrackedMask(corrected, 1.0, 1.0) if frame.number == first else tracking.track()[name]
        if frame.number in by_number:
            if frame.number > first:
                prompt = by_number[frame.number]
                rle = mask_of_prompt(pipeline.segmenter, frame.image, prompt, mask.rle, tracking.embedding)
                mask = TrackedMask(rle, 1.0, 1.0)
            tracking.give({name: mask.rle})
        if frame.number in frames:
            is_shown = mask.presence >= pipeline.config.video.presence_threshold and rle_area([mask.rle])[0] > 0
            yield _with_mask(frames[frame.number], name, phrase_id, mask if is_shown else None)


def _corrected(pipeline: Pipeline, clip: Clip, prompt: ObjectPrompt, known: RLE | None) -> RLE:
    """The mask of the first correction, which may be points on the mask that was tracked."""
    (frame,) = clip.frames(prompt.frame, prompt.frame + 1)
    return mask_of_prompt(pipeline.segmenter, frame.image, prompt, known)


def _remember(
    tracking: Tracking, clip: Clip, name: int, own: Mapping[int, RLE | None], first: int, corrected: RLE
) -> None:
    """Give the object's masks before the correction: where it was first seen, and the latest unless it was lost.

    Where the correction has little in common with the mask that it corrects, the track had left its object, and the
    frames just before are not to be trusted.
    """
    seen = [number for number, rle in own.items() if rle is not None and number < first]
    before = own[first]
    is_astray = before is None or rle_iou([before], [corrected])[0, 0] < _ASTRAY
    for number in sorted({*seen[:1], *(() if is_astray else seen[-_LATEST:])}):
        (frame,) = clip.frames(number, number + 1)
        rle = own[number]
        assert rle is not None
        tracking.show(number, frame.image)
        tracking.give({name: rle})


def _with_mask(frame: TrackedFrame, track_id: int, phrase_id: int, mask: TrackedMask | None) -> TrackedFrame:
    """The frame with another mask of one of its objects, or without the object where it is not in sight."""
    others = frame[frame.track_ids != track_id]
    if mask is None:
        return others
    one = Instances.from_masks(
        frame.instances.phrases,
        frame.instances.image_size,
        [mask.rle],
        np.array([phrase_id], np.int64),
        np.array([mask.predicted_iou], np.float32),
        "track",
    )
    ids = np.append(others.track_ids, track_id)
    joined = TrackedFrame(
        number=frame.number,
        seconds=frame.seconds,
        instances=Instances.concatenate([others.instances, one]),
        track_ids=ids,
        is_key_frame=True,
    )
    return joined[np.argsort(ids)]
