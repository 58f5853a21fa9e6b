"""Runs of clips in formats that know tracks, and their frames as images."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ConfigError, ImageError
from grounded.labelling.formats import NOTE, VIDEO_FORMATS
from grounded.labelling.formats.exporter import export
from grounded.labelling.formats.video import export_clips
from grounded.labelling.frame_images import RunImages, named_as_image
from grounded.labelling.sources import open_source
from grounded.labelling.store import index_frames, open_run, read_record_at, read_records
from tests.grounded.labelling.engines.test_local import RUN
from tests.grounded.labelling.standin import PHRASES, record, write_clip_folder
from tests.grounded.labelling.test_tracking import label, open_clips
from tests.grounded.video.clips import moving, write_clip

COUNT = 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and a video."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip_folder(folder / "shots", COUNT)
    write_clip(folder / "clip.mp4", COUNT)
    return folder


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    label(open_clips(clips), out)
    return out


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coco-video", ["clip.mp4.json", "shots.json"]),
        ("youtube-vis", ["clip.mp4.json", "shots.json"]),
        ("mot", ["clip.mp4.txt", "shots.txt"]),
        ("mots", ["clip.mp4.txt", "shots.txt"]),
        ("davis", ["clip.mp4", "shots"]),
    ],
)
def test_one_output_for_each_clip(run: Path, tmp_path: Path, name: str, files: list[str]):
    assert name in VIDEO_FORMATS
    summary = export_clips(name, run, tmp_path / "out")
    assert summary.images == 2 * COUNT
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*files, NOTE])
    assert (
        (tmp_path / "out" / NOTE).read_text().startswith(f"2 clips, 8 frames, {summary.instances} instances as {name}")
    )
    export_clips(name, run, tmp_path / "out", replace=True)


def test_what_the_files_say(run: Path, tmp_path: Path):
    export_clips("coco-video", run, tmp_path / "coco")
    video, shots = (json.loads((tmp_path / "coco" / f"{name}.json").read_text()) for name in ("clip.mp4", "shots"))
    assert shots["videos"][0]["file_names"] == [f"{number}.png" for number in range(COUNT)]
    assert video["videos"][0]["file_names"] == [f"clip/{number:05d}.jpg" for number in range(COUNT)]
    assert [one["name"] for one in shots["categories"]] == list(PHRASES)
    export_clips("davis", run, tmp_path / "davis")
    index = index_frames(run)["shots"]
    frame = read_record_at(index[2].shard, index[2].offset).frame
    assert frame is not None
    assert np.array_equal(np.asarray(Image.open(tmp_path / "davis" / "shots" / "00002.png")), frame.id_map())
    assert len((tmp_path / "davis" / "shots" / "labels.json").read_text()) > 2
    export_clips("mot", run, tmp_path / "mot", min_score=0.95)
    assert (tmp_path / "mot" / "shots.txt").read_text() == "", "the scores of all are 0.9"


def test_a_run_of_images_has_no_tracks(tmp_path: Path):
    with open_run(tmp_path / "run", RUN) as writer:
        writer.append(record("a.png"))
    with pytest.raises(ConfigError, match="holds no frames of clips: mot is a format for tracks"):
        export_clips("mot", tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_are_images_in_other_formats(run: Path, clips: Path, tmp_path: Path):
    images = RunImages(open_clips(clips))
    records = map(named_as_image, read_records(run))
    summary = export("yolo-seg", records, PHRASES, tmp_path / "yolo", images.get)
    assert summary.images == 2 * COUNT
    copied = sorted(str(path.relative_to(tmp_path / "yolo" / "images")) for path in (tmp_path / "yolo").rglob("*.*g"))
    assert copied == [
        *(f"clip.mp4/{number:06d}.jpg" for number in range(COUNT)),
        *(f"shots/{number}.png" for number in range(COUNT)),
    ]
    stored = np.asarray(Image.open(tmp_path / "yolo" / "images" / "clip.mp4" / "000003.jpg"))
    assert np.abs(stored.astype(int) - moving(3)).mean() < 12


def test_frames_in_any_order(clips: Path):
    images = RunImages(open_source(clips / "clip.mp4", videos=True))
    for number in (0, 2, 1, 3, 3):
        with Image.open(io.BytesIO(images.get(f"clip.mp4/{number:06d}"))) as image:
            assert np.abs(np.asarray(image).astype(int) - moving(number)).mean() < 12, number
    with pytest.raises(ImageError, match=r"clip\.mp4 has no frame 4"):
        images.get("clip.mp4/000004")
    with pytest.raises(ImageError, match=r"has no image other\.mp4/000000"):
        images.get("other.mp4/000000")
    images.close()
