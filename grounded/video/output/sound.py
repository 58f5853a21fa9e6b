"""The sound of a clip, taken over packet by packet into the video that is written; encoded again where it must be."""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any

from grounded.errors import VideoError
from grounded.video.video_file import open_media

_log = logging.getLogger("grounded.video")
_OPUS_RATE = 48_000  # samples per second, the one that every Opus decoder gives


class Sound:
    """The sound of a media file from one time on, beside the frames of an output.

    It is read as far as it is written, so that never more than a moment of it is held. Sound that is damaged ends
    there, with a warning in the log: the frames are worth more.
    """

    def __init__(self, source: str, output: Any, codecs: tuple[str, ...], encoder: str, start: float) -> None:
        """Add a stream of sound to an output.

        Args:
            source: path or address of the media file.
            output: PyAV's container, before its first packet.
            codecs: that are taken over as they are.
            encoder: for others.
            start: seconds of the clip at which the output begins.
        """
        self._source, self._output = source, output
        self._packets = self._read(codecs, encoder, start)
        self._next = self._advance()

    def write_until(self, seconds: float, errors: Callable[[], AbstractContextManager[None]]) -> None:
        """Write what begins up to this time of the output, within `errors()`."""
        while self._next is not None and self._next[0] <= seconds:
            with errors():
                self._output.mux(self._next[1])
            self._next = self._advance()

    def close(self) -> None:
        """Close the source."""
        self._packets.close()

    def _advance(self) -> tuple[float, Any] | None:
        try:
            return next(self._packets, None)
        except VideoError as error:
            _log.warning("the sound ends early: %s", error)
            return None

    def _read(self, codecs: tuple[str, ...], encoder: str, start: float) -> Generator[tuple[float, Any], None, None]:
        """Yield packets for the output, with the seconds of its own time at which they begin."""
        with open_media(self._source, self._source) as container:
            stream: Any = container.streams.audio[0]
            # Sound keeps its distance to the first frame, which a file may begin after or before it.
            videos: Any = container.streams.video
            offset = start + (float((videos[0].start_time or 0) * videos[0].time_base) if videos else 0.0)
            if stream.codec_context.name in codecs:
                yield from _copied(container, stream, self._output.add_stream_from_template(stream), offset, start)
            else:
                rate = _OPUS_RATE if encoder == "libopus" else stream.codec_context.sample_rate
                target = self._output.add_stream(encoder, rate=rate)
                target.codec_context.layout = "mono" if stream.codec_context.channels == 1 else "stereo"
                yield from _encoded_again(container, stream, target, offset, start)


def _copied(container: Any, stream: Any, target: Any, offset: float, start: float) -> Iterator[tuple[float, Any]]:
    shift = round(offset / stream.time_base)
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        # Before the very beginning are samples that prime the decoder.
        if start > 0 and packet.pts + (packet.duration or 0) <= 0:
            continue
        packet.stream = target
        yield float(packet.pts * packet.time_base), packet


def _encoded_again(
    container: Any, stream: Any, target: Any, offset: float, start: float
) -> Iterator[tuple[float, Any]]:
    import av

    context = target.codec_context
    resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size or None)

    def encoded(frames: Any) -> Iterator[tuple[float, Any]]:
        for frame in frames:
            for packet in target.encode(frame):
                yield float(packet.pts * packet.time_base), packet

    for frame in container.decode(stream):
        seconds = (frame.time or 0.0) - offset
        if seconds < 0 and start > 0:
            continue
        frame.pts = round(seconds * frame.sample_rate)
        frame.time_base = Fraction(1, frame.sample_rate)
        yield from encoded(resampler.resample(frame))
    yield from encoded([*resampler.resample(None), None])
