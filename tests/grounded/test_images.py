from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ImageError
from grounded.images import SourceImage, open_image
from tests.data import unchecked

# Two rows and three columns of pixels that all differ.
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
# What each EXIF orientation does to the stored pixels (EXIF 2.3, tag 274).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def save(path: Path, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_once(orientation: int, tmp_path: Path):
    path = save(tmp_path / "image.png", orientation)
    expected = UPRIGHT[orientation](PIXELS)
    for source in (path, str(path), Image.open(path)):
        opened = open_image(source)
        np.testing.assert_array_equal(np.asarray(opened.pixels), expected)
        assert opened.size == expected.shape[:2]
        assert opened.orientation == orientation
        again = open_image(opened.pixels)
        np.testing.assert_array_equal(np.asarray(again.pixels), expected)
        assert again.orientation == 1


@pytest.mark.parametrize("orientation", [None, 0, 9], ids=str)
def test_no_valid_orientation(orientation: int | None, tmp_path: Path):
    opened = open_image(save(tmp_path / "image.png", orientation))
    np.testing.assert_array_equal(np.asarray(opened.pixels), PIXELS)
    assert opened.orientation == 1


def test_kinds_agree(tmp_path: Path):
    path = save(tmp_path / "image.png")
    opened = [open_image(source) for source in (path, Image.open(path), PIXELS, PIXELS[:, ::-1][:, ::-1])]
    for one in opened:
        np.testing.assert_array_equal(np.asarray(one.pixels), PIXELS)
        assert one.pixels.mode == "RGB"
    assert [one.path for one in opened] == [path, None, None, None]
    assert open_image(opened[0]) is opened[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_become_rgb(mode: str):
    assert open_image(Image.new(mode, (5, 4))).pixels.mode == "RGB"


def test_the_given_image_is_not_changed(tmp_path: Path):
    image = Image.open(save(tmp_path / "image.png", 6))
    open_image(image)
    assert image.size == (3, 2)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("array", "message"),
    [
        pytest.param(np.zeros((4, 5, 3), np.float32), r"got float32 \(4, 5, 3\)", id="float"),
        pytest.param(np.zeros((4, 5), np.uint8), r"got uint8 \(4, 5\)", id="grey"),
        pytest.param(np.zeros((3, 4, 5), np.uint8), r"got uint8 \(3, 4, 5\)", id="channels first"),
        pytest.param(np.zeros((4, 5, 4), np.uint8), r"got uint8 \(4, 5, 4\)", id="alpha"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), r"got uint8 \(0, 5, 3\)", id="empty"),
    ],
)
def test_wrong_array(array: np.ndarray, message: str):
    with pytest.raises(ImageError, match=f"must be uint8 .*{message}"):
        open_image(array)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("absent.png", None, "no such image: .*absent.png", id="absent"),
        pytest.param("text.png", b"not a picture", "text.png is not an image in a known format", id="not an image"),
        pytest.param("empty.png", b"", "empty.png is not an image in a known format", id="empty file"),
    ],
)
def test_unreadable_files(name: str, content: bytes | None, message: str, tmp_path: Path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message):
        open_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_truncated_file(suffix: str, tmp_path: Path):
    path = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=f"cannot read .*image.{suffix}"):
        open_image(path)


def test_folder(tmp_path: Path):
    with pytest.raises(ImageError, match=r"cannot read .*: Is a directory"):
        open_image(tmp_path)


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_deep_images_are_refused_rather_than_clipped(mode: str):
    with pytest.raises(ImageError, match="must have 8 bits per channel, got mode"):
        open_image(Image.new(mode, (5, 4)))


def test_empty_image():
    with pytest.raises(ImageError, match="empty: 0 x 4"):
        open_image(Image.new("RGB", (0, 4)))


def test_wrong_type():
    with pytest.raises(ImageError, match="got list"):
        unchecked(open_image)([1, 2])


def test_size_is_height_width():
    assert SourceImage(Image.new("RGB", (7, 3))).size == (3, 7)
