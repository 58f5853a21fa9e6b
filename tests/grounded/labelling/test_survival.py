"""Runs that are killed, interrupted, or out of space, and then given the same command again."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from grounded.errors import BusyError, OutputError
from grounded.labelling.store import Failure, open_run, read_done_files, read_failures, read_records
from tests.data import PICNIC, ROOT
from tests.grounded.labelling.engines.test_local import RUN, contents
from tests.grounded.labelling.standin import label_folder, start, write_clip_folder, write_images

IMAGES = 40


def lines(out: Path) -> int:
    """Lines of records, cut-off ones left out."""
    return sum(shard.read_bytes().count(b"\n") for shard in (out / "records").glob("*.jsonl"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, one of them broken."""
    folder = write_images(tmp_path_factory.mktemp("images"), IMAGES)
    (folder / "0020.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("undisturbed")
    label_folder(images, out)
    return contents(out)


def wait_for(done: int, out: Path, seconds: float = 60) -> None:
    """Wait until so many images have a record."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if lines(out) >= done:
                return
        time.sleep(0.002)
    raise TimeoutError(f"no {done} records within {seconds} s")


def kill_and_resume(images: Path, out: Path, moments: int, seed: int) -> None:
    """Kill a run at random moments, each time after it has got a little further, and let the last one finish."""
    chance = random.Random(seed)
    for moment in range(moments):
        reached = (IMAGES - 2) * moment // moments
        process = start(images, out, seconds=0.002)
        wait_for(reached, out)
        time.sleep(chance.uniform(0, 0.01))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert reached == 0 or len(read_done_files(out)) >= reached
    label_folder(images, out)


@pytest.mark.parametrize("moments", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost_and_nothing_twice(
    images: Path, undisturbed: dict[str, dict], tmp_path: Path, moments: int
):
    kill_and_resume(images, tmp_path / "out", moments, seed=moments)
    assert lines(tmp_path / "out") == IMAGES - 1
    assert contents(tmp_path / "out") == undisturbed
    assert set(read_failures(tmp_path / "out")) == {"0020.png"}


def test_killed_clips_lose_no_frame_and_keep_their_ids(tmp_path: Path):
    for name, count in (("a", 10), ("b", 4)):
        write_clip_folder(tmp_path / "clips" / name, count)
    label_folder(tmp_path / "clips", tmp_path / "undisturbed", clips=True)
    for reached in (1, 6, 11):
        process = start(tmp_path / "clips", tmp_path / "out", seconds=0.03, clips=True)
        wait_for(reached, tmp_path / "out")
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    label_folder(tmp_path / "clips", tmp_path / "out", clips=True)
    assert lines(tmp_path / "out") == 14
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    clips = [(tmp_path / out / "clips.jsonl").read_text() for out in ("out", "undisturbed")]
    assert clips[0] == clips[1]


def test_ctrl_c_finishes_what_is_in_work(images: Path, undisturbed: dict[str, dict], tmp_path: Path):
    process = start(images, tmp_path / "out", seconds=0.05)
    wait_for(3, tmp_path / "out")
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130
    assert 3 <= len(read_done_files(tmp_path / "out")) < IMAGES - 1
    assert all(shard.read_bytes().endswith(b"\n") for shard in (tmp_path / "out" / "records").glob("*.jsonl"))
    label_folder(images, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_run_at_once(images: Path, tmp_path: Path):
    process = start(images, tmp_path / "out", seconds=2.5)
    wait_for(1, tmp_path / "out")
    time.sleep(0.2)
    begun = time.monotonic()
    os.kill(process.pid or 0, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130
    assert time.monotonic() - begun < 3.5  # a batch of two takes 5 s
    assert lines(tmp_path / "out") == len(read_done_files(tmp_path / "out")) > 0


def test_sigterm_ends_a_run_cleanly(images: Path, tmp_path: Path):
    process = start(images, tmp_path / "out", seconds=0.05)
    wait_for(1, tmp_path / "out")
    process.terminate()
    process.join(30)
    assert process.exitcode == 130  # what the child was told to return for a run that was stopped


def test_two_processes_cannot_write_into_one_folder(images: Path, tmp_path: Path):
    process = start(images, tmp_path / "out", seconds=0.05)
    wait_for(1, tmp_path / "out")
    with pytest.raises(BusyError, match=f"another run is writing into .*: process {process.pid} on "):
        label_folder(images, tmp_path / "out")
    process.kill()
    process.join()
    label_folder(images, tmp_path / "out")  # the lock has gone with its process
    assert lines(tmp_path / "out") == IMAGES - 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs to be root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_an_error_and_the_folder_resumes(tmp_path: Path, small_disk: Path):
    images = write_images(tmp_path / "many", 300)
    with pytest.raises(OutputError, match="the disk is full"):
        label_folder(images, small_disk / "out")
    done = read_done_files(small_disk / "out")
    assert 0 < len(done) < 300
    assert all(shard.read_bytes().endswith(b"\n") for shard in (small_disk / "out" / "records").glob("*.jsonl"))
    with pytest.raises(OutputError, match="the disk is full"):  # nothing has changed
        label_folder(images, small_disk / "out")
    assert read_done_files(small_disk / "out") >= done
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    label_folder(images, small_disk / "out")
    label_folder(images, tmp_path / "undisturbed")
    assert contents(small_disk / "out") == contents(tmp_path / "undisturbed")
    assert lines(small_disk / "out") == 300


def test_a_full_disk_in_a_clip_keeps_whole_frames(tmp_path: Path, small_disk: Path):
    write_clip_folder(tmp_path / "clips" / "a", 120)
    with pytest.raises(OutputError, match="the disk is full"):
        label_folder(tmp_path / "clips", small_disk / "out", clips=True)
    done = read_done_files(small_disk / "out")
    assert 0 < len(done) < 120
    assert read_failures(small_disk / "out") == {}, "the clip is not at fault"
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    label_folder(tmp_path / "clips", small_disk / "out", clips=True)
    label_folder(tmp_path / "clips", tmp_path / "undisturbed", clips=True)
    assert contents(small_disk / "out") == contents(tmp_path / "undisturbed")
    assert lines(small_disk / "out") == 120


def test_a_full_disk_while_a_failure_is_written(tmp_path: Path, small_disk: Path):
    with open_run(small_disk / "out", RUN) as writer, pytest.raises(OutputError, match="the disk is full"):
        for number in range(1000):
            writer.fail(Failure(file=f"{number}.png", reason="x" * 1000))
    with open_run(small_disk / "out", RUN) as writer:
        assert list(writer.failed) == [f"{number}.png" for number in range(len(writer.failed))]


@pytest.mark.long
def test_killed_with_models(tmp_path: Path):
    """The command itself, with the bundled models."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        shutil.copy(PICNIC, images / f"{number:02d}.png")
    program = "from grounded.cli.label import label; label()"
    command = [sys.executable, "-c", program, str(images), "a dog. pizza", "--device", "cpu", "--out"]
    chance = random.Random(0)
    for reached in (0, 1, 4, 9):
        process = subprocess.Popen([*command, str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            wait_for(reached, tmp_path / "out", seconds=300)
            time.sleep(chance.uniform(0, 0.5))
        finally:
            process.kill()
            process.wait()
    for out in ("out", "undisturbed"):
        subprocess.run([*command, str(tmp_path / out)], cwd=ROOT, check=True, capture_output=True)
    assert lines(tmp_path / "out") == 12
    killed, whole = ({r.image.file: r for r in read_records(tmp_path / out)} for out in ("out", "undisturbed"))
    assert killed.keys() == whole.keys()
    for file, record in killed.items():
        assert record.instances.to_dict() == whole[file].instances.to_dict()
