"""Measure the bundled video memory and print a table: `python -m recipes.video.evaluate`.

Drawn clips of a split that training never saw, and with `--davis FOLDER` a clip of DAVIS 2016. `--json FILE` keeps the
figures, `--weights FILE` takes a memory other than the bundled one.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from grounded.data.protocols import Tracking
from grounded.evaluation.video import RegionAndBoundary, measure_track, region_similarity
from grounded.models.trackers.segany import SeganyTracker
from grounded.pipeline import Pipeline
from grounded.video.clip import ClipInfo, Frame
from grounded.video.pipeline import VideoPipeline
from grounded.video.tracks import TrackedFrame
from recipes.tiny.vocabulary import noun_phrase
from recipes.video.clips import Clip, draw_clip
from segany import Predictor, load
from segany.utils.rle import decode_rle, encode_rle
from segany.video.checkpoint import load as load_memory
from segany.video.predictor import VideoPredictor

MIN_SHARE = 0.001  # of the frame, that an object must cover in the first frame to be followed from there
ABSENT, FOUND_WITHIN, FOUND_IOU = 4, 8, 0.5  # frames out of sight, frames in which to be found again, and how well
BARS = {
    "first mask, J&F": 0.80,
    "text, J&F": 0.70,
    "text, id switches per object": 0.05,
    "found again": 0.60,
}


class DrawnFrames:
    """A drawn clip as the video pipeline reads clips."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.info = ClipInfo("drawn", 24.0, len(clip.frames))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for number in range(start, len(self._clip.frames) if stop is None else stop):
            yield Frame(number, number / 24, Image.fromarray(self._clip.frames[number]))


def follow(tracker: SeganyTracker, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The masks (n, h, w) of n objects in each frame, from those in the first."""
    tracking: Tracking = tracker.start(frames[0].shape[:2])
    found = [np.stack(masks)]
    for number, frame in enumerate(frames):
        tracking.show(number, Image.fromarray(frame))
        if number == 0:
            tracking.give(dict(enumerate(encode_rle(found[0]))))
            continue
        tracked = tracking.track()
        rles = [tracked[index].rle for index in range(len(masks))]
        found.append(decode_rle(rles, frame.shape[:2]).numpy())
    return found


def measure_objects(
    found: Sequence[np.ndarray], truth: Callable[[int, int], np.ndarray], objects: Sequence[int]
) -> list[RegionAndBoundary]:
    """J and F of each object, without the first and the last frame."""
    inner = range(1, len(found) - 1)
    return [
        measure_track([found[t][row] for t in inner], [truth(t, index) for t in inner])
        for row, index in enumerate(objects)
    ]


def returns(clip: Clip, index: int) -> list[int]:
    """Frames in which an object comes back after some frames out of sight."""
    area = clip.frames[0].shape[0] * clip.frames[0].shape[1]
    shares = np.array([clip.mask(t, index).sum() / area for t in range(len(clip.frames))])
    there = shares >= MIN_SHARE
    frames = []
    for t in range(ABSENT + 1, len(there) - FOUND_WITHIN):
        if there[t] and not (shares[t - ABSENT : t] > 0).any() and there[: t - ABSENT].any():
            frames.append(t)
    return frames


def measure_first_mask(tracker: SeganyTracker, split: str, clips: int) -> dict[str, float]:
    """J and F from the true masks of the first frame, and how often an object that returns is found again."""
    results: list[RegionAndBoundary] = []
    copied: list[RegionAndBoundary] = []
    again: list[bool] = []
    for number in tqdm(range(clips), desc="first mask"):
        clip = draw_clip(split, number)
        area = clip.frames[0].shape[0] * clip.frames[0].shape[1]
        objects = [i for i in range(len(clip.objects)) if clip.mask(0, i).sum() >= MIN_SHARE * area]
        if not objects:
            continue
        found = follow(tracker, clip.frames, [clip.mask(0, i) for i in objects])
        results += measure_objects(found, clip.mask, objects)
        copied += measure_objects([found[0]] * len(found), clip.mask, objects)
        for row, index in enumerate(objects):
            for back in returns(clip, index):
                frames = range(back, back + FOUND_WITHIN)
                again.append(any(region_similarity(found[t][row], clip.mask(t, index)) >= FOUND_IOU for t in frames))
    return {
        "objects": len(results),
        "first mask, J": float(np.mean([r.region for r in results])),
        "first mask, F": float(np.mean([r.boundary for r in results])),
        "first mask, J&F": float(np.mean([r.mean for r in results])),
        "copying the first mask, J&F": float(np.mean([r.mean for r in copied])),
        "returns": len(again),
        "found again": float(np.mean(again)) if again else float("nan"),
    }


def measure_text(video: VideoPipeline, split: str, clips: int) -> dict[str, float]:
    """J and F of the tracks of a text that names all objects of a clip, and how often an object's track changes."""
    results: list[float] = []
    switches: list[int] = []
    for number in tqdm(range(clips), desc="text"):
        clip, rng = draw_clip(split, number), np.random.default_rng(number)
        phrases = tuple(dict.fromkeys(noun_phrase(noun, color, rng) for noun, color in dict.fromkeys(clip.objects)))
        frames = list(video.track(DrawnFrames(clip), phrases))
        jaccards = _overlaps(clip, frames)  # (objects, tracks, frames)
        seen = [i for i in range(len(clip.objects)) if any(clip.mask(t, i).any() for t in range(len(clip.frames)))]
        ids = sorted({name for frame in frames for name in frame.track_ids.tolist()})
        rows, columns = linear_sum_assignment(-jaccards.mean(axis=2)) if len(ids) else ([], [])
        matched = dict(zip(rows, columns, strict=True))
        size = clip.frames.shape[1:3]
        inner = range(1, len(frames) - 1)
        for index in seen:
            column = matched.get(index)
            masks = [_mask_of(frames[t], None if column is None else ids[column], size) for t in inner]
            results.append(measure_track(masks, [clip.mask(t, index) for t in inner]).mean)
            own = jaccards[index][:, inner]  # (tracks, frames)
            best = own.argmax(0)[own.max(0) >= FOUND_IOU].tolist() if len(ids) else []
            switches.append(sum(before != after for before, after in pairwise(best)))
    return {
        "text, objects": len(results),
        "text, J&F": float(np.mean(results)),
        "text, id switches per object": float(np.mean(switches)),
    }


def _mask_of(frame: TrackedFrame, name: int | None, size: tuple[int, int]) -> np.ndarray:
    rows = np.flatnonzero(frame.track_ids == name)
    return decode_rle([frame.instances.rles[rows[0]]], size)[0].numpy() if len(rows) else np.zeros(size, bool)


def _overlaps(clip: Clip, frames: Sequence[TrackedFrame]) -> np.ndarray:
    """IoU of each object with each track in each frame; of an object out of sight and a track that is, 0."""
    ids = sorted({name for frame in frames for name in frame.track_ids.tolist()})
    overlaps = np.zeros((len(clip.objects), len(ids), len(frames)))
    for t, frame in enumerate(frames):
        masks = frame.instances.masks
        for index in range(len(clip.objects)):
            truth = clip.mask(t, index)
            for row, name in enumerate(frame.track_ids.tolist()):
                both = np.count_nonzero(masks[row] & truth)
                overlaps[index, ids.index(name), t] = both / max(np.count_nonzero(masks[row] | truth), 1)
    return overlaps


def measure_davis(tracker: SeganyTracker, folder: Path) -> dict[str, float]:
    """J and F on the clips of a DAVIS folder with JPEGImages/480p and Annotations/480p, from the true first mask."""
    figures: dict[str, float] = {}
    for clip in sorted((folder / "Annotations" / "480p").iterdir()):
        truths = [np.asarray(Image.open(path).convert("L")) > 0 for path in sorted(clip.glob("*.png"))]
        images = sorted((folder / "JPEGImages" / "480p" / clip.name).glob("*.jpg"))
        frames = [np.asarray(Image.open(path).convert("RGB")) for path in images]
        started = time.perf_counter()
        found = follow(tracker, frames, [truths[0]])
        seconds = time.perf_counter() - started
        for name, masks in (("", found), ("copying the first mask, ", [found[0]] * len(found))):
            (result,) = measure_objects(masks, lambda t, _, truths=truths: truths[t], [0])
            figures |= {
                f"{clip.name}, {name}J": result.region,
                f"{clip.name}, {name}F": result.boundary,
                f"{clip.name}, {name}J&F": result.mean,
            }
        figures[f"{clip.name}, frames per second"] = (len(frames) - 1) / seconds
    return figures


@click.command()
@click.option("--split", default="test", show_default=True, type=click.Choice(["validation", "test"]))
@click.option("--clips", default=40, show_default=True)
@click.option("--text-clips", default=20, show_default=True)
@click.option("--segmenter", default="tiny", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="Of the video memory; else the bundled ones.")
@click.option("--davis", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of DAVIS 2016.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    split: str,
    clips: int,
    text_clips: int,
    segmenter: str,
    weights: Path | None,
    davis: Path | None,
    json_file: Path | None,
) -> None:
    """Measure tracking on drawn clips."""
    figures: dict[str, float] = {}
    pipeline = Pipeline.from_config("tiny", load_all=True) if text_clips else None
    predictor = pipeline.segmenter if pipeline else Predictor(load(segmenter))
    assert isinstance(predictor, Predictor)
    tracker = SeganyTracker(VideoPredictor(predictor, load_memory(weights or segmenter, predictor.model)))
    if clips:
        figures |= measure_first_mask(tracker, split, clips)
    if pipeline is not None:
        figures |= measure_text(VideoPipeline(pipeline, tracker), split, text_clips)
    if davis is not None:
        figures |= measure_davis(tracker, davis)
    for name, value in figures.items():
        bar = f"  (bar {BARS[name]:.2f})" if name in BARS else ""
        click.echo(f"{name:45} {value:.3f}{bar}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
