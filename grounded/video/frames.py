"""Clips as frames: video files, folders of images, animated images, cameras and addresses, decoded one by one.

Never more than a few frames are held, however long a clip is. Frames are upright: rotation that a phone stored is
applied. Their times are those of the file, also where the rate varies.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from PIL import Image

from grounded.data.image import MAX_PIXELS, open_image
from grounded.errors import GroundedError, ImageError, VideoError, one_line
from grounded.video.clip import FRAME_RATE, Clip, ClipInfo, Frame, read_ahead
from grounded.video.video_file import VideoFile
from segany.utils.addresses import locate, shown_address

__all__ = [
    "AnimatedImage",
    "Clip",
    "ClipInfo",
    "ClipLike",
    "Frame",
    "ImageSequence",
    "VideoFile",
    "frames_backwards",
    "open_clip",
    "read_ahead",
]

ClipLike = str | PathLike[str] | int | Sequence[str | PathLike[str]]

_BACKWARDS = 16  # frames decoded together to be handed out backwards
_ANIMATED = (".gif", ".webp", ".apng", ".png")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".ppm")


def open_clip(source: ClipLike, frame_rate: float = FRAME_RATE) -> Clip:
    """Open a clip.

    Args:
        source: a video file; an animated GIF, WebP or PNG; a folder of images or a pattern such as "shots/*.jpg", in
            the order of the numbers in their names; a list of images, in its own order; the number of a camera; or
            an http:// or https:// address of a video.
        frame_rate: frames per second of images.

    Raises:
        VideoError: there is nothing there, it cannot be read, or holds no frame.
    """
    if isinstance(source, bool) or not isinstance(source, (str, int, PathLike, Sequence)):
        raise VideoError(f"a clip must be a path, an address, a list of images or a camera's number, got {source!r}")
    if isinstance(source, int):
        return VideoFile.camera(source)
    if not isinstance(source, (str, PathLike)):
        return ImageSequence([Path(path) for path in source], "the list", frame_rate)
    try:
        place = locate(source)
    except ImageError as error:
        raise VideoError(str(error)) from error
    if isinstance(place, str):
        return _at_address(place)
    if place.is_dir():
        return ImageSequence(_images_of(place), str(place), frame_rate)
    if not place.exists():
        return _not_a_file(place, frame_rate)
    if place.suffix.lower() in _ANIMATED:
        return AnimatedImage(place)
    if place.suffix.lower() in _IMAGES:
        return ImageSequence([place], str(place), frame_rate)
    return VideoFile(str(place), str(place))


def _at_address(address: str) -> Clip:
    if address[:5].lower() == "data:":
        raise VideoError(f"a clip cannot be written into an address, got {shown_address(address)}")
    return VideoFile(address, shown_address(address))


def _images_of(folder: Path) -> list[Path]:
    try:
        files = [file for file in folder.iterdir() if file.suffix.lower() in _IMAGES and not file.name.startswith(".")]
    except OSError as error:
        raise VideoError(f"cannot read {folder}: {error.strerror or error}") from error
    return sorted(files, key=natural_order)


def _not_a_file(path: Path, frame_rate: float) -> Clip:
    """The clip that a text which is no path stands for: a camera's number, or a pattern."""
    if re.fullmatch("[0-9]{1,3}", str(path)):
        return VideoFile.camera(int(str(path)))
    if not glob.has_magic(str(path)):
        raise VideoError(f"no such clip: {path}")
    files = [Path(name) for name in glob.glob(str(path), recursive=True) if not Path(name).is_dir()]
    return ImageSequence(sorted(files, key=natural_order), str(path), frame_rate)


class ImageSequence:
    """A `Clip` out of image files, in their order. All must be of the size of the first."""

    def __init__(self, paths: list[Path], shown: str, frame_rate: float) -> None:
        if not paths:
            raise VideoError(f"{shown} holds no image")
        if not 0 < frame_rate < float("inf"):
            raise VideoError(f"a frame rate must be positive, got {frame_rate}")
        self.paths = paths
        names = tuple(path.name for path in paths)
        self.info = ClipInfo(Path(shown).name, frame_rate, len(paths), file_names=names)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return read_ahead(self._decode(start, stop))

    def _decode(self, start: int, stop: int | None) -> Iterator[Frame]:
        size = None
        for number in range(start, len(self.paths) if stop is None else min(stop, len(self.paths))):
            try:
                image = open_image(self.paths[number]).pixels
            except ImageError as error:
                raise VideoError(f"frame {number}: {error}") from error
            size = size or image.size
            if image.size != size:
                raise VideoError(
                    f"{self.paths[number]} must be of the size of the frames before, {size[0]}x{size[1]}, "
                    f"got {image.width}x{image.height}"
                )
            yield Frame(number, number / self.info.frame_rate, image)


class AnimatedImage:
    """A `Clip` out of an animated image: GIF, WebP or PNG."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as image:
            if image.width * image.height > MAX_PIXELS:
                raise VideoError(f"{path} must have up to {MAX_PIXELS} pixels, got {image.width}x{image.height}")
            self._count = int(getattr(image, "n_frames", 1))
            image.seek(0)
            image.load()  # a WebP tells its times then
            milliseconds = float(image.info.get("duration") or 0)
        self.info = ClipInfo(path.name, 1000 / milliseconds if milliseconds > 0 else FRAME_RATE, self._count)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return read_ahead(self._decode(start, stop))

    def _decode(self, start: int, stop: int | None) -> Iterator[Frame]:
        seconds = 0.0
        with self._open() as image:
            for number in range(self._count if stop is None else min(stop, self._count)):
                image.seek(number)
                image.load()
                milliseconds = float(image.info.get("duration") or 0)
                if number >= start:
                    yield Frame(number, seconds, open_image(image.convert("RGBA")).pixels)
                seconds += milliseconds / 1000 if milliseconds > 0 else 1 / self.info.frame_rate

    @contextmanager
    def _open(self) -> Iterator[Image.Image]:
        try:
            with Image.open(self._path) as image:
                yield image
        except GroundedError:
            raise
        except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
            raise VideoError(f"{self._path} cannot be read as an animated image: {one_line(error)}") from error


def frames_backwards(clip: Clip, start: int, stop: int = 0) -> Iterator[Frame]:
    """Yield the frames of a clip from number `start` down to `stop`, both included."""
    while start >= stop:
        first = max(stop, start - _BACKWARDS + 1)
        yield from reversed(list(clip.frames(first, start + 1)))
        start = first - 1


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A key that sorts "frame 9" before "frame 10"."""
    parts = re.split(r"([0-9]+)", path.name)  # texts and numbers by turns
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], path.name
