"""Images and sound as video files, through PyAV: H.264 in MP4, VP9 in WebM, with the times of the frames."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from grounded.errors import OutputError, VideoError, one_line
from grounded.utils.files import open_atomically, output_errors
from grounded.video.output.sound import Sound

_CLOCK = Fraction(1, 90_000)  # seconds; every usual frame rate is a whole number of it
_BT709 = 1  # number of this standard in H.273, for the conversion from RGB, the primaries and the transfer


@dataclass(frozen=True)
class Encoding:
    """How a kind of video file is written.

    container        FFmpeg's name of it
    codec            FFmpeg's name of the encoder
    pixels           FFmpeg's name of the pixel format; "yuva420p" has an alpha channel
    options          of the encoder
    sound_codecs     that players of this container know; other sound is encoded again
    sound_encoder    FFmpeg's name of the encoder for that
    even             whether sides must be even
    """

    container: str
    codec: str
    pixels: str
    options: dict[str, str]
    sound_codecs: tuple[str, ...]
    sound_encoder: str
    even: bool


MP4 = Encoding(
    "mp4", "libx264", "yuv420p", {"crf": "20", "preset": "veryfast"}, ("aac", "mp3", "ac3", "eac3", "alac"), "aac", True
)
_VP9 = {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
WEBM = Encoding("webm", "libvpx-vp9", "yuv420p", _VP9, ("opus", "vorbis"), "libopus", False)
# Frames that are only ever reference frames are not written with an alpha channel.
TRANSPARENT_WEBM = Encoding(
    "webm", "libvpx-vp9", "yuva420p", {**_VP9, "auto-alt-ref": "0"}, ("opus", "vorbis"), "libopus", False
)


class VideoWriter:
    """One video file that is being written. The first image gives the size of all."""

    def __init__(
        self, file: IO[bytes], path: Path, encoding: Encoding, frame_rate: float, pixel_aspect: float, sound: str | None
    ) -> None:
        """Begin a file.

        Args:
            file: what is written to; it can be sought in.
            path: what errors call it.
            encoding: of the file.
            frame_rate: frames per second, a hint to the encoder; frames have times of their own.
            pixel_aspect: width of a pixel by its height.
            sound: a media file whose sound is put beside the frames; None for none.
        """
        self._file, self._path, self._encoding = file, path, encoding
        self._rate, self._aspect, self._sound_source = frame_rate, pixel_aspect, sound
        self._container: Any = None
        self._stream: Any = None
        self._sound: Sound | None = None
        self._first, self._last = 0.0, -1  # seconds, and time stamp, of frames

    def write(self, image: Image.Image, seconds: float) -> None:
        """Append an image, RGB or RGBA, that is shown from this time on; times must increase."""
        with self._errors():
            if self._container is None:
                self._begin(image, seconds)
            frame = self._frame(image)
            time = max(round((seconds - self._first) / _CLOCK), self._last + 1)
            frame.pts, frame.time_base, self._last = time, _CLOCK, time
            self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.write_until(float(time * _CLOCK), self._errors)

    def finish(self) -> None:
        """Write what the encoder still holds, the rest of the sound, and the end of the file."""
        if self._container is None:
            raise VideoError(f"{self._path} cannot be written: there is no frame")
        with self._errors():
            self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.write_until(float(self._last * _CLOCK) + 1 / self._rate, self._errors)
        with self._errors():
            self._container.close()

    def close(self) -> None:
        """Let go of everything, also of a file that was not finished."""
        if self._sound is not None:
            self._sound.close()
        if self._container is not None:
            with suppress(Exception):  # what could not be written before cannot be written now
                self._container.close()

    def _begin(self, image: Image.Image, seconds: float) -> None:
        import av

        encoding, self._first = self._encoding, seconds
        self._container = av.open(self._file, "w", format=encoding.container)
        rate = Fraction(self._rate).limit_denominator(1001)
        stream = self._container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
        stream.width, stream.height = self._size(image)
        stream.pix_fmt = encoding.pixels
        context = stream.codec_context
        context.time_base = _CLOCK
        context.sample_aspect_ratio = Fraction(self._aspect).limit_denominator(255)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        if encoding.pixels == "yuva420p":
            stream.metadata["alpha_mode"] = "1"
        self._stream = stream
        if self._sound_source is not None:
            self._sound = Sound(
                self._sound_source, self._container, encoding.sound_codecs, encoding.sound_encoder, seconds
            )

    def _size(self, image: Image.Image) -> tuple[int, int]:
        if not self._encoding.even:
            return image.size
        return image.width + image.width % 2, image.height + image.height % 2

    def _frame(self, image: Image.Image) -> Any:
        import av

        has_alpha = self._encoding.pixels == "yuva420p"
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        width, height = self._stream.width, self._stream.height
        missing = height - pixels.shape[0], width - pixels.shape[1]
        if not all(side in (0, 1) for side in missing):
            raise ValueError(f"frames of a video must be of one size, {width}x{height}, got {image.size}")
        if any(missing):  # a side is odd
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba" if has_alpha else "rgb24")
        return frame.reformat(format=self._encoding.pixels, dst_colorspace="ITU709")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import av

        try:
            with output_errors(self._path):
                yield
        except av.error.FFmpegError as error:
            raise OutputError(f"cannot write {self._path}: {one_line(error)}") from error


@contextmanager
def open_video(
    path: Path, encoding: Encoding, frame_rate: float, pixel_aspect: float = 1.0, sound: str | None = None
) -> Iterator[VideoWriter]:
    """Open a video file to be written image by image; it takes its place at the end of the `with` statement.

    Raises:
        VideoError: PyAV is not there, or no image was written.
        OutputError: the file cannot be written.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise VideoError(f"{path}: video files need PyAV: pip install 'grounded-segany[video]'") from error
    with open_atomically(path) as file:
        writer = VideoWriter(file, path, encoding, frame_rate, pixel_aspect, sound)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
