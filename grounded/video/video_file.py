"""Video files, videos at addresses and cameras as clips, through PyAV, frame by frame."""

import platform
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from grounded.errors import GroundedError, ImageError, VideoError, one_line
from grounded.video.clip import FRAME_RATE, ClipInfo, Frame, read_ahead
from segany.utils.address_file import AddressFile
from segany.utils.addresses import address_name, is_address
from segany.utils.images import MAX_PIXELS

if TYPE_CHECKING:  # PyAV is the extra `video`; it is imported when a video file is opened
    import av

_SILENCE = (20.0, 20.0)  # seconds after which a camera that does not open, or gives no frame, is given up
# How FFmpeg reaches cameras by their numbers, by system.
_CAMERAS = {"Linux": ("v4l2", "/dev/video{}"), "Darwin": ("avfoundation", "{}")}
# Seconds before a frame to begin decoding at: some containers find places by what stands near, not by an index.
_SEEK_BEFORE = (0, 2, 10)
_BT709 = 1  # number of this colour space in H.273
_MISSING_END = 0.2  # seconds that may lack from the length that a file states


class VideoFile:
    """A `Clip` out of a video file, a video at an address or a camera.

    Frames are upright: rotation and mirroring that the file states are applied. All are of the size of the first; a
    stream that changes its size is scaled to that. Pixels that are not square stay as they are stored.
    """

    def __init__(self, location: str, shown: str, file_format: str | None = None) -> None:
        """Open a file or address, or with the name of one of FFmpeg's devices a camera, which can be read once."""
        self._location, self._shown, self._format = location, shown, file_format
        self._times = array("q")  # time stamps of the frames from the first on, as far as they were decoded
        self._first = 0.0  # seconds, of the first frame
        self.info = ClipInfo(shown, FRAME_RATE, is_live=file_format is not None)
        if file_format is None:
            with self._open() as (container, stream):
                self.info = _info(location, container, stream)

    @classmethod
    def camera(cls, number: int) -> "VideoFile":
        """The camera of that number, from 0; its frames never end."""
        system = platform.system()
        if system not in _CAMERAS:
            raise VideoError(f"cameras are opened by number on {' and '.join(_CAMERAS)}, not on {system}")
        file_format, pattern = _CAMERAS[system]
        return cls(pattern.format(number), f"camera {number}", file_format)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return read_ahead(self._decode(start, stop))

    def _decode(self, start: int, stop: int | None) -> Iterator[Frame]:
        # Times are learned by decoding: those of packets need not be those of frames (hidden frames, edit lists).
        times = self._times
        if 0 < start < len(times):
            with self._open() as (container, stream):
                found = _decoded_from(container, stream, times, start, self._shown)
                if found is not None:
                    yield from self._numbered(found, stream, start, start, stop)
                    return
        with self._open() as (container, stream):
            yield from self._numbered(_decoded(container, stream, self._shown), stream, 0, start, stop)

    def _numbered(
        self, decoded: Iterator[Any], stream: Any, number: int, start: int, stop: int | None
    ) -> Iterator[Frame]:
        """Number decoded frames from `number` on, and yield those from `start` to before `stop`."""
        times = array("q") if number == 0 and self._format is None else None
        size, before = (stream.codec_context.width, stream.codec_context.height), -1.0
        try:
            for frame in decoded:
                if stop is not None and number >= stop:
                    return
                size = size if all(size) else (frame.width, frame.height)
                time = None if frame.pts is None else float(frame.pts * stream.time_base)
                if number == 0:
                    self._first = time or 0.0
                if times is not None and frame.pts is not None and len(times) == number:
                    times.append(frame.pts)
                if number >= start:
                    seconds = number / self.info.frame_rate if time is None else time - self._first
                    before = max(seconds, before)  # damaged files step back
                    yield Frame(number, before, _upright(frame, size))
                number += 1
            if number == 0:
                raise VideoError(f"{self._shown} holds no frame that can be decoded")
        finally:
            if times is not None and len(times) > len(self._times) and (np.diff(times) > 0).all():
                self._times = times

    @contextmanager
    def _open(self) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
        with open_media(self._location, self._shown, self._format) as container:
            import av

            cover = av.stream.Disposition.attached_pic
            videos = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not videos:
                kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise VideoError(f"{self._shown} holds no video stream, only {kinds}")
            stream = videos[0]
            if stream.codec_context is None:
                raise VideoError(f"{self._shown}: this PyAV has no decoder for its codec")
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                size = f"{stream.codec_context.width}x{stream.codec_context.height}"
                raise VideoError(f"{self._shown} must have frames of up to {MAX_PIXELS} pixels, got {size}")
            stream.thread_type = "AUTO"
            yield container, stream


@contextmanager
def open_media(location: str, shown: str, file_format: str | None = None) -> Iterator["av.container.InputContainer"]:
    """Open a media file, or an address; every error of PyAV in the body of the `with` statement becomes one sentence.

    What is opened cannot lead to other files or addresses, as playlists do: FFmpeg is given bytes, and no protocol.

    Args:
        location: a path or an http or https address; with `file_format` what this device of FFmpeg takes.
        shown: what messages call it.
        file_format: name of a device of FFmpeg; None for files.

    Raises:
        VideoError: PyAV is not there, or the file cannot be read.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError(f"{shown}: video files need PyAV: pip install 'grounded-segany[video]'") from error
    try:
        with ExitStack() as opened:
            if file_format is not None:
                yield opened.enter_context(av.open(location, mode="r", format=file_format, timeout=_SILENCE))
                return
            if is_address(location):
                file: IO[bytes] | AddressFile = opened.enter_context(AddressFile(location))
            else:
                file = opened.enter_context(Path(location).open("rb"))
            yield opened.enter_context(av.open(file, mode="r", options={"protocol_whitelist": "none"}))
    except VideoError:
        raise
    except ImageError as error:  # of an address
        raise VideoError(str(error).replace("not an image", "not a video")) from error
    except GroundedError:
        raise
    except av.error.DecoderNotFoundError as error:
        raise VideoError(f"{shown}: this PyAV has no decoder for its codec") from error
    except av.error.InvalidDataError as error:
        reason = "it is something else, or a part of it is missing"
        raise VideoError(f"{shown} cannot be read as a video: {reason}") from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{shown} cannot be read as a video: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, av.error.EOFError):
        return "it is cut off"
    reason = str(getattr(error, "strerror", None) or one_line(error))
    return reason[:1].lower() + reason[1:]


def _info(location: str, container: Any, stream: Any) -> ClipInfo:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return ClipInfo(
        name=address_name(location) if is_address(location) else Path(location).name,
        frame_rate=float(stream.average_rate or stream.guessed_rate or FRAME_RATE),
        count=stream.frames or None,
        sound=location if container.streams.audio else None,
        pixel_aspect=float(aspect) if aspect else 1.0,
    )


def _decoded(container: Any, stream: Any, shown: str, from_start: bool = True) -> Iterator[Any]:
    """Yield the whole frames from where a container is, and raise VideoError behind the last one before damage."""
    import av

    packets, ends, count, damage = container.demux(), 0.0, 0, ""
    while not damage:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if packet.pts is not None:
                ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            count += packet.size > 0
            # In transport streams it says that something is missing before: what is there is shown, as players do.
            if packet.is_corrupt and container.format.name != "mpegts":
                damage = "a frame is not complete"
                break
            for frame in packet.decode():
                if frame.is_corrupt:
                    damage = "a frame is damaged"
                    break
                yield frame
        except av.error.EOFError:
            break
        except av.error.FFmpegError as error:
            damage = _reason(error)
    if damage:
        yield from _rest_of(stream)
    damage = damage or _missing_end(container, stream, ends, count if from_start else stream.frames)
    if damage:
        raise VideoError(f"{shown} is cut off or damaged: {damage}")


def _rest_of(stream: Any) -> Iterator[Any]:
    """Whole frames that a decoder still holds after damage."""
    import av

    try:
        for frame in stream.decode(None):
            if frame.is_corrupt:
                return
            yield frame
    except av.error.FFmpegError:
        return


def _missing_end(container: Any, stream: Any, ends: float, count: int) -> str:
    """What a container, read to its end in seconds, states to hold beyond that; "" if nothing. Some never raise it."""
    names = container.format.name.split(",")
    if container.duration and not {"matroska", "mov"}.isdisjoint(names):
        start = container.start_time or 0 if "mov" in names else 0
        stated = (start + container.duration) / 1_000_000
        if ends < stated - _MISSING_END:
            return f"it ends after {ends:.1f} of {stated:.1f} s"
    if "avi" in names and count < stream.frames:
        return f"it ends after {count} of {stream.frames} frames"
    return ""


def _decoded_from(container: Any, stream: Any, times: "array[int]", start: int, shown: str) -> Iterator[Any] | None:
    """Yield the frames from number `start` on by going to a place before it; None if it is not found so."""
    import av

    for seconds in _SEEK_BEFORE:
        place = max(times[0], times[start] - int(seconds / stream.time_base))
        try:
            container.seek(place, stream=stream)
        except av.error.FFmpegError:
            return None
        frames = _decoded(container, stream, shown, from_start=False)
        for frame in frames:
            if frame.pts == times[start]:
                return chain([frame], frames)
            if frame.pts is None or frame.pts > times[start] or times[bisect_left(times, frame.pts)] != frame.pts:
                break
    return None


def _upright(frame: Any, size: tuple[int, int]) -> Image.Image:
    """The image of a decoded frame of (width, height), turned and mirrored as the file states."""
    # Before version 18 PyAV converts by BT.601, unless it is told two spaces that differ; RGB has none.
    conversion = {"src_colorspace": "ITU709", "dst_colorspace": "ITU601"} if frame.colorspace == _BT709 else {}
    image = frame.to_image(width=size[0], height=size[1], **conversion)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # Rows of the matrix say where x and y of a stored pixel go, times 65536.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5] / 65536.0
    pixels = np.asarray(image)
    if abs(a * d) < abs(b * c):  # columns become rows
        pixels, flips = pixels.transpose(1, 0, 2), (b < 0, c < 0)
    else:
        flips = (d < 0, a < 0)
    rows, columns = (slice(None, None, -1) if flip else slice(None) for flip in flips)
    return Image.fromarray(np.ascontiguousarray(pixels[rows, columns]))
