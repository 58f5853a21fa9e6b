"""A clip may be as long as it likes: neither tracking, nor the records, nor the outputs hold its frames."""

import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segany
from grounded.labelling.clips import TrackedFrames, open_clip_run, track_into
from grounded.models.trackers.segany import SeganyTracker
from grounded.video.clip import ClipInfo, Frame
from grounded.video.output.annotate import annotated_clip
from grounded.video.output.coco_video import coco_video_file
from grounded.video.output.mask_folder import mask_folder
from grounded.video.output.mot import mots_file
from grounded.video.output.write import with_images, write_outputs
from grounded.video.pipeline import VideoPipeline
from grounded.video.prompts import ObjectPrompt
from segany.utils.rle import encode_rle
from segany.video.memory import VideoMemory
from segany.video.predictor import VideoPredictor
from tests.segany.video.conftest import IMAGE, MEMORY

FRAMES, WARM_UP, MAX_GROWTH = 10_000, 1_000, 100  # the last in megabytes
SIZE = 48, 64

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def resident_megabytes() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Noise:
    """A clip of random frames, made when they are read."""

    info = ClipInfo("noise.mp4", 25.0, FRAMES)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for number in range(start, FRAMES if stop is None else min(stop, FRAMES)):
            pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
            yield Frame(number, number / 25, Image.fromarray(pixels))


@pytest.fixture(scope="module")
def small(video: VideoPipeline) -> VideoPipeline:
    """Follows objects with small random networks, which never lose them."""
    torch.manual_seed(0)
    memory = VideoMemory(IMAGE, MEMORY).eval()
    torch.nn.init.constant_(memory.presence_head.layers[-1].bias, 10.0)
    predictor = VideoPredictor(segany.Predictor(segany.SegAny(IMAGE).eval()), memory)
    return replace(video, segmenter=SeganyTracker(predictor))


def test_frames_are_not_held(small: VideoPipeline, tmp_path: Path):
    mask = np.zeros((1, *SIZE), bool)
    mask[:, 10:30, 10:40] = True
    prompts = [ObjectPrompt(frame=0, track_id=1 + row, rle=encode_rle(mask)[0]) for row in range(2)]
    clip, sizes = Noise(), []
    with open_clip_run(tmp_path, small, "noise.mp4", None, prompts) as writer:
        for frame in track_into(writer, small, clip, None, prompts):
            if frame.number in (WARM_UP, FRAMES - 1):
                sizes.append(resident_megabytes())
    assert sizes[1] - sizes[0] < MAX_GROWTH, f"tracking: {FRAMES - WARM_UP} frames added {sizes[1] - sizes[0]:.0f} MB"
    outputs = [
        annotated_clip(tmp_path / "annotated.mp4", clip.info),
        mask_folder(tmp_path / "masks"),
        mots_file(tmp_path / "mots.txt"),
        coco_video_file(tmp_path / "coco.json", clip.info),
    ]
    sizes.clear()
    for frame in write_outputs(with_images(clip, TrackedFrames(tmp_path)), outputs):
        if frame.number in (WARM_UP, FRAMES - 1):
            sizes.append(resident_megabytes())
    assert sizes[1] - sizes[0] < MAX_GROWTH, f"outputs: {FRAMES - WARM_UP} frames added {sizes[1] - sizes[0]:.0f} MB"
