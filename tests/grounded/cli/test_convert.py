from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from grounded.cli.convert import convert_checkpoint
from tests.grounded.models.detectors import tiny_models


def run(*arguments: object) -> Result:
    return CliRunner().invoke(convert_checkpoint, [*map(str, arguments)])


def test_a_checkpoint_with_its_tokenizer_elsewhere(tmp_path: Path):
    path = tiny_models.save_original(tmp_path / "in")
    (tmp_path / "in" / "vocab.txt").unlink()
    vocabulary = tiny_models.save_vocabulary(tmp_path / "bert")
    out = tmp_path / "out"
    result = run(path, "--tokenizer", vocabulary, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{path} -> {out}\n"
    assert (out / "model.safetensors").is_file() and (out / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["{in}/none.pth"], "no such file: {in}/none.pth", id="no file"),
        pytest.param(["{in}/tiny.pth"], "no Grounding DINO has: strange", id="another model"),
        pytest.param(
            ["{in}/tiny.pth", "--tokenizer", "{in}/none"], "no tokenizer for {in}/tiny.pth", id="no tokenizer"
        ),
        pytest.param(
            ["{in}/tiny.pth", "--out", "{in}/tiny.json/out"], "cannot write {in}/tiny.json", id="a file for a folder"
        ),
        pytest.param(["{in}/tiny.pth", "--out", "{in}"], "the output must be a new or an empty folder", id="full"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], message: str):
    source = tiny_models.save_pth(tmp_path / "in", {"strange": torch.zeros(1)}).parent
    given = [argument.replace("{in}", str(source)) for argument in arguments]
    result = run("--out", tmp_path / "out", *given)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ") and message.replace("{in}", str(source)) in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Missing argument", id="no checkpoint"),
        pytest.param(["a.pth"], "Missing option '--out'", id="no output"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_help():
    assert "CHECKPOINT" in run("--help").stdout
