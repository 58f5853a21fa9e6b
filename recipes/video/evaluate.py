"""Measure how objects are followed, and print a table: `python -m recipes.video.evaluate` for the bundled memory.

Drawn clips of a split that training never saw, and with `--davis FOLDER` clips of DAVIS 2016, by the measures of
`grounded evaluate video`. `--json FILE` keeps the figures, `--weights FILE` takes a memory other than the bundled one,
and `--kind propagation` follows objects without a memory.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from grounded.data.protocols import VideoSegmenter
from grounded.evaluation.video.clips import AnnotatedClip, ClipInMemory, FirstMasks, FrameObjects
from grounded.evaluation.video.evaluate import VideoEvaluation, evaluate_clips
from grounded.evaluation.video.indexed_masks import IndexedMasks
from grounded.evaluation.video.sources import ClipPair
from grounded.models import trackers
from grounded.models.trackers.segany import SeganyTracker
from grounded.pipeline import Pipeline
from grounded.video.clip import Clip, ClipInfo, Frame
from grounded.video.frames import open_clip
from grounded.video.pipeline import VideoPipeline
from recipes.tiny.vocabulary import noun_phrase
from recipes.video.clips import Clip as DrawnClip
from recipes.video.clips import draw_clip
from segany import Predictor
from segany.utils.rle import RLE
from segany.video.checkpoint import load as load_memory
from segany.video.predictor import VideoPredictor

MIN_SHARE = 0.001  # of the frame, that an object must cover in the first frame to be followed from there
BARS = {
    "first mask, J&F": 0.80,
    "first mask, found again": 0.60,
    "text, J&F": 0.70,
    "text, id switches per object": 0.05,
}


class DrawnFrames:
    """A drawn clip as the video pipeline reads clips."""

    def __init__(self, name: str, clip: DrawnClip) -> None:
        self._clip = clip
        self.info = ClipInfo(name, 24.0, len(clip.frames))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for number in range(start, len(self._clip.frames) if stop is None else stop):
            yield Frame(number, number / self.info.frame_rate, Image.fromarray(self._clip.frames[number]))


def truth_of(name: str, labels: np.ndarray) -> ClipInMemory:
    """The truth of labels (t, h, w), each pixel with the id of its object."""
    return ClipInMemory(name, {number: FrameObjects.from_index_map(frame) for number, frame in enumerate(labels)})


def follow(tracker: VideoSegmenter, clip: Clip, given: Mapping[int, RLE]) -> ClipInMemory:
    """The masks of objects in all frames, from those given in the first."""
    frames, tracking = {}, None
    for frame in clip.frames():
        size = frame.image.height, frame.image.width
        tracking = tracking or tracker.start(size)
        tracking.show(frame.number, frame.image)
        if frame.number == 0:
            tracking.give(given)
            frames[0] = FrameObjects.from_rles(given, size)
        else:
            masks = {name: mask.rle for name, mask in tracking.track().items()}
            frames[frame.number] = FrameObjects.from_rles(masks, size)
    return ClipInMemory(clip.info.name, frames)


def follow_text(video: VideoPipeline, clip: Clip, phrases: tuple[str, ...]) -> ClipInMemory:
    """The tracks of a text."""
    frames = {}
    for frame in video.track(clip, phrases):
        masks = dict(zip(frame.track_ids.tolist(), frame.instances.rles, strict=True))
        frames[frame.number] = FrameObjects.from_rles(masks, frame.instances.image_size)
    return ClipInMemory(clip.info.name, frames)


def pair(truth: AnnotatedClip, prediction: AnnotatedClip) -> ClipPair:
    """A truth and a prediction with the same numbers of frames."""
    return ClipPair(truth, prediction, truth.numbers)


def first_mask_pairs(tracker: VideoSegmenter, split: str, clips: int) -> Iterator[ClipPair]:
    """Drawn clips followed from the true masks of the objects in their first frames; others are no objects there."""
    for number in tqdm(range(clips), desc="first mask"):
        drawn = draw_clip(split, number)
        areas = np.bincount(drawn.labels[0].ravel())
        followed = [id for id in range(1, len(areas)) if areas[id] >= MIN_SHARE * drawn.labels[0].size]
        if followed:
            truth = truth_of(str(number), np.where(np.isin(drawn.labels, followed), drawn.labels, 0))
            first = truth.read(0)
            assert first.rles is not None
            given = dict(zip(first.ids, first.rles, strict=True))
            yield pair(truth, follow(tracker, DrawnFrames(str(number), drawn), given))


def text_pairs(video: VideoPipeline, split: str, clips: int) -> Iterator[tuple[ClipPair, bool]]:
    """Drawn clips with the tracks of a text that names all their objects, and whether no two of these look alike."""
    for number in tqdm(range(clips), desc="text"):
        drawn, rng = draw_clip(split, number), np.random.default_rng(number)
        phrases = tuple(noun_phrase(noun, color, rng) for noun, color in dict.fromkeys(drawn.objects))
        found = follow_text(video, DrawnFrames(str(number), drawn), tuple(dict.fromkeys(phrases)))
        yield pair(truth_of(str(number), drawn.labels), found), len(set(drawn.objects)) == len(drawn.objects)


def figures_of(name: str, measured: VideoEvaluation) -> dict[str, float | None]:
    """The figures of an evaluation that the table shows."""
    region, boundary, tracks = measured.region, measured.boundary, measured.tracks
    figures: dict[str, float | None] = {
        f"{name}, objects": float(sum(len(clip.objects) for clip in measured.clips)),
        f"{name}, J": region and region.mean,
        f"{name}, F": boundary and boundary.mean,
        f"{name}, J&F": measured.mean,
    }
    if tracks is not None:
        figures |= {
            f"{name}, HOTA": tracks.hota,
            f"{name}, IDF1": tracks.idf1,
            f"{name}, id switches per object": tracks.switches_per_object,
            f"{name}, returns": float(tracks.returns),
            f"{name}, found again": tracks.found_again,
        }
    return figures


def segment_frames(pipeline: Pipeline, clip: Clip, text: str, object_id: int) -> ClipInMemory:
    """The best instance of a text in each frame by itself, without any memory, as the mask of one object."""
    frames = {}
    for frame in clip.frames():
        found = pipeline.segment(frame.image, text)
        masks = {object_id: found.rles[0]} if len(found) else {}
        frames[frame.number] = FrameObjects.from_rles(masks, found.image_size)
    return ClipInMemory(clip.info.name, frames)


def measure_davis(pipeline: Pipeline, tracker: VideoSegmenter, folder: Path) -> dict[str, float | None]:
    """J and F on clips of DAVIS 2016, from the true first masks; of copying these; of text in each frame; and speed.

    The text is the first word of the clip's name: "a car" for car-shadow.
    """
    figures: dict[str, float | None] = {}
    for masks in sorted((folder / "Annotations" / "480p").iterdir()):
        truth = IndexedMasks.open(masks, masks.name)
        first = truth.read(truth.numbers[0])
        assert first.rles is not None
        clip = open_clip(folder / "JPEGImages" / "480p" / masks.name)
        started = time.perf_counter()
        found = follow(tracker, clip, dict(zip(first.ids, first.rles, strict=True)))
        seconds = time.perf_counter() - started
        figures |= figures_of(masks.name, evaluate_clips([pair(truth, found)], "davis"))
        copied = evaluate_clips([pair(truth, FirstMasks.of(truth))], "davis")
        figures[f"{masks.name}, copying the first mask, J&F"] = copied.mean
        named = segment_frames(pipeline, clip, f"a {masks.name.split('-')[0]}", int(first.ids[0]))
        figures[f"{masks.name}, text in each frame, J&F"] = evaluate_clips([pair(truth, named)], "davis").mean
        figures[f"{masks.name}, frames per second"] = len(found.numbers) / seconds
    return figures


@click.command()
@click.option("--split", default="test", show_default=True, type=click.Choice(["validation", "test"]))
@click.option("--clips", default=40, show_default=True)
@click.option("--text-clips", default=20, show_default=True)
@click.option("--config", default="tiny", show_default=True, help="Preset of the other models.")
@click.option("--kind", type=click.Choice(["segany", "propagation"]), help="Of video; else that of the preset.")
@click.option("--weights", type=click.Path(path_type=Path), help="Of the video memory; else those of the preset.")
@click.option("--davis", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of DAVIS 2016.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    split: str,
    clips: int,
    text_clips: int,
    config: str,
    kind: str | None,
    weights: Path | None,
    davis: Path | None,
    json_file: Path | None,
) -> None:
    """Measure tracking on drawn clips, and on clips of DAVIS."""
    overrides = {} if kind is None else {"video": {"kind": kind}}
    pipeline = Pipeline.from_config(config, load_all=True, **overrides)
    predictor = pipeline.segmenter
    assert isinstance(predictor, Predictor)
    tracker: VideoSegmenter
    if weights is None:
        tracker = trackers.build(pipeline.config.video, predictor.device, predictor)
    else:
        tracker = SeganyTracker(VideoPredictor(predictor, load_memory(weights, predictor.model)))
    figures: dict[str, float | None] = {}
    if clips:
        pairs = list(first_mask_pairs(tracker, split, clips))
        figures |= figures_of("first mask", evaluate_clips(pairs))
        copied = evaluate_clips([pair(one.truth, FirstMasks.of(one.truth)) for one in pairs], "davis")
        figures["copying the first mask, J&F"] = copied.mean
    if text_clips:
        found = list(text_pairs(VideoPipeline(pipeline, tracker), split, text_clips))
        figures |= figures_of("text", evaluate_clips([one for one, _ in found], match_ids=True))
        different = [one for one, is_different in found if is_different]
        figures |= figures_of("text, no two alike", evaluate_clips(different, match_ids=True))
    if davis is not None:
        figures |= measure_davis(pipeline, tracker, davis)
    for name, value in figures.items():
        bar = f"  (bar {BARS[name]:.2f})" if name in BARS else ""
        click.echo(f"{name:45} {'–' if value is None else f'{value:.3f}'}{bar}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
