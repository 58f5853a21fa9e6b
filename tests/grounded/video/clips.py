"""Small clips that tests write, and tracks of what moves in them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.data.instances import Instances
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import encode_rle

WIDTH, HEIGHT = 64, 48
# x264 with frames that are stored before those that they follow.
B_FRAMES = {"bf": "3", "g": "12"}


def moving(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame that no other one is like: a square that moves over a ground that grows redder."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = number * 5 % 256
    pixels[: height // 2, :, 2] = 200
    pixels[square(number, width, height)] = (255, 200, 0)
    return pixels


def square(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Where the square is."""
    mask = np.zeros((height, width), bool)
    left = number * 2 % 40
    mask[5:15, left : left + 10] = True
    return mask


def write_clip(
    path: Path,
    count: int = 24,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    milliseconds: Sequence[int] | None = None,
    container_options: dict[str, str] | None = None,
    sound: tuple[str, str] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    images: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write a video of `moving` frames, or of `images`, 25 per second or at the times given. Returns `path`.

    `sound` is the encoder and its sample format: a tone as long as the frames, that grows louder.
    """
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        if (rotation or mirrored or matrix is not None) and not hasattr(stream, "set_display_matrix"):
            pytest.skip("this PyAV cannot write a rotation")
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        tone = None if sound is None else container.add_stream(sound[0], rate=48_000)
        if tone is not None:
            tone.codec_context.layout = "mono"
        for number in range(count):
            image = moving(number, *size) if images is None else images[number]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            _write_tone(av, container, tone, count / 25, sound[1])
    return path


def _write_tone(av, container, stream, seconds: float, sample_format: str) -> None:
    samples = int(seconds * 48_000)
    time = np.arange(samples) / 48_000
    wave = (np.sin(2 * np.pi * 440 * time) * time / seconds * 0.8 * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    resampler = av.AudioResampler(sample_format, "mono", 48_000, stream.codec_context.frame_size or None)
    for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
        container.mux(stream.encode(piece))


def read_sound(path: Path) -> tuple[float, np.ndarray]:
    """The seconds at which the sound of a file begins after its first frame, and its samples, mono."""
    import av

    with av.open(str(path)) as container:
        video = container.streams.video[0]
        first = float((video.start_time or 0) * video.time_base)
        resampler = av.AudioResampler("flt", "mono", 48_000)
        start, pieces = None, []
        for frame in container.decode(container.streams.audio[0]):
            start = frame.time if start is None else start
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        return (start or 0.0) - first, np.concatenate(pieces)


def tracked(number: int, masks: dict[int, np.ndarray], seconds: float | None = None, **options) -> TrackedFrame:
    """A frame with these masks by track id. Odd tracks are dogs, even ones are cats."""
    size = next(iter(masks.values())).shape if masks else (HEIGHT, WIDTH)
    rles = encode_rle(np.stack(list(masks.values()))) if masks else []
    instances = Instances.from_masks(
        ("a dog", "a cat"),
        size,
        rles,
        np.array([1 - track % 2 for track in masks], np.int64),
        np.full(len(masks), 0.9, np.float32),
        "track",
    )
    return TrackedFrame(
        number=number,
        seconds=number / 25 if seconds is None else seconds,
        instances=instances,
        track_ids=np.array(list(masks), np.int64),
        **options,
    )


def crossing(count: int = 6) -> list[tuple[TrackedFrame, Image.Image]]:
    """Frames of the square (track 1) and, from frame 2 to 3, a band that it lies on (track 2)."""
    frames = []
    for number in range(count):
        masks = {1: square(number)}
        if number >= 2:
            band = np.zeros((HEIGHT, WIDTH), bool)
            band[10:20] = number < 4
            masks[2] = band
        frames.append((tracked(number, masks), Image.fromarray(moving(number))))
    return frames


def visible(frame: TrackedFrame) -> dict[int, np.ndarray]:
    """The pixels that each object in sight has for itself."""
    ids = frame.id_map()
    return {track: ids == track for track in np.unique(ids).tolist() if track}
