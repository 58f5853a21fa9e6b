"""Labelling without models: small images and clips, a task that segments bright pixels, and runs of it in other
processes.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.labelling.engines.local import EngineOptions, label_local
from grounded.labelling.interrupts import catch_interrupts
from grounded.labelling.progress import RunSummary
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.sources import SequenceSource, Source, open_source
from grounded.labelling.store import Run, open_run
from grounded.labelling.task import LabelledImage
from grounded.video.clip import Clip, Frame
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import encode_rle

PHRASES = ("bright", "dark")
SIZES = ((12, 16), (16, 12), (9, 9))  # height, width


def bright(pixels: Image.Image) -> Instances:
    """One instance: the bright pixels."""
    mask = np.asarray(pixels.convert("L")) > 127
    score = np.array([mask.mean()], np.float32)
    return Instances(
        phrases=PHRASES,
        image_size=mask.shape,
        phrase_ids=np.zeros(1, np.int64),
        boxes=np.array([[0, 0, mask.shape[1], mask.shape[0]]], np.float32),
        rles=tuple(encode_rle(mask[None])),
        scores=score,
        detector_scores=score,
        clip_scores=np.full(1, np.nan, np.float32),
        predicted_iou=np.full(1, np.nan, np.float32),
        phrase_scores=np.zeros((1, 2), np.float32),
        sources=np.array(["detector"]),
    )


@dataclass(frozen=True)
class Bright:
    """A task. It raises for images with "hard" in their name, and for batches of several sizes."""

    seconds: float = 0.0  # for each image

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]:
        if len({image.size for image in images}) > 1:
            raise ValueError("images of a batch must be of equal size")
        if any(image.path and "hard" in image.path.name for image in images):
            raise PromptError("too hard")
        time.sleep(self.seconds * len(images))
        return [LabelledImage(bright(image.pixels), {"look": 0.001}) for image in images]

    def track(self, clip: Clip, before: Mapping[int, TrackedFrame]) -> Iterator[TrackedFrame]:
        """Follow bright and dark pixels, with the ids of `before`; each is numbered when it is first seen."""
        ids: dict[str, int] = {}
        for frame in before.values():
            ids |= zip(frame.instances.labels.tolist(), frame.track_ids.tolist(), strict=True)
        for frame in clip.frames(max(before, default=-1) + 1):
            time.sleep(self.seconds)
            yield tracked(frame, ids)


def tracked(frame: Frame, ids: dict[str, int]) -> TrackedFrame:
    """The bright pixels of frames 0, 1, 8, 9, 16, ... and the dark ones from frame 2 on; `ids` is added to."""
    pixels = np.asarray(frame.image.convert("L")) > 127
    seen = {"bright": pixels} if frame.number % 8 < 2 else {}
    seen |= {"dark": ~pixels} if frame.number >= 2 else {}
    for name in seen:
        ids.setdefault(name, len(ids) + 1)
    instances = Instances.from_masks(
        PHRASES,
        pixels.shape,
        encode_rle(np.stack(list(seen.values()))),
        np.array([PHRASES.index(name) for name in seen], np.int64),
        np.full(len(seen), 0.9, np.float32),
        "track",
    )
    track_ids = np.array([ids[name] for name in seen], np.int64)
    return TrackedFrame(
        number=frame.number,
        seconds=frame.seconds,
        instances=instances,
        track_ids=track_ids,
        is_key_frame=frame.number % 4 == 0,
    )


def record(file: str, size: tuple[int, int] = SIZES[0]) -> Record:
    """A record of random pixels."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    info = ImageInfo(file=file, width=size[1], height=size[0], sha256="0" * 64)
    return Record(image=info, instances=bright(pixels), models={"detector": "none"}, config="1", seconds={"look": 0.5})


def write_images(folder: Path, count: int) -> Path:
    """Write small images of several sizes. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return folder


def write_clip_folder(folder: Path, count: int, seed: int = 0) -> Path:
    """Write the frames of a clip as images. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def open_clips(images: Path) -> Source:
    """A folder in which each folder of images is a clip."""
    return SequenceSource.of(open_source(images, videos=True))


def label_folder(
    images: Path, out: Path, seconds: float = 0.0, config: str = "1", clips: bool = False, **options: object
) -> RunSummary:
    """Label a folder with `Bright`, or with `clips` each folder in it as a clip; stopped by Ctrl-C."""
    source = open_clips(images) if clips else open_source(images)
    run = Run(source=source.spec, phrases=PHRASES, models={"detector": "none"}, config=config)
    with catch_interrupts() as interrupt, open_run(out, run) as writer:
        scheduling = EngineOptions(**{"batch": 2, "workers": 2, **options})
        return label_local(source, Bright(seconds), writer, scheduling, should_stop=interrupt)


def _in_process(images: Path, out: Path, seconds: float, clips: bool) -> None:
    # A child of a test run may have inherited an ignored Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    summary = label_folder(images, out, seconds, clips=clips)
    os._exit(130 if summary.interrupted else 0)


def start(images: Path, out: Path, seconds: float = 0.0, clips: bool = False) -> multiprocessing.Process:
    """Begin `label_folder` in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.grounded.labelling.standin"])
    process = context.Process(target=_in_process, args=(images, out, seconds, clips), daemon=True)
    process.start()
    return process
