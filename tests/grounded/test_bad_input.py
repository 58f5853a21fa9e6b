"""Bad and odd input, from Python and from the command line: a clear error or the right answer, never a traceback."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grounded.cli import segment as segment_module
from grounded.cli.main import main
from grounded.data.image import MAX_PIXELS
from grounded.data.instances import Instances
from grounded.errors import GroundedError, ImageError, PromptError
from grounded.pipeline import Pipeline
from tests.data import PICNIC, ROOT
from tests.grounded.failures import fill_disk, unprivileged
from tests.grounded.test_pipeline import assert_same
from tests.segany.utils.test_images import png

# The models are loaded once; everything else in the command is as its users have it.
load_once = functools.cache(segment_module._load_pipeline)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_config("tiny", device="cpu")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs `grounded segment` with the output in `tmp_path`/out unless told otherwise."""
    monkeypatch.setattr(segment_module, "_load_pipeline", load_once)

    def run(*arguments: object, out: Path | str = tmp_path / "out") -> Result:
        options = ["--out", str(out), "--device", "cpu"]
        result = CliRunner().invoke(main, ["segment", *map(str, arguments), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def scene(height: int = 96) -> Image.Image:
    image = Image.open(PICNIC).convert("RGB")
    return image.resize((round(image.width * height / image.height), height))


def save_bad_images(folder: Path) -> dict[Path, str]:
    """Write files that are no images. Returns the end of the error on each."""
    whole = folder / "whole.jpg"
    scene().save(whole)
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "damaged.png")
    data = bytearray((folder / "damaged.png").read_bytes())
    data[len(data) // 2] ^= 255
    (folder / "damaged.png").write_bytes(data)
    (folder / "half.jpg").write_bytes(whole.read_bytes()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "zeros.tif").write_bytes(bytes(1000))
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    png(folder / "bomb.png", 60_000, 60_000)
    return {
        folder / "absent.png": "no such image",
        folder / "damaged.png": "cannot read",
        folder / "half.jpg": "image file is truncated",
        folder / "empty.png": "is not an image in a known format",
        folder / "text.png": "is not an image in a known format",
        folder / "zeros.tif": "is not an image in a known format",
        folder / "folder": "Is a directory",
        folder / "pipe": "not a regular file",
        folder / "bomb.png": "60000 x 60000 pixels, 3600 megapixels, and the limit is 200",
    }


def save_odd_images(folder: Path) -> dict[Path, tuple[tuple[int, int], str | None]]:
    """Write images of unusual kinds. Returns the (height, width) and the note on each."""
    image = scene()
    size = (image.height, image.width)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.asarray(image.convert("L"))
    palette = image.convert("P")
    see_through = image.copy()
    see_through.putalpha(128)
    deep, transparent = "16 bits per channel: the upper 8 are used", "transparent pixels are shown on white"
    animated, pages = "animated: the first of 2 frames is used", "several pages: the first of 2 pages is used"
    more = {"save_all": True, "append_images": [image.rotate(180)]}
    kinds: dict[str, tuple[Image.Image, dict, tuple[int, int], str | None]] = {
        "grey.png": (image.convert("L"), {}, size, None),
        "two-colours.png": (image.convert("1"), {}, size, None),
        "palette.gif": (palette, {"transparency": palette.getpixel((0, 0))}, size, transparent),
        "inks.jpg": (image.convert("CMYK"), {}, size, None),
        "see-through.png": (see_through, {}, size, transparent),
        "see-through-grey.png": (see_through.convert("LA"), {}, size, transparent),
        "lab.tif": (Image.new("LAB", image.size), {}, size, None),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}, size, deep),
        "floats.tif": (Image.fromarray(grey.astype(np.float32) / 255), {}, size, None),
        "integers.tif": (Image.fromarray(grey.astype(np.int32) * 9 - 90), {}, size, "values from"),
        "animated.gif": (image, more, size, animated),
        "animated.png": (image, more, size, animated),
        "animated.webp": (image, more, size, animated),
        "pages.tif": (image, more, size, pages),
        "turned.jpg": (image, {"exif": exif}, size[::-1], None),
        "one-pixel.png": (Image.new("RGB", (1, 1)), {}, (1, 1), None),
        "line.png": (Image.new("RGB", (5000, 1)), {}, (1, 5000), None),
        "wörter 猫 🐶.png": (image, {}, size, None),
    }
    for name, (kind, options, _, _) in kinds.items():
        kind.save(folder / name, **options)
    shutil.copy(folder / "grey.png", folder / os.fsdecode(b"no\xfftext.png"))  # a file name, and no text
    expected = {folder / name: (shape, note) for name, (_, _, shape, note) in kinds.items()}
    return {**expected, folder / os.fsdecode(b"no\xfftext.png"): (size, None)}


BAD_TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "separators": ".,;。、\n",
    "control characters": "\0\x07",
    "direction marks": "\u200f\u200e",
    "10,000 separators": "." * 10_000,
}
ODD_TEXTS = {
    "control characters": ("a\0dog\x07", ("a dog",)),
    "Chinese stops": ("a dog。pizza，猫", ("a dog", "pizza", "猫")),
    "emoji": ("🐶. 👩\u200d🚀", ("🐶", "👩\u200d🚀")),
    "right to left": ("\u200fכלב\u200e. dog", ("כלב", "dog")),
    "no text at all": ("dog\udcff", ("dog",)),
    "duplicates": ("dog. Dog. pizza", ("dog", "pizza")),
    "10,000 characters": ("dog, " * 2000, ("dog",)),
}


class TestImages:
    def test_bad_ones_from_python(self, pipeline: Pipeline, tmp_path: Path):
        for path, message in save_bad_images(tmp_path).items():
            with pytest.raises(ImageError) as caught:
                pipeline.segment(path, "a dog")
            assert message in str(caught.value) and str(path) in str(caught.value)

    @pytest.mark.parametrize(
        "array",
        [np.full((9, 9, 3), 255.0), np.zeros((9, 9, 3), int), np.zeros((9, 9, 2), np.uint8)],
        ids=["floats beyond 1", "integers", "two channels"],
    )
    def test_bad_arrays(self, array: np.ndarray, pipeline: Pipeline):
        with pytest.raises(ImageError, match=r"floats of an image must lie in 0..1|an image array must"):
            pipeline.segment(array, "a dog")

    @pytest.mark.slow
    def test_arrays_with_other_channels(self, pipeline: Pipeline):
        colour = scene()
        grey = colour.convert("L")
        assert_same(pipeline.segment(np.asarray(grey), "a dog"), pipeline.segment(grey.convert("RGB"), "a dog"))
        alpha = np.asarray(colour.convert("RGBA"))
        assert_same(pipeline.segment(alpha, "a dog"), pipeline.segment(colour, "a dog"))

    @pytest.mark.slow
    def test_all_of_them_in_one_command(self, run: Callable[..., Result], tmp_path: Path):
        bad, odd = save_bad_images(tmp_path), save_odd_images(tmp_path)
        result = run(*bad, *odd, "a dog")
        assert result.exit_code == 1
        errors = result.stderr.splitlines()
        assert errors.pop() == f"{len(bad)} of {len(bad) + len(odd)} images failed"
        for line, (path, message) in zip(errors, bad.items(), strict=True):
            assert line.startswith("Error: ") and message in line and str(path) in line
        lines = iter(result.stdout.splitlines())
        for path, (size, note) in odd.items():
            instances = Instances.from_json(tmp_path / "out" / path.stem / "result.json")
            assert instances.image_size == size
            assert f" -> {tmp_path}/out/" in next(lines)
            if note:
                assert next(lines).startswith(f"  note: {note}")
        assert list(lines) == []
        assert len(list((tmp_path / "out").iterdir())) == len(odd)

    def test_limit_of_size(self, run: Callable[..., Result], tmp_path: Path):
        scene().save(tmp_path / "image.png")  # 96 x 128
        result = run(tmp_path / "image.png", "a dog", "--max-megapixels", 0.012)
        assert result.exit_code == 1
        assert result.stderr.endswith("is too large: 128 x 96 pixels, 0.01229 megapixels, and the limit is 0.012\n")
        assert run(tmp_path / "image.png", "a dog", "--max-megapixels", 0.013).exit_code == 0
        assert run(tmp_path / "image.png", "a dog", "--max-megapixels", 0).exit_code == 2
        option = next(option for option in segment_module.segment.params if option.name == "max_megapixels")
        assert option.default * 1e6 == MAX_PIXELS

    @pytest.mark.slow
    def test_64_megapixels(self, pipeline: Pipeline):
        image = Image.open(PICNIC).convert("RGB").resize((8000, 8000))
        instances = pipeline.segment(image, "a dog. pizza")
        assert instances.image_size == (8000, 8000)
        assert set(instances.labels.tolist()) == {"a dog", "pizza"}


class TestText:
    @pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
    def test_bad(self, text: str, pipeline: Pipeline, run: Callable[..., Result], tmp_path: Path):
        with pytest.raises(PromptError, match="holds no phrase"):
            pipeline.segment(PICNIC, text)
        result = run(PICNIC, text)
        assert result.exit_code == 2
        assert "Error: the text holds no phrase" in result.stderr and len(result.stderr) < 500
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("text", "phrases"), ODD_TEXTS.values(), ids=ODD_TEXTS)
    def test_odd(
        self, text: str, phrases: tuple[str, ...], pipeline: Pipeline, run: Callable[..., Result], tmp_path: Path
    ):
        expected = pipeline.segment(scene(), text)
        assert expected.phrases == phrases
        scene().save(tmp_path / "image.png")
        result = run(tmp_path / "image.png", text)
        assert result.exit_code == 0, result.stderr
        assert_same(Instances.from_json(tmp_path / "out" / "result.json"), expected)

    @pytest.mark.parametrize("phrase", ["dog " * 2500, "🐶 " * 5000], ids=["words", "emoji"])
    def test_a_phrase_beyond_the_detector(
        self, phrase: str, pipeline: Pipeline, run: Callable[..., Result], tmp_path: Path
    ):
        with pytest.raises(PromptError, match=r"must have at most \d+ tokens, got \d+: '.{50,60}…'$"):
            pipeline.segment(PICNIC, ["pizza", phrase])
        result = run(PICNIC, f"pizza, {phrase}")
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: {PICNIC}: a phrase must have at most") and len(line) < 250

    def test_many_phrases(self, run: Callable[..., Result], tmp_path: Path):
        scene().save(tmp_path / "image.png")
        result = run(tmp_path / "image.png", ". ".join(["pizza", *(f"tractor {i}" for i in range(30))]))
        assert result.exit_code == 0
        counts = result.stdout.split(" (")[1]
        assert "pizza: " in counts and counts.endswith(" other phrases: 0)\n") and len(counts) < 500

    @pytest.mark.long
    def test_2000_phrases(self, pipeline: Pipeline):
        phrases = ["dog", *(f"tractor {i}" for i in range(1999))]
        instances = pipeline.segment(PICNIC, phrases)
        assert instances.phrases == tuple(phrases)
        assert "dog" in instances.labels.tolist()


class TestOutput:
    @pytest.mark.parametrize(
        ("out", "reason"),
        [
            ("/dev/null/out", "Not a directory"),
            ("/proc/out", "No such file or directory"),
            ("n" * 300, "File name too long"),
        ],
    )
    def test_folders_that_cannot_be(self, out: str, reason: str, tmp_path: Path):
        # Without `run`: this is found out before the models are loaded.
        arguments = ["segment", str(PICNIC), "a dog", "--out", str(tmp_path / out)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == f"Error: cannot write {tmp_path / out}: {reason}"

    def test_no_permission(self, tmp_path: Path):
        with unprivileged():
            result = CliRunner().invoke(main, ["segment", str(PICNIC), "a dog", "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].endswith("Permission denied")

    @pytest.mark.slow
    def test_a_full_disk_costs_one_image(
        self, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        for name in ("first", "second"):
            scene().save(tmp_path / f"{name}.png")
        images = tmp_path / "first.png", tmp_path / "second.png"
        assert run(*images, "a dog").exit_code == 0
        before = (tmp_path / "out" / "first" / "result.json").read_bytes()
        make = iter([True, False])  # full for the first image only
        fill_disk(monkeypatch, "overlay.png", while_full=lambda: next(make))
        result = run(*images, "a dog. pizza")
        assert result.exit_code == 1
        overlay = tmp_path / "out" / "first" / "overlay.png"
        assert result.stderr.splitlines() == [
            f"Error: {images[0]}: cannot write {overlay}: the disk is full",
            "1 of 2 images failed",
        ]
        assert (tmp_path / "out" / "first" / "result.json").read_bytes() == before
        second = Instances.from_json(tmp_path / "out" / "second" / "result.json")
        assert second.phrases == ("a dog", "pizza")
        assert not list((tmp_path / "out").rglob("*.tmp"))


class TestInterrupt:
    def test_in_the_second_image(
        self, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline
    ):
        for name in ("first", "second", "third"):
            scene().save(tmp_path / f"{name}.png")
        segment, calls = Pipeline.segment, iter([False, True])

        def interrupted(self: Pipeline, *arguments: object) -> Instances:
            if next(calls):
                raise KeyboardInterrupt
            return segment(self, *arguments)

        monkeypatch.setattr(Pipeline, "segment", interrupted)
        result = run(*(tmp_path / f"{name}.png" for name in ("first", "second", "third")), "a dog")
        assert result.exit_code == 130
        assert result.stderr == "Interrupted\n"
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
        assert (tmp_path / "out" / "first" / "result.json").is_file()

    @pytest.mark.slow
    def test_of_a_real_process(self, tmp_path: Path):
        (tmp_path / "bad.png").write_text("not an image")
        for i in range(40):
            scene().save(tmp_path / f"{i:02d}.png")
        images = [str(tmp_path / "bad.png"), *(str(tmp_path / f"{i:02d}.png") for i in range(40))]
        process = subprocess.Popen(
            [sys.executable, "-m", "grounded", "segment", *images, "a dog", "--out", str(tmp_path / "out")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it
        )
        deadline = time.monotonic() + 300
        while not list((tmp_path / "out").glob("*/result.json")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        bad, interrupted = stderr.splitlines()
        assert bad == f"Error: {tmp_path / 'bad.png'} is not an image in a known format"
        assert interrupted == "Interrupted"
        finished = sorted(path.parent.name for path in (tmp_path / "out").glob("*/result.json"))
        assert 1 <= len(finished) < 40
        assert 0 <= len(finished) - len(stdout.splitlines()) <= 1  # it may strike between the two
        assert not list((tmp_path / "out").rglob("*.tmp"))
        for name in finished:
            instances = Instances.from_json(tmp_path / "out" / name / "result.json")
            assert len(list((tmp_path / "out" / name / "masks").iterdir())) == len(instances)


def test_every_error_is_of_the_package():
    for error in (ImageError, PromptError):
        assert issubclass(error, GroundedError)
