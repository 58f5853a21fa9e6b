import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.errors import OutputError
from grounded.video.clip import ClipInfo
from grounded.video.output.coco_video import coco_video_file, youtube_vis_results
from grounded.video.output.write import write_outputs
from tests.grounded.failures import fill_disk
from tests.grounded.video.clips import crossing, square, tracked

INFO = ClipInfo("two dogs.mp4", 25.0)
IMAGE = Image.new("RGB", (64, 48))


def write(folder: Path, frames, info: ClipInfo = INFO) -> tuple[dict, list]:
    paths = folder / "tracks.json", folder / "results.json"
    list(write_outputs(frames, [coco_video_file(paths[0], info), youtube_vis_results(paths[1])]))
    return json.loads(paths[0].read_text()), json.loads(paths[1].read_text())


def test_reads_back(tmp_path: Path):
    frames = crossing()
    data, results = write(tmp_path, frames)
    (video,) = data["videos"]
    assert (video["length"], video["width"], video["height"]) == (6, 64, 48)
    assert video["file_names"][:2] == ["two dogs/00000.jpg", "two dogs/00001.jpg"]
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert [names[a["category_id"]] for a in data["annotations"]] == ["a dog", "a cat"]
    for annotation, result in zip(data["annotations"], results, strict=True):
        assert annotation["video_id"] == result["video_id"] == video["id"]
        assert annotation["segmentations"] == result["segmentations"]
        assert annotation["length"] == len(annotation["segmentations"]) == 6
        for i, (frame, _) in enumerate(frames):
            rows = np.flatnonzero(frame.track_ids == annotation["track_id"])
            mask = frame.instances.masks[rows[0]] if len(rows) else np.zeros((48, 64), bool)
            entry = [annotation[key][i] for key in ("segmentations", "bboxes", "areas")]
            if not mask.any():
                assert entry == [None, None, None]
            else:
                np.testing.assert_array_equal(coco_mask.decode(entry[0]), mask)
                assert entry[1:] == [coco_mask.toBbox(entry[0]).tolist(), int(mask.sum())]
    assert results[0]["score"] == pytest.approx(0.9)


def test_names_of_frames_that_are_files(tmp_path: Path):
    frames = crossing(2)
    data, _ = write(tmp_path, frames, replace(INFO, file_names=("a.jpg", "b.jpg")))
    assert data["videos"][0]["file_names"] == ["a.jpg", "b.jpg"]


def test_no_object(tmp_path: Path):
    data, results = write(tmp_path, [(tracked(0, {}), crossing(1)[0][1])])
    assert data["annotations"] == results == [] and data["videos"][0]["length"] == 1


def test_disk_is_full_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill_disk(monkeypatch, "tracks.json")
    with pytest.raises(OutputError, match=r"cannot write .*tracks.json: the disk is full"):
        write(tmp_path, crossing())
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_disk_is_full_half_way(tmp_path: Path):
    """The masks that are put aside do not fit."""
    noise = np.random.default_rng(0).random((48, 64)) > 0.5
    frames = ((tracked(n, {1: noise}), IMAGE) for n in range(100))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*tracks.json: File too large"):
            list(write_outputs(frames, [coco_video_file(tmp_path / "tracks.json", INFO)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_memory_does_not_grow_with_masks(tmp_path: Path):
    import tracemalloc

    noise = np.random.default_rng(0).random((48, 64)) > 0.5  # 3 KB encoded
    one = tracked(0, {1: noise, 2: square(3)})
    tracemalloc.start()
    with coco_video_file(tmp_path / "tracks.json", INFO) as write_frame:
        for number in range(3000):
            write_frame(replace(one, number=number), IMAGE)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert held < 2_000_000 < (tmp_path / "tracks.json").stat().st_size
