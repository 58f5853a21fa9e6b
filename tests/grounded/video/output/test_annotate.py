from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import OutputError, VideoError
from grounded.video.clip import ClipInfo
from grounded.video.frames import open_clip
from grounded.video.output.annotate import annotated_clip, draw_tracks, track_colour
from grounded.video.output.write import with_images, write_outputs
from tests.grounded.failures import fill_disk
from tests.grounded.video.clips import crossing, moving, read_sound, square, tracked, write_clip

av = pytest.importorskip("av")
INFO = ClipInfo("a.mp4", 25.0)


def annotate(path: Path, frames, info: ClipInfo = INFO) -> Path:
    assert len(list(write_outputs(frames, [annotated_clip(path, info)]))) > 0
    return path


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_frames_and_their_uneven_times(name: str, tmp_path: Path):
    times = [0.0, 0.04, 0.08, 0.2, 0.21, 1.0]
    frames = [(tracked(n, {1: square(n)}, seconds), Image.fromarray(moving(n))) for n, seconds in enumerate(times)]
    written = list(open_clip(annotate(tmp_path / name, frames)).frames())
    assert [frame.seconds for frame in written] == pytest.approx(times, abs=2e-3)
    for frame, (track, image) in zip(written, frames, strict=True):
        expected = np.asarray(draw_tracks(image, track), float)
        assert np.abs(np.asarray(frame.image) - expected).mean() < 8


def test_what_players_expect_of_an_mp4(tmp_path: Path):
    images = [Image.fromarray(moving(n, 33, 21)) for n in range(3)]
    frames = [(tracked(n, {3: square(n, 33, 21)}), image) for n, image in enumerate(images)]
    path = annotate(tmp_path / "out.mp4", frames, ClipInfo("a.mp4", 25.0, pixel_aspect=4 / 3))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (34, 22)  # even
        assert float(stream.sample_aspect_ratio) == pytest.approx(4 / 3)
        assert not container.streams.audio
    shown = np.asarray(next(open_clip(path).frames()).image, float)[:21, :33]
    assert np.abs(shown - np.asarray(draw_tracks(images[0], frames[0][0]), float)).mean() < 15


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_colours_come_back(name: str, tmp_path: Path):
    colours = [(200, 30, 40), (20, 180, 60), (30, 60, 220), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
    frames = [(tracked(n, {}), Image.new("RGB", (64, 48), colour)) for n, colour in enumerate(colours)]
    path = annotate(tmp_path / name, frames)
    for frame, colour in zip(open_clip(path).frames(), colours, strict=True):
        np.testing.assert_allclose(np.asarray(frame.image)[24, 32], colour, atol=6)


@pytest.mark.parametrize(
    ("source", "sound", "name", "codec", "tolerance"),
    [
        pytest.param("a.mp4", ("aac", "fltp"), "out.mp4", "aac", 1e-6, id="taken over"),
        pytest.param("a.mkv", ("pcm_s16le", "s16"), "out.mp4", "aac", 0.05, id="encoded again for MP4"),
        pytest.param("a.mp4", ("aac", "fltp"), "out.webm", "opus", 0.1, id="encoded again for WebM"),
        pytest.param("a.webm", ("libopus", "flt"), "out.webm", "opus", 1e-6, id="taken over into WebM"),
    ],
)
def test_sound_is_kept(source: str, sound: tuple[str, str], name: str, codec: str, tolerance: float, tmp_path: Path):
    encoder = "libvpx-vp9" if source.endswith("webm") else "libx264"
    options = {"deadline": "realtime", "cpu-used": "8"} if encoder == "libvpx-vp9" else {}
    clip = open_clip(write_clip(tmp_path / source, 25, codec=encoder, options=options, sound=sound))
    frames = ((tracked(n, {1: square(n)}), frame.image) for n, frame in enumerate(clip.frames()))
    path = annotate(tmp_path / name, frames, clip.info)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == codec
    (start, expected), (written_start, written) = read_sound(tmp_path / source), read_sound(path)
    assert written_start == pytest.approx(start, abs=0.03)
    shift = round((written_start - start) * 48_000)
    common = min(len(expected) - max(shift, 0), len(written)) - 2048
    assert common > 0.9 * 48_000
    assert loudness(written[:common]) == pytest.approx(loudness(expected[:common]), abs=max(tolerance, 0.02))
    if tolerance < 1e-3:
        assert np.abs(written[:common] - expected[:common]).max() <= tolerance


def loudness(samples: np.ndarray) -> list[float]:
    """Of ten equal parts."""
    return [float(np.sqrt(np.mean(part**2))) for part in np.array_split(samples, 10)]


def test_sound_from_the_middle_on(tmp_path: Path):
    clip = open_clip(write_clip(tmp_path / "a.mp4", 50, sound=("aac", "fltp")))
    frames = ((tracked(f.number, {1: square(f.number)}, f.seconds), f.image) for f in clip.frames(25, 40))
    path = annotate(tmp_path / "out.mp4", frames, clip.info)
    written = list(open_clip(path).frames())
    assert len(written) == 15 and written[0].seconds == 0
    start, samples = read_sound(path)
    _, whole = read_sound(tmp_path / "a.mp4")
    first = 48_000 + round(start * 48_000)
    assert abs(start) < 0.03 and 0.5 < len(samples) / 48_000 < 0.75
    assert loudness(samples[2048:24_000]) == pytest.approx(loudness(whole[first + 2048 : first + 24_000]), abs=0.03)


def test_sound_that_is_damaged_does_not_cost_the_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    clip = open_clip(write_clip(tmp_path / "a.mkv", 25, sound=("aac", "fltp")))
    frames = [(tracked(n, {1: square(n)}), frame.image) for n, frame in enumerate(clip.frames())]
    (tmp_path / "a.mkv").unlink()
    assert len(list(open_clip(annotate(tmp_path / "out.mp4", frames, clip.info)).frames())) == 25
    assert "the sound ends early" in caplog.text


def test_an_object_has_one_colour_and_its_name():
    frames = crossing()
    colour = np.array(track_colour(1), float)
    for track, _ in frames:
        image = np.asarray(draw_tracks(Image.new("RGB", (64, 48), "white"), track, opacity=1.0), float)
        seen = image[7:13][:, np.flatnonzero(square(track.number)[10])[3:-3]].reshape(-1, 3)
        assert (np.abs(seen - colour).max(axis=1) < 3).any()
    assert frames[2][0].names == ["a dog 1", "a cat 2"]
    assert len({track_colour(track) for track in range(1, 200)}) == 199


def test_no_frame(tmp_path: Path):
    with pytest.raises(VideoError, match="there is no frame"):
        list(write_outputs([], [annotated_clip(tmp_path / "out.mp4", INFO)]))
    assert not list(tmp_path.iterdir())


def test_stopped_half_way(tmp_path: Path):
    written = write_outputs(crossing(), [annotated_clip(tmp_path / "new" / "out.mp4", INFO)])
    next(written)
    written.close()
    assert not list(tmp_path.iterdir())


def test_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out.mp4").write_bytes(b"older")
    fill_disk(monkeypatch, "out.mp4")
    with pytest.raises(OutputError, match=r"cannot write .*out.mp4: the disk is full"):
        annotate(tmp_path / "out.mp4", crossing())
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"older"


def test_images_of_tracked_frames(tmp_path: Path):
    clip = open_clip(write_clip(tmp_path / "a.mp4", 12))
    pairs = list(with_images(clip, [tracked(n, {}) for n in (3, 4, 9)]))
    assert [frame.number for frame, _ in pairs] == [3, 4, 9]
    for frame, image in pairs:
        assert np.abs(np.asarray(image, float) - moving(frame.number)).mean() < 10
    with pytest.raises(VideoError, match="ends before frame 12"):
        list(with_images(clip, [tracked(12, {})]))
