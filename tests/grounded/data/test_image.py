import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.data.image import MAX_PIXELS, ImageLike, SourceImage, open_image
from grounded.errors import ImageError
from tests.grounded.failures import unprivileged
from tests.http_server import image_server
from tests.segany.utils.test_images import png

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


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I", "F"]
)
def test_modes_become_rgb(mode: str):
    assert open_image(Image.new(mode, (5, 4))).pixels.mode == "RGB"


def test_notes_say_what_is_not_seen(tmp_path: Path):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (250, 120, 10)]
    frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    opened = open_image(tmp_path / "image.gif")
    assert opened.notes == ("animated: the first of 3 frames is used",)
    assert opened.pixels.getpixel((0, 0)) == (250, 0, 0)
    assert open_image(PIXELS).notes == ()


def test_the_given_image_is_not_changed(tmp_path: Path):
    image = Image.open(save(tmp_path / "image.png", 6))
    open_image(image)
    assert image.size == (3, 2)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "array", [PIXELS, PIXELS[..., 0], np.dstack([PIXELS, PIXELS[..., 0]])], ids=lambda a: str(a.shape)
)
def test_arrays(array: np.ndarray):
    assert open_image(array).size == (2, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        pytest.param(np.full((4, 5, 3), 255.0), "must lie in 0..1, got 255 to 255: divide them by 255", id="float"),
        pytest.param(np.zeros((1, 3, 4, 5), np.uint8), r"got uint8 \(1, 3, 4, 5\): pass the images", id="batch"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), r"got uint8 \(0, 5, 3\)", id="empty"),
    ],
)
def test_wrong_array(array: np.ndarray, message: str):
    with pytest.raises(ImageError, match=message):
        open_image(array)


def test_all_that_an_image_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With its file or its address where it has one, by which results are named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = save(tmp_path / "image.png")
    data = path.read_bytes()
    tensor = torch.from_numpy(PIXELS)
    with image_server() as server, path.open("rb") as file:
        server.image = data
        address = f"{server.url}/image/a%20b.png?size=1"
        sources: list[tuple[ImageLike, str | None]] = [
            ("~/image.png", "image.png"),
            (path.as_uri(), "image.png"),
            (address, "a b.png"),
            (Path(address), "a b.png"),
            (file, None),
            (io.BytesIO(data), None),
            (bytearray(data), None),
            (memoryview(data), None),
            (tensor, None),
            (tensor / 255, None),
            (PIXELS / 255, None),
        ]
        for source, name in sources:
            opened = open_image(source)
            np.testing.assert_array_equal(np.asarray(opened.pixels), PIXELS)
            assert opened.file_name == name
        assert open_image(address).address == address
        assert open_image(tensor.repeat(3, 2, 1).permute(2, 0, 1)).size == (6, 6)
        with pytest.raises(ImageError, match="addresses are not fetched here"):
            open_image(address, allow_addresses=False)


def test_limit_of_size(tmp_path: Path):
    path = save(tmp_path / "image.png")
    with pytest.raises(ImageError, match=r"image.png is too large: 3 x 2 pixels"):
        open_image(path, max_pixels=5)
    assert open_image(path, max_pixels=6).size == (2, 3)
    assert open_image(path, max_pixels=None).size == (2, 3)
    assert open_image(open_image(path), max_pixels=5).size == (2, 3)  # it is open already
    assert MAX_PIXELS == 200_000_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("absent.png", "no such image: .*absent.png", id="absent"),
        pytest.param("image.png/absent.png", "cannot read .*: Not a directory", id="below a file"),
        pytest.param("n" * 300, "cannot read .*: File name too long", id="long name"),
        pytest.param("nu\0l.png", "cannot read .*: embedded null byte", id="zero byte"),
        pytest.param("", "cannot read .*: Is a directory", id="folder"),
        pytest.param("pipe", "cannot read .*pipe: not a regular file", id="pipe that nobody writes to"),
        pytest.param("loop", "cannot read .*loop: Too many levels", id="link to itself"),
        pytest.param("dangling", "no such image: .*dangling", id="link to nothing"),
        pytest.param("text.png", "text.png is not an image in a known format", id="not an image"),
        pytest.param("empty.png", "empty.png is not an image in a known format", id="empty file"),
        pytest.param("half.png", "cannot read .*half.png: image file is truncated", id="truncated"),
        pytest.param("bomb.png", "bomb.png is too large: 60000 x 60000 pixels, 3600 megapixels", id="bomb"),
    ],
)
def test_unreadable_files(name: str, message: str, tmp_path: Path):
    save(tmp_path / "image.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("absent.png")
    (tmp_path / "text.png").write_bytes(b"not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes((tmp_path / "image.png").read_bytes()[:-30])
    png(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(ImageError, match=message):
        open_image(tmp_path / name)


def test_no_permission(tmp_path: Path):
    path = save(tmp_path / "image.png")
    path.chmod(0)
    with unprivileged(), pytest.raises(ImageError, match=r"cannot read .*: Permission denied"):
        open_image(path)


def test_size_is_height_width():
    assert SourceImage(Image.new("RGB", (7, 3))).size == (3, 7)
