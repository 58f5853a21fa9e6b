"""Formats of image files: those that other packages read, and what a file is that cannot be read. For `read_image`."""

import importlib
from contextlib import suppress
from functools import cache

from PIL import Image, TiffImagePlugin

_NEEDS = {
    "HEIC": "is a HEIC image, which pillow-heif reads: pip install 'grounded-segany[heif]'",
    "AVIF": "is an AVIF image, which newer versions of Pillow read: pip install --upgrade pillow",
    "JPEG XL": "is a JPEG XL image, which pillow-jxl-plugin reads: pip install pillow-jxl-plugin",
    "raw": "is the raw file of a camera, which holds no finished image: develop it to JPEG or TIFF first",
    "drawing": "is a drawing of lines and shapes, without pixels: save it as PNG first",
    "other": "is an image of a kind that cannot be read here: save it as PNG or TIFF first",
}
_RAW = "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
# Suffixes of images that Pillow does not read by itself, or not at all -> what they are.
FOREIGN_SUFFIXES = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs"), "HEIC"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((f".{suffix}" for suffix in _RAW.split()), "raw"),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".wmf", ".emf"), "drawing"),
    **dict.fromkeys((".exr", ".hdr", ".dcm", ".psb", ".xcf"), "other"),
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# First bytes -> what the file is.
_SIGNATURES = {
    b"\xff\x0a": _NEEDS["JPEG XL"],
    b"\x00\x00\x00\x0cJXL ": _NEEDS["JPEG XL"],
    b"FUJIFILMCCD-RAW": _NEEDS["raw"],
    b"IIU\x00": _NEEDS["raw"],
    b"IIRO": _NEEDS["raw"],
    b"IIRS": _NEEDS["raw"],
    b"MMOR": _NEEDS["raw"],
    b"FOVb": _NEEDS["raw"],
    b"%!PS": _NEEDS["drawing"],
    b"\xc5\xd0\xd3\xc6": _NEEDS["drawing"],  # EPS with a preview
    b"v/1\x01": _NEEDS["other"],  # OpenEXR
    b"#?RADIANCE": _NEEDS["other"],
    b"gimp xcf": _NEEDS["other"],
    b"%PDF": "is a PDF document, not an image",
    b"\x93NUMPY": "is a NumPy array, not an image: load it with numpy.load, and pass the array",
    b"PK\x03\x04": "is a ZIP archive, not an image",
    b"\x1f\x8b": "is a compressed file, not an image",
    b"version https://git-lfs": "is a pointer of Git LFS in place of an image: git lfs pull fetches it",
    b"II*\x00": "is a TIFF file of a kind that cannot be read here",
    b"MM\x00*": "is a TIFF file of a kind that cannot be read here",
}
# Tags of TIFF (TIFF 6.0, section 8; TIFF/EP; DNG 1.4).
_NEW_SUBFILE_TYPE, _SUB_IFDS = 254, 330


@cache
def register_plugins() -> None:
    """Let Pillow read HEIC, AVIF and JPEG XL, by the packages for them that are installed."""
    with suppress(Exception):  # absent, or built for another version of Pillow
        importlib.import_module("pillow_heif").register_heif_opener()
    for package in ("pillow_avif", "pillow_jxl"):
        with suppress(Exception):
            importlib.import_module(package)
    Image.init()


def is_camera_raw(prefix: bytes) -> bool:
    """Whether the first bytes are those of a raw file that Pillow would take for a TIFF, and show its preview of."""
    return prefix[:4] == b"II*\x00" and prefix[8:10] == b"CR"


def is_preview(image: Image.Image) -> bool:
    """Whether an opened image is only the reduced preview in a TIFF-like raw file (DNG, NEF, ARW)."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    kind = image.tag_v2.get(_NEW_SUBFILE_TYPE)
    return isinstance(kind, int) and kind & 1 == 1 and _SUB_IFDS in image.tag_v2


def raw_reason() -> str:
    """What to say of a camera's raw file."""
    return _NEEDS["raw"]


def describe_file(data: bytes) -> str:
    """Say what a file is that is no readable image, by its first 512 bytes, to be put after its name."""
    start = data[:512]
    if not start:
        return "is not an image in a known format: it is empty"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        if brand in (b"avif", b"avis"):
            return _NEEDS["AVIF"]
        if brand in _HEIC_BRANDS:
            return _NEEDS["HEIC"]
        return _NEEDS["raw"] if brand == b"crx " else "is a video or audio file, not an image"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text and text.startswith(b"<"):
        return _NEEDS["drawing"]
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is an HTML page, not an image"
    if start[128:132] == b"DICM":
        return _NEEDS["other"]
    found = next((said for sign, said in _SIGNATURES.items() if start.startswith(sign)), None)
    return found or "is not an image in a known format"
