import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segany.errors import ImageError
from segany.utils.images import ImageLike, read_image
from tests.data import ROOT, unchecked

RED, WHITE = (255, 0, 0), (255, 255, 255)
# Mode -> a pixel value, and the RGB value that it shows.
MODES = {
    "1": (255, WHITE),
    "L": (90, (90, 90, 90)),
    "P": (0, (0, 0, 0)),  # an empty palette is black
    "RGB": ((1, 2, 3), (1, 2, 3)),
    "RGBX": ((1, 2, 3, 0), (1, 2, 3)),
    "CMYK": ((0, 255, 255, 0), RED),
    "YCbCr": ((76, 85, 255), (254, 0, 0)),
    "HSV": ((0, 255, 255), RED),
    "LA": ((90, 255), (90, 90, 90)),
    "La": ((90, 255), (90, 90, 90)),
    "RGBA": ((1, 2, 3, 255), (1, 2, 3)),
    "RGBa": ((1, 2, 3, 255), (1, 2, 3)),
    "I;16": (0xAB12, (0xAB, 0xAB, 0xAB)),
    "I;16L": (0xAB12, (0xAB, 0xAB, 0xAB)),
    "I;16B": (0xAB12, (0xAB, 0xAB, 0xAB)),
    "I": (200, (200, 200, 200)),
    "F": (200.4, (200, 200, 200)),
}


def shown(image: ImageLike) -> tuple[int, ...]:
    """The RGB value of the first pixel."""
    pixels = read_image(image).pixels
    assert pixels.mode == "RGB" and type(pixels) is Image.Image
    return tuple(np.asarray(pixels)[0, 0].tolist())


def png(path: Path, width: int, height: int, data: bytes = b"") -> Path:
    """A PNG file of RGB pixels that states a size, with `data` in place of compressed pixels. Returns `path`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(values: np.ndarray, exif: bytes = b"") -> bytes:
    """A PNG file of 16 bits per channel, which Pillow does not write: (h, w, c) with 2 to 4 channels."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    extra = chunk(b"eXIf", exif) if exif else b""
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_tiff(values: np.ndarray) -> bytes:
    """A TIFF file of 16 bits per channel, RGB, uncompressed."""
    height, width, _ = values.shape
    tags = {256: width, 257: height, 258: 134, 259: 1, 262: 2, 273: 140, 277: 3, 278: height, 279: values.nbytes}
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, value) for tag, value in tags.items()
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(134, b"\0") + struct.pack("<HHH", 16, 16, 16) + values.astype("<u2").tobytes()


def assert_image_or_error(path: Path) -> None:
    """Whatever is in a file, it is opened as RGB or refused with an error that names it."""
    try:
        assert read_image(path).pixels.mode == "RGB"
    except ImageError as error:
        assert str(path) in str(error)


class TestModes:
    @pytest.mark.parametrize("mode", MODES)
    def test_every_mode_is_shown_as_rgb(self, mode: str):
        value, expected = MODES[mode]
        assert shown(Image.new(mode, (5, 4), value)) == expected

    def test_lab(self):
        # (53, 80, 67) is red. L* from 0 to 100 is stored as 0 to 255, a* and b* are stored with 128 added.
        assert np.abs(np.subtract(shown(Image.new("LAB", (5, 4), (136, 208, 195))), RED)).max() < 15

    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [
            ("RGBA", (0, 0, 0, 0), WHITE),
            ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
            ("RGBa", (51, 0, 0, 51), (255, 204, 204)),
            ("LA", (0, 51), (204, 204, 204)),
            ("La", (0, 51), (204, 204, 204)),
        ],
        ids=str,
    )
    def test_alpha_lies_over_white(self, mode: str, value: tuple[int, ...], expected: tuple[int, ...]):
        image = Image.new(mode, (5, 4), value)
        assert shown(image) == expected
        assert read_image(image).notes == ("transparent pixels are shown on white",)

    @pytest.mark.parametrize(
        ("mode", "transparency"), [("P", 1), ("P", b"\xff\x00"), ("L", 1), ("RGB", (1, 1, 1)), ("1", 255)], ids=str
    )
    def test_a_transparent_colour_is_white(self, mode: str, transparency: int | bytes | tuple, tmp_path: Path):
        image = Image.new(mode, (5, 4), (1, 1, 1) if mode == "RGB" else 255 if mode == "1" else 1)
        if mode == "P":
            image.putpalette([0, 0, 0, 9, 9, 9])
        image.save(tmp_path / "image.png", transparency=transparency)
        assert shown(tmp_path / "image.png") == WHITE

    def test_palette(self):
        image = Image.new("P", (5, 4), 1)
        image.putpalette([0, 0, 0, 1, 2, 3])
        assert shown(image) == (1, 2, 3)
        assert read_image(image).notes == ()

    @pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
    def test_16_bit_files_keep_the_upper_8(self, suffix: str, tmp_path: Path):
        values = np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)
        Image.fromarray(values).save(tmp_path / f"image.{suffix}")
        loaded = read_image(tmp_path / f"image.{suffix}")
        np.testing.assert_array_equal(np.asarray(loaded.pixels)[..., 0], values >> 8)
        assert loaded.notes == ("16 bits per channel: the upper 8 are used",)

    def test_12_bits_in_a_16_bit_file_are_stretched(self, tmp_path: Path):
        values = np.array([[100, 2148, 4196]], np.uint16)
        Image.fromarray(values).save(tmp_path / "image.png")
        loaded = read_image(tmp_path / "image.png")
        assert np.asarray(loaded.pixels)[0, :, 0].tolist() == [0, 128, 255]
        assert loaded.notes == ("16 bits per channel: values from 100 to 4196 are stretched to 0..255",)

    @pytest.mark.parametrize("channels", [2, 3, 4], ids=["grey and alpha", "RGB", "RGBA"])
    def test_16_bit_colour(self, channels: int, tmp_path: Path):
        values = np.full((1, 3, channels), 65_535, np.uint16)
        values[0, :, : 3 if channels > 2 else 1] = np.array([0, 2000, 4000])[:, None]
        (tmp_path / "deep.png").write_bytes(deep_png(values))
        loaded = read_image(tmp_path / "deep.png")
        assert np.asarray(loaded.pixels)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
        assert loaded.notes == ("16 bits per channel: values from 0 to 4000 are stretched to 0..255",)
        values[0, 2, 0] = 65_535
        (tmp_path / "full.png").write_bytes(deep_png(values))
        loaded = read_image((tmp_path / "full.png").read_bytes())
        assert np.asarray(loaded.pixels)[0, :, 0].tolist() == [0, 7, 255]
        assert loaded.notes == ("16 bits per channel: the upper 8 are used",)

    def test_16_bit_colour_of_which_pillow_gives_8(self):
        values = np.array([[[0, 0, 0], [2048, 2048, 2048], [4096, 4096, 4096]]], np.uint16)
        loaded = read_image(deep_tiff(values))
        assert np.asarray(loaded.pixels)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
        (note,) = loaded.notes
        assert note.startswith("16 bits per channel, of which only the upper 8 could be read: values from 0 to 16")

    def test_deep_colour_that_is_turned(self):
        values = np.array([[[0, 0, 0], [2000, 2000, 2000], [4000, 4000, 4000]]], np.uint16)
        exif = Image.Exif()
        exif[0x0112] = 6
        loaded = read_image(deep_png(values, exif.tobytes().removeprefix(b"Exif\0\0")))
        assert loaded.orientation == 6
        assert np.asarray(loaded.pixels)[:, 0, 0].tolist() == [0, 128, 255]

    def test_the_value_that_a_raster_has_for_none(self, tmp_path: Path):
        values = np.array([[-1.0, 200.0, 300.0, 400.0]], np.float32)
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={42113: "-1"})
        loaded = read_image(tmp_path / "a.tif")
        assert np.asarray(loaded.pixels)[0, :, 0].tolist() == [0, 0, 128, 255]
        assert loaded.notes == (
            "values from 200 to 400 are stretched to 0..255",
            "1 of 4 pixels hold no value, and are black",
        )

    def test_field_file(self):
        path = ROOT.parent / "shared" / "data" / "field" / "images" / "grey16_12bit.png"
        if not path.is_file():
            pytest.skip(f"needs {path}")
        loaded = read_image(path)
        assert "are stretched to 0..255" in loaded.notes[0]
        assert np.asarray(loaded.pixels).max() == 255 and 60 < np.asarray(loaded.pixels).mean() < 220

    @pytest.mark.parametrize(
        ("values", "expected", "note"),
        [
            pytest.param([0, 7, 255], [0, 7, 255], None, id="8 bits"),
            pytest.param([-100, 0, 100], [0, 128, 255], "values from -100 to 100", id="negative"),
            pytest.param([1000, 2000, 3000], [0, 128, 255], "values from 1000 to 3000", id="large"),
            pytest.param([-(2**31), 0, 2**31 - 1], [0, 128, 255], "values from -2.14", id="full range"),
            pytest.param([700, 700, 700], [0, 0, 0], "values from 700 to 700", id="one large value"),
            pytest.param([0.0, 0.5, 1.0], [0, 128, 255], None, id="unit range"),
            pytest.param([0.0, 0.0, 0.0], [0, 0, 0], None, id="zeros"),
            pytest.param([0.0, 1.5, 255.0], [0, 2, 255], None, id="8 bits as floats"),
            pytest.param([-1.0, 0.0, 1.0], [0, 128, 255], "values from -1 to 1", id="signed unit range"),
            pytest.param([np.inf, 0.5, 1.0], [255, 128, 255], None, id="infinite"),
            pytest.param([np.nan, 0.5, 1.0], [0, 128, 255], "1 of 3 pixels hold no value", id="not a number"),
            pytest.param([np.nan, np.nan, -np.inf], [0, 0, 0], "2 of 3 pixels hold no value", id="nothing finite"),
            pytest.param([-3e38, 0.0, 3e38], [0, 128, 255], "values from -3e+38", id="beyond the range of floats"),
        ],
    )
    def test_deep_values(self, values: list[float], expected: list[int], note: str | None):
        dtype = np.float32 if isinstance(values[0], float) else np.int32
        loaded = read_image(Image.fromarray(np.array([values], dtype)))
        np.testing.assert_array_equal(np.asarray(loaded.pixels)[0, :, 1], expected)
        assert len(loaded.notes) == (note is not None)
        assert all(one.startswith(note) for one in loaded.notes)


class TestArrays:
    """What arrays may be is tested in test_arrays."""

    @pytest.mark.parametrize(
        ("shape", "value", "expected"),
        [((4, 5), 9, (9, 9, 9)), ((4, 5, 3), RED, RED), ((4, 5, 4), (255, 0, 0, 51), (255, 204, 204))],
        ids=["grey", "RGB", "RGBA"],
    )
    def test_channels(self, shape: tuple[int, ...], value: int | tuple[int, ...], expected: tuple[int, ...]):
        array = np.full(shape, value, np.uint8)
        assert shown(array) == expected
        assert shown(array[::-1, ::-1]) == expected  # not contiguous
        assert shown(torch.from_numpy(array)) == expected
        assert read_image(array).pixels.size == (5, 4)


def test_wrong_type():
    with pytest.raises(ImageError, match=r"must be a path, an address, bytes, an open .*, got list"):
        unchecked(read_image)([1, 2])


class TestOpenFiles:
    def test_answers_as_the_path(self, tmp_path: Path):
        path = tmp_path / "a.png"
        Image.new("RGB", (5, 4), RED).save(path)
        data = path.read_bytes()
        written = io.BytesIO()
        Image.new("RGB", (5, 4), RED).save(written, "PNG")  # and stands at its end
        with path.open("rb") as file:
            file.seek(7)
            for source in (file, written, io.BytesIO(data), bytearray(data), memoryview(data)):
                assert shown(source) == RED
            assert file.tell() == 7 and not file.closed

    def test_what_cannot_be_rewound_is_read_from_where_it_is(self):
        class Download:
            def read(self, size: int = -1) -> bytes:
                return written.getvalue()

        written = io.BytesIO()
        Image.new("RGB", (5, 4), RED).save(written, "PNG")
        assert shown(Download()) == RED

    def test_others(self, tmp_path: Path):
        (tmp_path / "a.png").write_text("text")
        with (tmp_path / "a.png").open() as text, pytest.raises(ImageError, match=r"a.png: it must be open in binary"):
            unchecked(read_image)(text)
        with (tmp_path / "a.png").open("rb") as file:
            pass
        with pytest.raises(ImageError, match=r"cannot read .*a.png: .*closed file"):
            read_image(file)
        with pytest.raises(ImageError, match="the file is not an image in a known format: it is empty"):
            read_image(io.BytesIO())


class TestSize:
    @pytest.mark.parametrize("side", [12, 20], ids=["Pillow would warn", "Pillow would refuse"])
    def test_pillows_own_limit_is_not_looked_at(
        self, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ):
        Image.new("RGB", (side, side)).save(tmp_path / "image.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert read_image(tmp_path / "image.png").pixels.size == (side, side)
        assert Image.MAX_IMAGE_PIXELS == 100
        assert not recwarn.list

    def test_what_remains_of_pillows_limit_is_an_image_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        Image.new("RGB", (20, 20)).save(tmp_path / "image.webp")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        try:
            assert read_image(tmp_path / "image.webp").pixels.size == (20, 20)
        except ImageError as error:  # some versions of Pillow look at it while they open a WebP
            assert "image.webp is too large: Image size (400 pixels)" in str(error)

    def test_a_bomb_is_refused_before_it_is_decoded(self, tmp_path: Path):
        with pytest.raises(
            ImageError, match=r"too large: 60000 x 50000 pixels, 3000 megapixels, and the limit is 200$"
        ):
            read_image(png(tmp_path / "image.png", 60_000, 50_000))

    def test_the_limit_can_be_set(self, tmp_path: Path):
        Image.new("RGB", (50, 40)).save(tmp_path / "image.png")
        for source in (tmp_path / "image.png", Image.open(tmp_path / "image.png")):
            with pytest.raises(ImageError, match=r"50 x 40 pixels, 0.002 megapixels, and the limit is 0.001999"):
                read_image(source, max_pixels=1999)
            for max_pixels in (2000, None):
                assert read_image(source, max_pixels=max_pixels).pixels.size == (50, 40)

    def test_what_is_in_memory_has_no_limit(self):
        for image in (Image.new("RGB", (50, 40)), np.zeros((40, 50), np.uint8)):
            assert read_image(image, max_pixels=1).pixels.size == (50, 40)

    def test_no_copy_of_what_is_right_already(self):
        image = Image.new("RGB", (5, 4))
        assert read_image(image).pixels is image

    @pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)], ids=str)
    def test_thin_images(self, size: tuple[int, int], tmp_path: Path):
        Image.new("RGB", size).save(tmp_path / "image.png")
        assert read_image(tmp_path / "image.png").pixels.size == size

    def test_empty_image(self):
        with pytest.raises(ImageError, match="the image is empty: 0 x 4 pixels"):
            read_image(Image.new("RGB", (0, 4)))


class TestFrames:
    @pytest.mark.parametrize(
        ("suffix", "note"),
        [
            ("gif", "animated: the first of 3 frames is used"),
            ("png", "animated: the first of 3 frames is used"),
            ("webp", "animated: the first of 3 frames is used"),
            ("tif", "several pages: the first of 3 pages is used"),
        ],
    )
    def test_the_first_is_used_and_it_is_said(self, suffix: str, note: str, tmp_path: Path):
        frames = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (250, 120, 10)]
        frames[0].save(tmp_path / f"image.{suffix}", save_all=True, append_images=frames[1:], duration=100)
        loaded = read_image(tmp_path / f"image.{suffix}")
        assert loaded.notes == (note,)
        assert np.abs(np.asarray(loaded.pixels) - np.array([250, 0, 0])).max() < 4  # WebP is not exact

    def test_an_image_at_another_frame(self, tmp_path: Path):
        frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (250, 120, 10)]
        frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
        image = Image.open(tmp_path / "image.gif")
        image.seek(1)
        loaded = read_image(image)
        assert loaded.notes == ("animated: frame 2 of 3 frames is used",)
        assert shown(image) == (120, 0, 0)
        assert image.tell() == 1

    def test_damage_behind_the_first_frame(self, tmp_path: Path):
        frames = [Image.effect_noise((32, 32), 90) for _ in range(3)]
        path = tmp_path / "image.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        np.testing.assert_array_equal(np.asarray(read_image(path).pixels)[..., 0], np.asarray(frames[0]))

    def test_the_preview_of_a_photograph_is_no_frame(self, tmp_path: Path):
        image = Image.new("RGB", (32, 32))
        image.save(tmp_path / "image.mpo", save_all=True, append_images=[image.resize((8, 8))])
        assert Image.open(tmp_path / "image.mpo").n_frames == 2
        assert read_image(tmp_path / "image.mpo").notes == ()


# Pillow warns of damage that it can bear.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
class TestFiles:
    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
    def test_orientation(self, suffix: str, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: show the file turned clockwise
        stored = np.zeros((16, 32, 3), np.uint8)
        stored[:, :16] = 255
        Image.fromarray(stored).save(tmp_path / f"image.{suffix}", exif=exif)
        for source in (tmp_path / f"image.{suffix}", Image.open(tmp_path / f"image.{suffix}")):
            loaded = read_image(source)
            assert loaded.orientation == 6
            np.testing.assert_array_equal(np.asarray(loaded.pixels) > 128, np.rot90(stored, -1) > 128)
            assert read_image(loaded.pixels).orientation == 1

    def test_damaged_exif_data_beside_sound_pixels(self, tmp_path: Path):
        Image.new("RGB", (5, 4)).save(tmp_path / "image.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09nonsense")
        loaded = read_image(tmp_path / "image.png")
        assert (loaded.pixels.size, loaded.orientation) == ((5, 4), 1)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "ico", "jp2", "avif", "tga"])
    def test_every_truncation_is_an_image_error_or_an_image(self, suffix: str, tmp_path: Path):
        noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(noise).save(path)
        data = path.read_bytes()
        for length in range(0, len(data), max(1, len(data) // 20)):
            path.write_bytes(data[:length])
            assert_image_or_error(path)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
    def test_damaged_bytes_are_an_image_error_or_an_image(self, suffix: str, tmp_path: Path):
        random = np.random.default_rng(0)
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
        data = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(data)
            for place in random.integers(0, min(len(data), 200), 4):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged)
            assert_image_or_error(path)

    @pytest.mark.parametrize("data", [b"", bytes(40), b"xyz" * 20], ids=["none", "zeros", "text"])
    def test_sound_header_and_no_pixels(self, data: bytes, tmp_path: Path):
        path = png(tmp_path / "image.png", 20, 20, data)
        for source in (path, Image.open(path)):
            with pytest.raises(ImageError, match=r"cannot read .*image"):
                read_image(source)

    def test_postscript_is_not_run(self, tmp_path: Path):
        Image.new("RGB", (5, 4)).save(tmp_path / "image.eps")
        with pytest.raises(ImageError, match=r"image.eps is a drawing of lines and shapes, without pixels"):
            read_image(tmp_path / "image.eps")


class TestBytes:
    def test_answers_as_the_file(self, tmp_path: Path):
        image = Image.new("RGB", (3, 2), RED)
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=exif)
        from_file, from_bytes = (
            read_image(source) for source in (tmp_path / "turned.jpg", (tmp_path / "turned.jpg").read_bytes())
        )
        assert from_bytes.pixels.size == (2, 3)
        assert from_bytes.orientation == from_file.orientation == 6
        assert from_bytes.pixels.tobytes() == from_file.pixels.tobytes()

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            pytest.param(b"", "the file is not an image in a known format", id="empty"),
            pytest.param(b"not an image", "the file is not an image in a known format", id="text"),
            pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00", "the file", id="cut off"),
        ],
    )
    def test_not_an_image(self, data: bytes, error: str):
        with pytest.raises(ImageError, match=error):
            read_image(data)
