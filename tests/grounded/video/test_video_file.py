import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import VideoError
from grounded.video.clip import read_ahead
from grounded.video.frames import frames_backwards, open_clip
from grounded.video.video_file import VideoFile
from tests.grounded.video.clips import B_FRAMES, moving, write_clip
from tests.http_server import ImageServer, image_server

av = pytest.importorskip("av")

# name -> what `write_clip` writes
KINDS = {
    "b-frames.mp4": {"options": B_FRAMES},
    "open-gop.mp4": {"options": {**B_FRAMES, "x264-params": "open-gop=1:scenecut=0"}},
    "intra-refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=8"}},
    "b-frames.mkv": {"options": B_FRAMES},
    "b-frames.ts": {"options": B_FRAMES},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "hidden-frames.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "10", "cpu-used": "8"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "10"}},
    "uneven-times.mp4": {"options": B_FRAMES, "milliseconds": [10 * n + n * n for n in range(24)]},
}


def pixels(frames) -> list[np.ndarray]:
    return [np.asarray(frame.image) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_reading_from_the_middle_equals_reading_from_the_beginning(kind: str, tmp_path: Path):
    clip = open_clip(write_clip(tmp_path / kind, **KINDS[kind]))
    early = list(clip.frames(17, 19))  # nothing is known of the file yet
    whole = list(clip.frames())
    assert [frame.number for frame in whole] == list(range(24))
    for start, stop in [(17, 19), (1, 3), (8, 10), (9, 11), (12, 14), (23, None), (24, None)]:
        part = early if start == 17 else list(clip.frames(start, stop))
        expected = whole[start:stop]
        assert [(f.number, f.seconds) for f in part] == [(f.number, f.seconds) for f in expected]
        assert all(map(np.array_equal, pixels(part), pixels(expected)))


def test_backwards(tmp_path: Path):
    clip = open_clip(write_clip(tmp_path / "a.mp4", options=B_FRAMES))
    whole = list(clip.frames())
    back = list(frames_backwards(clip, 21, 2))
    assert [frame.number for frame in back] == list(range(21, 1, -1))
    assert all(map(np.array_equal, pixels(back), pixels(whole[21:1:-1])))


def test_uneven_times_are_those_of_the_file(tmp_path: Path):
    times = [0, 40, 80, 200, 210, 1000]
    clip = open_clip(write_clip(tmp_path / "a.mp4", 6, options=B_FRAMES, milliseconds=[500 + time for time in times]))
    assert [frame.seconds for frame in clip.frames()] == pytest.approx([time / 1000 for time in times], abs=1e-3)


@pytest.mark.parametrize(
    ("codec", "stored", "size"),
    [
        ("ffv1", "bgr0", (64, 48)),
        ("ffv1", "bgr0", (33, 21)),
        ("ffv1", "gray", (64, 48)),
        ("ffv1", "gray10le", (33, 21)),
        ("libx264", "yuv420p10le", (64, 48)),
        ("libx264", "yuv444p", (33, 21)),
    ],
)
def test_pixel_formats_become_rgb(codec: str, stored: str, size: tuple[int, int], tmp_path: Path):
    clip = open_clip(write_clip(tmp_path / "a.mkv", 3, codec=codec, pixels=stored, size=size))
    for frame in clip.frames():
        expected = moving(frame.number, *size).astype(float)
        if "gray" in stored:
            expected = np.repeat(expected @ [[0.299], [0.587], [0.114]], 3, axis=2)
        assert frame.image.mode == "RGB" and frame.image.size == size
        tolerance = 0 if stored == "bgr0" else 3 if codec == "ffv1" else 10
        assert np.abs(np.asarray(frame.image) - expected).mean() <= tolerance


def test_pixels_that_are_not_square_stay_as_stored(tmp_path: Path):
    clip = open_clip(write_clip(tmp_path / "a.mp4", 2, aspect=Fraction(4, 3)))
    assert clip.info.pixel_aspect == pytest.approx(4 / 3)
    assert next(clip.frames()).image.size == (64, 48)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(degrees: int, mirrored: bool, tmp_path: Path):
    stored = moving(3)
    path = write_clip(
        tmp_path / "a.mp4",
        2,
        options={"crf": "4"},
        rotation=degrees,
        mirrored=mirrored,
        images=[stored] * 2,
    )
    shown = np.rot90(stored, degrees // 90)  # counterclockwise, as FFmpeg counts the angle of a display matrix
    expected = shown[:, ::-1] if mirrored else shown
    image = np.asarray(next(open_clip(path).frames()).image)
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected).mean() < 8


def test_a_phone_held_upright_turns_clockwise(tmp_path: Path):
    """The matrix that phones write, in the notation of the QuickTime file format: x' = height - y, y' = x."""
    one, last = 1 << 16, 1 << 30
    matrix = [0, one, 0, -one, 0, 0, 48 * one, 0, last]
    stored = moving(3)
    path = write_clip(tmp_path / "a.mp4", 2, options={"crf": "4"}, matrix=matrix, images=[stored] * 2)
    image = np.asarray(next(open_clip(path).frames()).image)
    assert np.abs(image.astype(float) - np.rot90(stored, -1)).mean() < 8


def test_a_stream_that_changes_its_size(tmp_path: Path):
    """Two transport streams, one after the other, are one; the second is smaller, and its times begin anew."""
    parts = [write_clip(tmp_path / f"{side}.ts", 8, size=(side, side)).read_bytes() for side in (64, 32)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    clip = open_clip(tmp_path / "both.ts")
    frames = list(clip.frames())
    assert len(frames) == 16 and {frame.image.size for frame in frames} == {(64, 64)}
    seconds = [frame.seconds for frame in frames]
    assert seconds == sorted(seconds)
    assert [frame.number for frame in clip.frames(11, 13)] == [11, 12]


def test_a_cover_is_no_video(tmp_path: Path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 20, 20, "yuvj420p"
        try:
            cover.disposition = av.stream.Disposition.attached_pic
        except (TypeError, AttributeError):
            pytest.skip("this PyAV cannot write a cover")
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        for target, size in [(cover, (20, 20)), (stream, (64, 48)), (stream, (64, 48))]:
            container.mux(target.encode(av.VideoFrame.from_ndarray(moving(0, *size), format="rgb24")))
        container.mux([*cover.encode(None), *stream.encode(None)])
    assert [frame.image.size for frame in open_clip(tmp_path / "a.mp4").frames()] == [(64, 48)] * 2


# ---- Reading ahead ----


def frame_threads() -> int:
    return sum(thread.name == "frames" for thread in threading.enumerate())


def test_the_thread_ends_when_the_iterator_is_closed(tmp_path: Path):
    before = frame_threads()
    frames = open_clip(write_clip(tmp_path / "a.mp4")).frames()
    assert next(frames).number == 0 and frame_threads() == before + 1
    frames.close()
    assert frame_threads() == before


def test_few_values_are_held():
    taken = []

    def values() -> Iterator[int]:
        for value in range(1000):
            taken.append(value)
            yield value

    ahead = read_ahead(values(), 3)
    assert next(ahead) == 0
    for _ in range(20):
        threading.Event().wait(0.005)
    assert len(taken) <= 6
    assert next(ahead) == 1
    ahead.close()
    assert len(taken) <= 8


def test_an_error_comes_after_the_values_before_it():
    def values() -> Iterator[int]:
        yield from range(3)
        raise VideoError("damaged")

    seen = []
    with pytest.raises(VideoError, match="damaged"):
        seen.extend(iter_into(seen, read_ahead(values())))
    assert seen == [0, 1, 2]


def iter_into(seen: list[int], values: Iterator[int]) -> list[int]:
    for value in values:
        seen.append(value)
    return []


# ---- Bad input ----


def write_bad(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "sound.mp4":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=48_000)
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 48_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    elif kind == "codec.avi":
        data = write_clip(folder / "a.avi", 3, codec="mpeg4").read_bytes()
        path.write_bytes(data.replace(b"FMP4", b"QQQQ"))
    elif kind == "empty.mp4":
        path.write_bytes(b"")
    elif kind == "frameless.mkv":
        data = write_clip(folder / "a.mkv", 3).read_bytes()
        path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    elif kind == "page.mp4":
        path.write_bytes(b"<!DOCTYPE html><html><body>Please log in</body></html>")
    elif kind == "noise.mp4":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "list.m3u8":
        clip = write_clip(folder / "a.ts", 3)
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n")
    elif kind == "list.ffconcat":
        clip = write_clip(folder / "a.ts", 3)
        path.write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sound.mp4", "holds no video stream, only audio"),
        ("codec.avi", "no decoder for its codec"),
        ("empty.mp4", "cannot be read as a video"),
        ("frameless.mkv", "holds no frame|cannot be read|cut off"),
        ("page.mp4", "cannot be read as a video: it is something else"),
        ("noise.mp4", "cannot be read as a video"),
        ("list.m3u8", "cannot be read|holds no video|cut off"),
        ("list.ffconcat", "cannot be read|holds no video|cut off"),
        ("missing.mp4", "no such clip"),
    ],
)
def test_bad_files(kind: str, message: str, tmp_path: Path):
    with pytest.raises(VideoError, match=message) as caught:
        list(open_clip(write_bad(tmp_path, kind)).frames())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "container_options"),
    [
        ("a.mp4", {"movflags": "faststart"}),
        ("a.mkv", {}),
        ("a.avi", {}),
    ],
)
def test_whole_frames_of_a_file_that_is_cut_off(name: str, container_options: dict, share: float, tmp_path: Path):
    codec, options = ("mpeg4", {"g": "12"}) if name.endswith(".avi") else ("libx264", B_FRAMES)
    path = write_clip(tmp_path / name, 60, codec=codec, options=options, container_options=container_options)
    whole, data = list(open_clip(path).frames()), path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    seen = []
    with pytest.raises(VideoError, match=r"cut off|a part of it is missing"):
        for frame in open_clip(path).frames():
            seen.append(frame)
    assert len(seen) < 60
    assert all(map(np.array_equal, pixels(seen), pixels(whole)))


def test_pyav_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_clip(tmp_path / "a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'grounded-segany\[video\]'"):
        open_clip(path)


# ---- Cameras ----


def test_frames_of_a_device_as_they_come():
    clip = VideoFile("testsrc=size=64x48:rate=30", "camera 0", "lavfi")  # FFmpeg's test image, a device like a camera
    frames = clip.frames()
    seen = [next(frames) for _ in range(6)]
    frames.close()
    assert [frame.number for frame in seen] == list(range(6))
    assert [frame.seconds for frame in seen] == pytest.approx([n / 30 for n in range(6)], abs=1e-3)
    assert seen[0].image.size == (64, 48) and clip.info.count is None


def test_no_such_camera():
    with pytest.raises(VideoError, match="camera 99 cannot be read as a video: no such file"):
        next(open_clip("99").frames())


# ---- Addresses ----


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageServer]:
    path = write_clip(tmp_path_factory.mktemp("served") / "a.mp4", 60, options=B_FRAMES, size=(320, 240))
    with image_server(path) as running:
        yield running


@pytest.mark.parametrize("how", ["parts", "image"])
def test_a_video_at_an_address(how: str, server: ImageServer):
    clip = open_clip(f"{server.url}/{how}/clip%201.mp4")
    assert clip.info.name == "clip 1.mp4"
    frames = list(clip.frames())
    assert len(frames) == 60
    assert np.abs(np.asarray(frames[7].image).astype(float) - moving(7, 320, 240)).mean() < 10
    assert [frame.number for frame in clip.frames(30, 33)] == [30, 31, 32]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("status/404", "answers 404, there is nothing at this address"),
        ("status/401", "answers 401, it asks for a login"),
        ("status/500", "answers 500, the server has a fault"),
        ("html/a.mp4", "answers with an HTML page, not a video"),
        ("redirect/out", "cannot get .*: "),
        ("cut/a.mp4", "the connection broke off after 1000 of"),
    ],
)
def test_addresses_that_lead_to_no_video(path: str, message: str, server: ImageServer):
    with pytest.raises(VideoError, match=message) as caught:
        list(open_clip(f"{server.url}/{path}").frames())
    assert "\n" not in str(caught.value)


def test_no_host():
    with pytest.raises(VideoError, match="refuses the connection"):
        open_clip("http://127.0.0.1:9/a.mp4")
