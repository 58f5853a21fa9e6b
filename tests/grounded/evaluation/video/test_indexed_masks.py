from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.evaluation.video.indexed_masks import IndexedMasks
from tests.grounded.evaluation.video.made import SIZE, masks, write_masks


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def test_objects_are_read_as_they_were_written(tmp_path: Path):
    frames = [{1: "left", 7: "right"}, {}, {7: "below"}]
    clip = IndexedMasks.open(write_masks(tmp_path / "a", frames, start=5), "a")
    assert clip.numbers == (5, 6, 7) and clip.lists_frames
    for number, places in enumerate(frames, 5):
        objects = clip.read(number)
        assert objects.ids == tuple(places) and objects.image_size == SIZE
        assert (objects.masks() == np.array([*masks(places).values()]).reshape(-1, *SIZE)).all()
        assert objects.ignored is None


def values(*ones: int) -> np.ndarray:
    """A mask of one row that has these values."""
    return np.array([ones], np.uint8)


@pytest.mark.parametrize(
    ("frames", "ids", "ignored"),
    [
        pytest.param([values(0, 1, 2, 255)], (1, 2), 1, id="255 is void"),
        pytest.param([values(0, 255, 255)], (1,), 0, id="0 and 255: one object, as in DAVIS 2016"),
        pytest.param([values(0, 0), values(0, 255)], (1,), 0, id="the first that is not empty tells"),
        pytest.param([values(1, 0), values(0, 255)], (), 1, id="void alone in a later frame"),
        pytest.param([values(0, 1).astype(bool)], (1,), 0, id="bits"),
        pytest.param([values(0, 1).astype(np.uint16) * 255], (255,), 0, id="16 bits have no void"),
        pytest.param([values(0, 1).astype(np.uint16) * 999], (999,), 0, id="16 bits"),
        pytest.param([values(0, 0)], (), 0, id="empty"),
    ],
)
def test_values(tmp_path: Path, frames: list[np.ndarray], ids: tuple[int, ...], ignored: int):
    for number, frame in enumerate(frames):
        save(tmp_path / f"{number:05d}.png", frame)
    objects = IndexedMasks.open(tmp_path, "a").read(len(frames) - 1)
    assert objects.ids == ids
    assert (objects.ignored is not None) == bool(ignored)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        pytest.param(["00010.png", "9.png", "00000.png"], (0, 9, 10), id="numbers"),
        pytest.param(["frame_2.png", "frame_10.png"], (2, 10), id="numbers at the end"),
        pytest.param(["b.png", "a.png", "00007.png"], (0, 1, 2), id="order, where one has none"),
        pytest.param(["3.png", ".4.png", "x.txt"], (3,), id="other files"),
    ],
)
def test_numbers_of_frames(tmp_path: Path, names: list[str], numbers: tuple[int, ...]):
    for name in names:
        Image.new("L", (2, 2)).save(tmp_path / name, "PNG")
    assert IndexedMasks.open(tmp_path, "a").numbers == numbers


def test_bad_masks(tmp_path: Path):
    Image.new("L", (2, 2)).save(tmp_path / "1.png")
    Image.new("L", (2, 2)).save(tmp_path / "01.png")
    with pytest.raises(ResultError, match="one mask for each frame, got several of number 1"):
        IndexedMasks.open(tmp_path, "a")
    (tmp_path / "01.png").unlink()
    Image.new("RGB", (2, 2)).save(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    clip = IndexedMasks(name="a", numbers=(2, 3), files={i: tmp_path / f"{i}.png" for i in (2, 3)}, is_binary=False)
    with pytest.raises(ResultError, match=r"2\.png must be a mask of one value per pixel, palette or grey, got RGB"):
        clip.read(2)
    with pytest.raises(ResultError, match=r"cannot read .*3\.png"):
        clip.read(3)
