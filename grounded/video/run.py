"""One pass over a clip: objects are carried from frame to frame, and key frames tell new objects from known ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from grounded.data.image import open_image
from grounded.data.instances import Instances
from grounded.data.protocols import MaskPromptable, Segmenter, TrackedMask, Tracking, VideoSegmenter
from grounded.pipeline import Pipeline
from grounded.video.association import ANY_PHRASE, associate, distinct_tracks
from grounded.video.clip import Clip, Frame
from grounded.video.prompts import ObjectPrompt
from grounded.video.scene_cuts import SceneCuts
from grounded.video.tracks import TrackedFrame
from segany import ImageEmbedding, Prompts
from segany.utils.rle import RLE, check_rle, decode_rle, encode_rle, rle_area, rle_iou

OBJECT = "object"  # the phrase of objects that were given without one
_RESTORED = 3  # frames of each object from which an interrupted pass remembers it
_APPEARANCE_SHARE = 0.3  # of a new look at an object in what is remembered of its appearance


@dataclass
class Track:
    """What is known of one object besides the memory of its masks."""

    phrase_id: int
    score: float
    appearance: Float[np.ndarray, "c"] | None = None
    is_suspended: bool = False  # since a scene cut: not shown until it is recognised


class FirstFrames:
    """The first frames of each object in a pass, from which a pass the other way knows it."""

    def __init__(self) -> None:
        self._frames: dict[int, TrackedFrame] = {}
        self._counts: Counter[int] = Counter()

    def add(self, frame: TrackedFrame) -> None:
        """Keep the next frame of the pass if it is one of the first for any of its objects."""
        names = frame.track_ids.tolist()
        if any(self._counts[name] < _RESTORED for name in names):
            self._frames[frame.number] = frame
        self._counts.update(names)

    def backwards(self) -> dict[int, TrackedFrame]:
        """The frames by number, the last one first."""
        return dict(sorted(self._frames.items(), reverse=True))


@dataclass
class ClipRun:
    """One pass over a clip."""

    pipeline: Pipeline
    segmenter: VideoSegmenter
    phrases: tuple[str, ...]
    prompts: Sequence[ObjectPrompt]
    box_threshold: float | None = None  # as in `Pipeline.segment`
    tracks: dict[int, Track] = field(default_factory=dict)
    tracking: Tracking | None = None
    since_key_frame: int | None = None

    def __post_init__(self) -> None:
        self.config = self.pipeline.config.video
        self.cuts = SceneCuts(self.config.scene_cut_threshold)
        self.next_id = 1 + max((prompt.track_id for prompt in self.prompts), default=0)
        labels = {prompt.track_id: prompt.label for prompt in self.prompts if prompt.label is not None}
        self.labels = {prompt.track_id: labels.get(prompt.track_id, OBJECT) for prompt in self.prompts}
        self.all_phrases = tuple(dict.fromkeys([*self.phrases, *self.labels.values()]))

    def restore(self, clip: Clip, before: Mapping[int, TrackedFrame]) -> None:
        """Make the memory of the objects in the frames of an earlier pass again, from their last masks."""
        self.next_id = max([self.next_id, *(1 + int(frame.track_ids.max()) for frame in before.values() if len(frame))])
        numbers = list(before)  # in the order of that pass
        needed: set[int] = set()
        for name in {name for frame in before.values() for name in frame.track_ids.tolist()}:
            needed |= set([number for number in numbers if name in before[number].track_ids][-_RESTORED:])
        for number in [number for number in numbers if number in needed]:
            (frame,) = clip.frames(number, number + 1)
            tracked = before[number]
            if self.tracking is None:
                self.tracking = self.segmenter.start(tracked.instances.image_size)
            self.tracking.show(number, frame.image)
            instances, names = tracked.instances, tracked.track_ids.tolist()
            self.tracking.give(dict(zip(names, instances.rles, strict=True)))
            appearances = self._look_at(frame.image, instances.rles)
            for row, name in enumerate(names):
                phrase_id = self.all_phrases.index(str(instances.labels[row]))
                track = self.tracks.setdefault(name, Track(phrase_id, float(instances.scores[row])))
                if appearances is not None:
                    track.appearance = _blend(track.appearance, appearances[row])
        key_frames = [number for number in numbers if before[number].is_key_frame]
        self.since_key_frame = abs(numbers[-1] - key_frames[-1]) if key_frames else None

    def step(self, frame: Frame) -> TrackedFrame:
        """Track the known objects, take what is given, and on key frames look for others."""
        config, size = self.config, (frame.image.height, frame.image.width)
        is_cut = self.cuts.is_cut(frame.image)
        if self.tracking is None:
            for prompt in self.prompts:  # all of them now, rather than after hours of tracking
                prompt.check_size(size)
            self.tracking = self.segmenter.start(size)
        self.tracking.show(frame.number, frame.image)
        tracked = self.tracking.track() if self.tracks else {}
        if is_cut:
            for track in self.tracks.values():
                track.is_suspended = True
        given = self._take_given(frame, tracked)
        tracked |= given
        age = self.since_key_frame
        is_key_frame = bool(self.phrases) and (age is None or is_cut or age + 1 >= config.key_frame_every)
        detected: dict[int, float] = {}
        if is_key_frame:
            self.since_key_frame = 0
            tracked, detected = self._detect(frame, tracked)
            tracked = self._drop_duplicates(tracked)
        elif age is not None:
            self.since_key_frame = age + 1
        return self._result(frame, tracked, detected, is_key_frame or bool(given))

    def _take_given(self, frame: Frame, tracked: Mapping[int, TrackedMask]) -> dict[int, TrackedMask]:
        """Give the masks of the prompts on this frame to their objects, which begin here or are corrected."""
        assert self.tracking is not None
        given = {}
        for prompt in self.prompts:
            if prompt.frame == frame.number:
                known = tracked.get(prompt.track_id)
                given[prompt.track_id] = mask_of_prompt(
                    self.pipeline.segmenter,
                    frame.image,
                    prompt,
                    None if known is None else known.rle,
                    self.tracking.embedding,
                )
        self.tracking.give(given)
        for name in given:
            phrase_id = self.all_phrases.index(self.labels[name])
            self.tracks.setdefault(name, Track(phrase_id, 1.0)).is_suspended = False
        return {name: TrackedMask(rle, float(rle_area([rle])[0] > 0), 1.0) for name, rle in given.items()}

    def _detect(self, frame: Frame, tracked: dict[int, TrackedMask]) -> tuple[dict[int, TrackedMask], dict[int, float]]:
        """Find instances, and give them to the tracks that they continue or begin.

        Returns:
            the masks of all tracks, and the detector score of those that were detected.
        """
        config, tracking = self.config, self.tracking
        assert tracking is not None
        image = open_image(frame.image)
        found = self.pipeline.segment(
            image, self.phrases, embedding=tracking.embedding, box_threshold=self.box_threshold
        )
        appearances = self._look_at(image.pixels, found.rles)
        names = list(self.tracks)
        matched = associate(
            found.rles,
            found.phrase_ids,
            [self._visible_mask(name, tracked, found.image_size) for name in names],
            np.array([self._phrase_to_match(name) for name in names], np.int64),
            self._compare(appearances, names),
            iou_threshold=config.match_iou,
            cosine_threshold=config.found_again_cosine,
        )
        given, detected = {}, {}
        for row, (rle, score) in enumerate(zip(found.rles, found.scores.tolist(), strict=True)):
            column = int(matched.track[row])
            if column < 0:
                name, self.next_id = self.next_id, self.next_id + 1
                self.tracks[name] = Track(int(found.phrase_ids[row]), score)
            else:
                name = names[column]
            track = self.tracks[name]
            track.score, track.is_suspended = score, False
            if appearances is not None:
                track.appearance = _blend(track.appearance, appearances[row])
            detected[name] = score
            is_close = matched.seen[row] and rle_iou([tracked[name].rle], [rle])[0, 0] >= config.correct_below_iou
            if not is_close:  # a track that the detector agrees with is left to its memory
                given[name] = rle
        tracking.give(given)
        return {**tracked, **{name: TrackedMask(rle, 1.0, 1.0) for name, rle in given.items()}}, detected

    def _phrase_to_match(self, name: int) -> int:
        """The phrase whose detections may be this track; any may be an object that was given without a label."""
        phrase_id = self.tracks[name].phrase_id
        return ANY_PHRASE if self.labels.get(name) == OBJECT and OBJECT not in self.phrases else phrase_id

    def _look_at(self, image: Any, rles: Sequence[RLE]) -> Float[np.ndarray, "n c"] | None:
        scorer = self.pipeline.scorer
        embed = getattr(scorer, "embed", None)
        return None if embed is None or not len(rles) else embed(image, rles).cpu().numpy()

    def _compare(
        self, appearances: Float[np.ndarray, "n c"] | None, names: Sequence[int]
    ) -> Float[np.ndarray, "n t"] | None:
        if appearances is None or not names:
            return None
        known = [self.tracks[name].appearance for name in names]
        zeros = np.zeros(appearances.shape[1], np.float32)
        return appearances @ np.stack([zeros if one is None else one for one in known]).T

    def _visible_mask(self, name: int, tracked: Mapping[int, TrackedMask], size: tuple[int, int]) -> RLE:
        """The mask of a track as it is shown: empty where it is not sure enough, or suspended by a cut."""
        mask = tracked.get(name)
        if mask is None or self.tracks[name].is_suspended or mask.presence < self.config.presence_threshold:
            return _empty(size)
        return mask.rle

    def _drop_duplicates(self, tracked: dict[int, TrackedMask]) -> dict[int, TrackedMask]:
        names = [name for name in tracked if rle_area([tracked[name].rle])[0] and not self.tracks[name].is_suspended]
        stays = distinct_tracks(
            [tracked[name].rle for name in names],
            np.array([self.tracks[name].phrase_id for name in names], np.int64),
            np.array(names, np.int64),
            self.config.same_iou,
        )
        dropped = [name for name, stay in zip(names, stays.tolist(), strict=True) if not stay]
        assert self.tracking is not None
        self.tracking.forget(dropped)
        for name in dropped:
            del self.tracks[name]
        return {name: mask for name, mask in tracked.items() if name not in dropped}

    def _result(
        self, frame: Frame, tracked: Mapping[int, TrackedMask], detected: Mapping[int, float], is_key_frame: bool
    ) -> TrackedFrame:
        size = frame.image.height, frame.image.width
        shown = [name for name in sorted(tracked) if rle_area([self._visible_mask(name, tracked, size)])[0]]
        instances = Instances.from_masks(
            self.all_phrases,
            size,
            [tracked[name].rle for name in shown],
            np.array([self.tracks[name].phrase_id for name in shown], np.int64),
            np.array([tracked[name].predicted_iou for name in shown], np.float32),
            "track",
        )
        scores = np.array([self.tracks[name].score for name in shown], np.float32)
        detector_scores = np.array([detected.get(name, np.nan) for name in shown], np.float32)
        return TrackedFrame(
            number=frame.number,
            seconds=frame.seconds,
            instances=replace(instances, scores=scores, detector_scores=detector_scores),
            track_ids=np.array(shown, np.int64),
            is_key_frame=is_key_frame,
        )


def _blend(before: Float[np.ndarray, "c"] | None, now: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
    """The appearance of an object over several looks, of unit length."""
    mixed = now if before is None else (1 - _APPEARANCE_SHARE) * before + _APPEARANCE_SHARE * now
    return mixed / max(float(np.linalg.norm(mixed)), 1e-6)


def _empty(size: tuple[int, int]) -> RLE:
    return check_rle({"size": list(size), "counts": [size[0] * size[1]]})


def mask_of_prompt(
    segmenter: Segmenter,
    image: Image.Image,
    prompt: ObjectPrompt,
    known: RLE | None = None,
    embedding: ImageEmbedding | None = None,
) -> RLE:
    """The mask that a prompt stands for: its own, or what the image segmenter makes of its points and box.

    Args:
        segmenter: of images.
        image: the frame.
        prompt: on that frame.
        known: the mask of the object there so far, which points then correct; None for a new object.
        embedding: of the frame by that segmenter; None: it is made.

    Raises:
        PromptError: the prompt holds a mask that is not of the frame's size.
    """
    size = image.height, image.width
    prompt.check_size(size)
    if prompt.rle is not None:
        return check_rle(prompt.rle, size)
    embedding = segmenter.encode(image) if embedding is None else embedding
    masks = None
    if known is not None and isinstance(segmenter, MaskPromptable) and rle_area([known])[0]:
        masks = segmenter.mask_prompts(embedding, decode_rle([known], size))
    prompts = Prompts(
        points=torch.tensor([prompt.points]) if prompt.points else None,
        point_labels=torch.tensor([prompt.point_labels]) if prompt.points else None,
        boxes=None if prompt.box is None else torch.tensor([prompt.box]),
        masks=masks,
    )
    is_ambiguous = prompt.box is None and masks is None and len(prompt.points) == 1
    prediction = segmenter.predict(embedding, prompts, multimask_output=is_ambiguous).best()
    return encode_rle(prediction.masks[:, 0].cpu())[0]
