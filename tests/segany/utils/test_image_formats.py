import io
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from segany.errors import ImageError
from segany.utils.image_formats import describe_file
from segany.utils.images import read_image
from tests.data import ROOT

HEIC, RAW = "is a HEIC image, which pillow-heif reads: pip install", "is the raw file of a camera"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\0\0\0\x18ftypheic\0\0", HEIC, id="heic"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0", HEIC, id="heif"),
        pytest.param(b"\0\0\0\x18ftypavif\0\0", "is an AVIF image", id="avif"),
        pytest.param(b"\xff\x0a\0\0", "is a JPEG XL image", id="jxl"),
        pytest.param(b"\0\0\0\x0cJXL \r\n", "is a JPEG XL image", id="jxl container"),
        pytest.param(b"\0\0\0\x18ftypcrx \0\0", RAW, id="cr3"),
        pytest.param(b"FUJIFILMCCD-RAW 0201", RAW, id="raf"),
        pytest.param(b"IIRO\x08\0", RAW, id="orf"),
        pytest.param(b"\0\0\0\x18ftypmp42\0\0", "is a video or audio file", id="mp4"),
        pytest.param(b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "is a drawing", id="svg"),
        pytest.param(b"%!PS-Adobe-3.0", "is a drawing", id="eps"),
        pytest.param(b"%PDF-1.7", "is a PDF document", id="pdf"),
        pytest.param(b"\n <!DOCTYPE HTML><html>", "is an HTML page, not an image", id="html"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS", id="lfs"),
        pytest.param(b"\x93NUMPY\x01\0", "is a NumPy array", id="npy"),
        pytest.param(b"PK\x03\x04", "is a ZIP archive", id="zip"),
        pytest.param(bytes(128) + b"DICM", "is an image of a kind that cannot be read here", id="dicom"),
        pytest.param(b"", "is not an image in a known format: it is empty", id="empty"),
        pytest.param(b"something", "is not an image in a known format", id="other"),
    ],
)
def test_describe_file(data: bytes, expected: str):
    assert describe_file(data).startswith(expected)


def raw_file(kind: int = 1) -> bytes:
    """A TIFF whose first image is a small preview, and another one lies below it, as in DNG, NEF and ARW files."""
    buffer = io.BytesIO()
    # SubIFDs (330) hold the sensor's values; NewSubfileType (254) is 1 for a reduced image.
    Image.new("RGB", (8, 6)).save(buffer, "TIFF", tiffinfo={254: kind, 330: 8})
    return buffer.getvalue()


def test_the_preview_in_a_raw_file_is_not_taken_for_the_image():
    with pytest.raises(ImageError, match=RAW):
        read_image(raw_file())
    assert read_image(raw_file(kind=0)).pixels.size == (8, 6)
    with pytest.raises(ImageError, match=RAW):
        read_image(b"II*\0\x10\0\0\0CR\x02\0" + bytes(100))


def test_a_tiff_of_another_kind():
    header = struct.pack("<HHHII", 1, 256, 4, 1, 5) + bytes(4)  # a width, and nothing else
    with pytest.raises(ImageError, match=r"the file is a TIFF file of a kind that cannot be read here|cannot read"):
        read_image(b"II*\0\x08\0\0\0" + header)


@pytest.mark.parametrize(("package", "suffix"), [("pillow_heif", "heic"), ("pillow_jxl", "jxl")])
def test_plugins_are_used_where_they_are_installed(package: str, suffix: str, tmp_path: Path):
    plugin = pytest.importorskip(package)
    if suffix == "heic":
        plugin.register_heif_opener()
    Image.new("RGB", (64, 48), "red").save(tmp_path / f"a.{suffix}")
    loaded = read_image(tmp_path / f"a.{suffix}")
    assert loaded.pixels.size == (64, 48) and loaded.pixels.getpixel((9, 9))[0] > 240


def test_avif(tmp_path: Path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.avif")
    assert read_image(tmp_path / "a.avif").pixels.size == (64, 48)


@pytest.mark.slow
def test_without_the_package(tmp_path: Path):
    """In a process of its own: what is registered with Pillow stays."""
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from segany.utils.images import read_image\n"
        f"try: read_image({str(tmp_path / 'a.heic')!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = f"ImageError {tmp_path / 'a.heic'} is a HEIC image, which pillow-heif reads"
    assert result.stdout.startswith(expected)


def test_phone_files():
    folder = ROOT.parent / "shared" / "data" / "field" / "phone"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    pytest.importorskip("pillow_heif")
    for path in sorted(folder.glob("*.HEIC")):
        assert read_image(path).pixels.mode == "RGB"
