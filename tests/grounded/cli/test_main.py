import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grounded import __version__
from grounded.cli.main import COMMANDS, load_command, main
from grounded.config import PipelineConfig
from grounded.data.instances import Instances
from grounded.output import fonts
from tests.data import PICNIC, ROOT
from tests.grounded.conftest import random_image


@pytest.fixture
def config(random_config: PipelineConfig, tmp_path: Path) -> str:
    path = tmp_path / "random.yaml"
    path.write_text(random_config.to_yaml())
    return str(path)


@pytest.fixture
def image(tmp_path: Path) -> str:
    random_image().save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


def test_one_image(config: str, image: str, tmp_path: Path):
    result = run(image, "a cat. dog", "--config", config, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    instances = Instances.from_json(tmp_path / "out" / "result.json")
    assert instances.phrases == ("a cat", "dog")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == len(instances) > 0
    assert Image.open(tmp_path / "out" / "overlay.png").size == (80, 60)
    counts = [int((instances.labels == phrase).sum()) for phrase in instances.phrases]
    assert result.stdout == f"{image} -> {tmp_path / 'out'} (a cat: {counts[0]}, dog: {counts[1]})\n"


def test_options_reach_the_pipeline(config: str, image: str, tmp_path: Path):
    out = tmp_path / "out"
    options = ["--config", config, "--out", out, "--box-threshold", 1, "--device", "cpu", "--verbose"]
    result = run(image, '"a cat"?', *options)
    assert result.exit_code == 0, result.output
    assert len(Instances.from_json(out / "result.json")) == 0
    assert result.stdout.startswith("Phrases: “a cat”\n")
    assert "(a cat: 0)" in result.stdout
    assert "detect 0." in result.stdout or "detect 1" in result.stdout
    result = run(image, "a cat", "--config", config, "--out", out, "--mode", "text")
    assert result.exit_code == 0, result.output
    assert set(Instances.from_json(out / "result.json").sources.tolist()) == {"text"}


def test_letters_without_a_font_are_noted(config: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fonts, "letter_notes", lambda texts: (f"no letters for {' '.join(set(texts))}",))
    result = run(image, "a cat", "--config", config, "--out", tmp_path / "out")
    assert result.stdout.splitlines()[1:] == ["  note: no letters for a cat"]
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["image"]["notes"] == ["no letters for a cat"]


def test_phrases_that_the_detector_cannot_read_are_noted(config: str, image: str, tmp_path: Path):
    result = run(image, "a cat. 猫", "--config", config, "--out", tmp_path / "out", "--box-threshold", 1)
    note = "the detector cannot read '猫': its vocabulary has none of these words"
    assert f"  note: {note}" in result.stdout.splitlines()
    assert json.loads((tmp_path / "out" / "result.json").read_text())["notes"] == [note]


def test_several_images_of_which_some_fail(config: str, image: str, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "other").mkdir()
    random_image(seed=2).save(tmp_path / "other" / "image.png")
    images = [image, tmp_path / "broken.png", tmp_path / "absent.png", tmp_path / "other" / "image.png"]
    result = run(*images, "a cat", "--config", config, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["image", "image-2"]
    for name in ("image", "image-2"):
        assert (tmp_path / "out" / name / "result.json").is_file()
    assert result.stderr.splitlines() == [
        f"Error: {tmp_path / 'broken.png'} is not an image in a known format",
        f"Error: no such image: {tmp_path / 'absent.png'}",
        "2 of 4 images failed",
    ]


def test_a_phrase_that_is_too_long_is_one_line(config: str, image: str, tmp_path: Path):
    result = run(image, "red " * 40, "--config", config, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {image}: a phrase must have at most")
    assert len(result.stderr.splitlines()) == 1


def test_missing_weights_are_one_line(image: str, tmp_path: Path):
    (tmp_path / "absent.yaml").write_text("detector: {checkpoint: /none/such}")
    result = run(image, "a cat", "--config", tmp_path / "absent.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no such folder: /none/such")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Missing argument", id="no arguments"),
        pytest.param(["{image}"], "Missing argument", id="no text"),
        pytest.param(["{image}", "{image}"], "the last argument must be the text to look for", id="file for text"),
        pytest.param(["{image}", " . "], "holds no phrase", id="empty text"),
        pytest.param(["{image}", "a cat", "--config", "huge"], "no preset named 'huge'", id="unknown preset"),
        pytest.param(["{image}", "a cat", "--mode", "points"], "Invalid value for '--mode'", id="unknown mode"),
        pytest.param(["{image}", "a cat", "--box-threshold", "2"], "is not in the range 0<=x<=1", id="threshold"),
        pytest.param(["{image}", "a cat", "--out", "{image}"], "is a file", id="file for folder"),
        pytest.param(["{image}", "a cat", "--device", "gpu"], "device 'gpu' is not available here", id="device"),
        pytest.param(["{image}", "a cat", "--none-such"], "No such option", id="unknown option"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*(argument.format(image=image) for argument in arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]  # and no output
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_listed_by_their_own_names_and_help(name: str):
    command = load_command(name)
    assert command.name == name
    assert command.get_short_help_str(1000) == COMMANDS[name][-1] == main.commands[name].help


def test_help_imports_no_command():
    code = (
        "import sys; from click.testing import CliRunner; from grounded.cli.main import main\n"
        "assert 'convert-checkpoint' in CliRunner().invoke(main, ['--help']).output\n"
        "print(*sorted(name for name in sys.modules if name.startswith('grounded')))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["grounded", "grounded.cli", "grounded.cli.main"]


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["--version"]], ids=" ".join)
def test_module_and_help(arguments: list[str]):
    command = [sys.executable, "-m", "grounded", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(
        f"grounded, version {__version__}" if "--version" in arguments else "Usage: grounded"
    )


def test_the_first_command_of_the_manual(tmp_path: Path):
    result = run(PICNIC, "a dog. pizza", "--config", "tiny", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    instances = Instances.from_json(tmp_path / "result.json")
    assert "a dog" in instances.labels.tolist()
    first = np.asarray(Image.open(sorted((tmp_path / "masks").iterdir())[0]))
    np.testing.assert_array_equal(first > 0, instances.masks[0])
