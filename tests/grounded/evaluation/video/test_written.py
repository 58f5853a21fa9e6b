"""What the writers of tracks write is read back as the same objects."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from grounded.evaluation.video.frames import compare_frame
from grounded.evaluation.video.sources import open_clips, pair_clips
from grounded.labelling.formats.annotations import Notes
from grounded.video.clip import ClipInfo
from grounded.video.output.coco_video import coco_video_file, youtube_vis_results
from grounded.video.output.mask_folder import mask_folder
from grounded.video.output.mot import mot_file, mots_file
from tests.grounded.evaluation.video.made import SIZE, clip
from tests.grounded.evaluation.video.test_runs import tracked

FRAMES = [{1: "left", 2: "right"}, {}, {2: "below"}, {1: "left"}]
INFO = ClipInfo("clip.mp4", 25.0)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        pytest.param(mask_folder, "masks", id="masks"),
        pytest.param(mot_file, "mot.txt", id="MOT"),
        pytest.param(mots_file, "mots.txt", id="MOTS"),
        pytest.param(lambda path: coco_video_file(path, INFO), "vis.json", id="YouTube-VIS"),
    ],
)
def test_written_tracks(tmp_path: Path, output: Callable, name: str):
    with output(tmp_path / name) as write:
        for number, places in enumerate(FRAMES):
            write(tracked(number, places), Image.new("RGB", SIZE[::-1]))
    (pair,) = pair_clips([clip(FRAMES)], open_clips(tmp_path / name, Notes()), Notes())
    for number, places in enumerate(FRAMES):
        comparison = compare_frame(pair, number, same_ids=False)
        assert set(comparison.predicted_ids) == set(places)
        for row, id in enumerate(comparison.truth_ids):
            assert comparison.iou[row, comparison.predicted_ids.index(id)] == 1


def test_written_results(tmp_path: Path):
    for output, name in ((coco_video_file, "truth.json"), (lambda path, _: youtube_vis_results(path), "found.json")):
        with output(tmp_path / name, INFO) as write:
            for number, places in enumerate(FRAMES):
                write(tracked(number, places), Image.new("RGB", SIZE[::-1]))
    truth = open_clips(tmp_path / "truth.json", Notes(), is_truth=True)
    (pair,) = pair_clips(truth, open_clips(tmp_path / "found.json", Notes(), truth=truth), Notes())
    assert compare_frame(pair, 0).iou.tolist() == [[1, 0], [0, 1]]
