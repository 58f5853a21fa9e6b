from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from grounded.cli.download import download
from tests.grounded import builders
from tests.hub import serve, use_hub


def run(source: object) -> Result:
    return CliRunner().invoke(download, [str(source)])


def test_bundled_weights_are_present():
    result = run("tiny")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["detector", "clip", "segmenter"]
    assert all(": present, " in line for line in lines)
    assert ": bundled:tiny: present, 1 file, " in lines[2]


def test_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = builders.save_detector(tmp_path / "detector")
    preset = tmp_path / "preset.yaml"
    preset.write_text(yaml.safe_dump({"detector": {"checkpoint": "owner/detector"}}))
    with serve({"owner/detector": folder}) as (address, _):
        use_hub(monkeypatch, tmp_path / "cache", address)
        first, second = run(preset), run(preset)
    assert first.exit_code == second.exit_code == 0, first.output
    count = len(list(folder.iterdir()))
    assert first.stdout.startswith(f"detector: owner/detector: downloaded, {count} files, ")
    assert second.stdout == first.stdout.replace("downloaded", "present")


def test_missing_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use_hub(monkeypatch, tmp_path / "cache")
    result = run("base")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: cannot get weights, offline mode is on")
    assert result.stderr.count("\n") == 1


def test_an_unknown_preset():
    result = run("no-such-preset")
    assert result.exit_code == 2
    assert "no preset named 'no-such-preset'" in result.stderr
