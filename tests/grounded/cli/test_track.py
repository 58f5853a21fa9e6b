"""`grounded track` with the bundled models, on clips of a few frames."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grounded.cli.track import OUTPUTS, track
from grounded.labelling.clips import TrackedFrames
from grounded.labelling.store import open_run, read_done_files
from grounded.labelling.store.run import Run
from grounded.video.pipeline import VideoPipeline
from segany.utils.rle import decode_rle
from tests.data import ROOT
from tests.grounded.labelling.test_survival import small_disk  # noqa: F401, a fixture
from tests.grounded.video.clips import write_clip
from tests.grounded.video.drawn import DrawnClip, drawn_clip, line
from tests.video_models import bundled_video

COUNT = 4


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are loaded once, and not for every command."""
    video = bundled_video()
    monkeypatch.setattr(VideoPipeline, "from_config", lambda source, **options: video)


@pytest.fixture(scope="module")
def drawn() -> DrawnClip:
    return drawn_clip({"dog": line((60, 120), (100, 100), COUNT)})


@pytest.fixture(scope="module")
def shots(drawn: DrawnClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip as a folder of images, and beside it the mask in its first frame."""
    folder = tmp_path_factory.mktemp("clip") / "shots"
    folder.mkdir()
    for number, image in enumerate(drawn.images):
        image.save(folder / f"{number}.png")
    mask = decode_rle([drawn.rles[0][0]])[0].numpy()
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder.parent / "first.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(track, [str(argument) for argument in arguments])


def by_mask(shots: Path, out: Path, *more: object) -> Result:
    return run(shots, "--masks", shots.parent / "first.png", "--out", out, "--output", "none", *more)


def test_all_outputs(drawn: DrawnClip, shots: Path, tmp_path: Path):
    images = [np.asarray(image) for image in drawn.images[:2]]
    video = write_clip(tmp_path / "clip.mp4", 2, images=images, size=(320, 240))
    chosen = [argument for name in OUTPUTS for argument in ("--output", name)]
    result = run(video, "--masks", shots.parent / "first.png", "--out", tmp_path / "out", *chosen)
    assert result.exit_code == 0, result.output
    assert f"2 frames -> {tmp_path / 'out'} (object: 1)" in result.output
    for name in OUTPUTS.values():
        assert (tmp_path / "out" / name).exists() and str(tmp_path / "out" / name) in result.output
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == [
        "00000.png",
        "00001.png",
        "labels.json",
    ]
    before = (tmp_path / "out" / "mot.txt").read_bytes()
    again = run(video, "--masks", shots.parent / "first.png", "--out", tmp_path / "out", "--output", "mot")
    assert again.exit_code == 0 and (tmp_path / "out" / "mot.txt").read_bytes() == before


@pytest.mark.slow
def test_prompts_and_text(shots: Path, drawn: DrawnClip, tmp_path: Path):
    x, y = drawn.centre(1, 0)
    prompts = {"prompts": [{"frame": 1, "id": 7, "label": "a dog", "box": [x - 36, y - 36, x + 36, y + 36]}]}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    arguments = (shots, "--prompts", tmp_path / "prompts.json", "--output", "none")
    result = run(*arguments, "--out", tmp_path / "out", "--stop", 2)
    assert result.exit_code == 0, result.output
    first, second = TrackedFrames(tmp_path / "out")
    assert (first.track_ids.tolist(), second.track_ids.tolist()) == ([], [7])
    never = run(shots, "a submarine", "--out", tmp_path / "never", "--stop", 2, "--output", "mot")
    assert never.exit_code == 0 and "2 frames" in never.output and "(nothing was seen)" in never.output
    assert (tmp_path / "never" / "mot.txt").read_text() == ""


class Interrupted(VideoPipeline):
    """Receives a signal after its second frame."""

    def track(self, *args, **options) -> Iterator:
        for number, frame in enumerate(super().track(*args, **options)):
            yield frame
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_leaves_whole_frames(shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    video = bundled_video()
    with monkeypatch.context() as patch:
        interrupted = Interrupted(video.pipeline, video.segmenter)
        patch.setattr(VideoPipeline, "from_config", lambda source, **options: interrupted)
        result = by_mask(shots, tmp_path / "out")
    assert result.exit_code == 130, result.output
    assert 2 <= len(TrackedFrames(tmp_path / "out")) < COUNT
    assert by_mask(shots, tmp_path / "out").exit_code == 0
    assert [frame.number for frame in TrackedFrames(tmp_path / "out")] == list(range(COUNT))


@pytest.mark.slow
def test_a_damaged_frame_keeps_those_before(shots: Path, tmp_path: Path):
    copy = tmp_path / "shots"
    copy.mkdir()
    for path in shots.iterdir():
        data = path.read_bytes()
        (copy / path.name).write_bytes(data[:100] if path.name == "2.png" else data)
    arguments = (copy, "--masks", shots.parent / "first.png", "--out", tmp_path / "out", "--output", "none")
    result = run(*arguments)
    assert result.exit_code == 1 and "Error: frame 2: " in result.output
    assert len(TrackedFrames(tmp_path / "out")) == 2
    (copy / "2.png").write_bytes((shots / "2.png").read_bytes())
    assert run(*arguments).exit_code == 0
    frames = list(TrackedFrames(tmp_path / "out"))
    assert [frame.number for frame in frames] == list(range(COUNT))
    assert all(frame.track_ids.tolist() == [1] for frame in frames)


@pytest.mark.slow
def test_a_full_disk(shots: Path, small_disk: Path):  # noqa: F811
    out, filler = small_disk / "out", small_disk / "filler"
    assert by_mask(shots, out, "--stop", 1).exit_code == 0
    (shard,) = (out / "records").glob("*.jsonl")
    line = shard.read_bytes().rstrip()
    before = line + b" " * (-len(line) % 4096 - 201) + b"\n"  # leaves 200 bytes of its last page
    shard.write_bytes(before)
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    result = by_mask(shots, out)
    assert result.exit_code == 1 and "the disk is full" in result.output
    assert shard.read_bytes().startswith(before) and shard.read_bytes().endswith(b"\n")
    filler.unlink()
    assert by_mask(shots, out).exit_code == 0
    assert [frame.number for frame in TrackedFrames(out)] == list(range(COUNT))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("camera:front", "a dog"), "expected the number of a camera", id="name"),
        pytest.param(("camera:0", "a dog"), "no output video: choose --output masks, mot", id="drawn"),
        pytest.param(("camera:0", "a dog", "--output", "cutouts"), "no output cutouts", id="cut out"),
    ],
)
def test_what_a_camera_cannot(arguments: tuple[str, ...], message: str, tmp_path: Path):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_two_runs_in_one_folder(shots: Path, tmp_path: Path):
    with open_run(tmp_path / "out", Run(source="other", phrases=("a",))):
        result = by_mask(shots, tmp_path / "out")
    assert result.exit_code == 1 and "Error: another run is writing into" in result.output
    result = by_mask(shots, tmp_path / "out")
    assert result.exit_code == 2 and "use --restart to begin again" in result.output


def write_sound(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_clips_that_cannot_be_tracked(tmp_path: Path):
    write_sound(tmp_path / "sound.wav")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("sound.wav", "holds no video stream, only audio"),
        ("text.mp4", "cannot be read as a video"),
        ("empty", "holds no image"),
        ("missing.mp4", "no such clip"),
    ):
        result = run(tmp_path / name, "a dog", "--out", tmp_path / "out")
        assert result.exit_code == 2 and says in result.output, name
        assert not (tmp_path / "out").exists()
    result = run(tmp_path / "empty", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "expected a TEXT, --masks or --prompts" in result.output


@pytest.mark.long
def test_killed_and_resumed(shots: Path, tmp_path: Path):
    command = [sys.executable, "-m", "grounded", "track", shots, "a dog", "--output", "none", "--device", "cpu"]
    process = subprocess.Popen([*command, "--out", tmp_path / "out"], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with suppress(Exception):
                if read_done_files(tmp_path / "out"):
                    break
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    arguments = (shots, "a dog", "--output", "none", "--device", "cpu", "--out")
    for out in ("out", "whole"):
        assert run(*arguments, tmp_path / out).exit_code == 0
    killed, whole = (list(TrackedFrames(tmp_path / out)) for out in ("out", "whole"))
    assert [frame.number for frame in killed] == list(range(COUNT))
    assert [frame.track_ids.tolist() for frame in killed] == [frame.track_ids.tolist() for frame in whole]
