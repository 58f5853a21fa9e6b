from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import VideoError
from grounded.video.frames import frames_backwards, open_clip
from tests.grounded.video.clips import moving


def save_images(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        Image.fromarray(moving(number)).save(path)
    return paths


def shown(clip) -> list[int]:
    """Which of the `moving` frames are read, in order."""
    return [int(np.asarray(frame.image)[-1, -1, 0]) // 5 for frame in clip.frames()]


NAMES = ["frame 10.png", "frame 9.png", "frame 0.png", "frame 09.png"]  # saved as frames 0 to 3


@pytest.mark.parametrize(
    ("how", "expected"),
    [("folder", [2, 3, 1, 0]), ("pattern", [2, 3, 1, 0]), ("list", [0, 1, 2, 3]), ("texts", [0, 1, 2, 3])],
)
def test_order_of_images(how: str, expected: list[int], tmp_path: Path):
    paths = save_images(tmp_path / "shots", NAMES)
    (tmp_path / "shots" / "notes.txt").write_text("no image")
    (tmp_path / "shots" / ".hidden.png").write_text("no image")
    (tmp_path / "shots" / "frame 5.png.d").mkdir()
    sources = {"folder": tmp_path / "shots", "pattern": f"{tmp_path}/shots/f*.png", "list": paths}
    sources["texts"] = [str(path) for path in paths]
    clip = open_clip(sources[how], 10.0)
    assert shown(clip) == expected
    assert [frame.seconds for frame in clip.frames()] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert clip.info.count == 4 and clip.info.frame_rate == 10
    assert clip.info.file_names == tuple(NAMES[number] for number in expected)
    assert [frame.number for frame in clip.frames(1, 3)] == [1, 2]
    assert [frame.number for frame in frames_backwards(clip, 3, 1)] == [3, 2, 1]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.apng"])
def test_animated_images(name: str, tmp_path: Path):
    images = [Image.fromarray(moving(number)) for number in range(4)]
    options = {"lossless": True} if name == "a.webp" else {}
    kind = {"format": "PNG"} if name == "a.apng" else {}
    durations = [100, 200, 50, 80]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=durations, **options, **kind)
    clip = open_clip(tmp_path / name)
    assert shown(clip) == [0, 1, 2, 3] and clip.info.count == 4
    assert [frame.seconds for frame in clip.frames()] == pytest.approx([0, 0.1, 0.3, 0.35])
    whole, part = list(clip.frames()), list(clip.frames(2, 4))
    assert [(f.number, f.seconds) for f in part] == [(f.number, f.seconds) for f in whole[2:]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(part, whole[2:], strict=True))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_one_image_is_a_clip_of_one_frame(name: str, tmp_path: Path):
    save_images(tmp_path, [name])
    assert len(list(open_clip(tmp_path / name).frames())) == 1


def test_transparent_ground_of_an_animation_is_one_colour(tmp_path: Path):
    images = [Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (255, 0)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=100, lossless=True)
    first, second = (np.asarray(frame.image) for frame in open_clip(tmp_path / "a.webp").frames())
    assert (first == [255, 0, 0]).all() and len(np.unique(second)) == 1


# ---- Bad input ----


def bad_source(folder: Path, kind: str) -> object:
    if kind == "sizes":
        save_images(folder, ["0.png", "1.png"])
        Image.new("RGB", (10, 10)).save(folder / "2.png")
        return folder
    if kind == "damaged":
        paths = save_images(folder, ["0.png", "1.png"])
        paths[1].write_bytes(paths[1].read_bytes()[:100])
        return folder
    if kind == "gif":
        (folder / "a.gif").write_bytes(b"GIF89a and nothing more")
        return folder / "a.gif"
    return {
        "empty folder": folder,
        "pattern": f"{folder}/*.jpg",
        "missing": folder / "missing.mp4",
        "scheme": "s3://bucket/a.mp4",
        "data": "data:video/mp4;base64,AA",
        "empty list": [],
        "boolean": True,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sizes", r"2.png must be of the size of the frames before, 64x48, got 10x10"),
        ("damaged", r"frame 1: .*1.png"),
        ("gif", "cannot be read as an animated image"),
        ("empty folder", "holds no image"),
        ("pattern", "holds no image"),
        ("missing", "no such clip: .*missing.mp4"),
        ("scheme", "an address must begin with"),
        ("data", "a clip cannot be written into an address"),
        ("empty list", "the list holds no image"),
        ("boolean", "a clip must be"),
    ],
)
def test_bad_sources(kind: str, message: str, tmp_path: Path):
    seen = []
    with pytest.raises(VideoError, match=message) as caught:
        for frame in open_clip(bad_source(tmp_path, kind)).frames():
            seen.append(frame.number)
    assert seen == {"sizes": [0, 1], "damaged": [0]}.get(kind, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("frame_rate", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_frame_rates(frame_rate: float, tmp_path: Path):
    save_images(tmp_path, ["0.png"])
    with pytest.raises(VideoError, match="a frame rate must be positive"):
        open_clip(tmp_path, frame_rate)
