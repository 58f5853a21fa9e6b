from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from grounded.cli.download import download
from tests.grounded import builders
from tests.grounded.models import sam2_models
from tests.hub import fill_cache, link_cache, serve, use_hub


def run(*arguments: object) -> Result:
    return CliRunner().invoke(download, [*map(str, arguments)])


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
    assert first.stdout.startswith(f"detector: owner/detector: downloaded, verified, {count} files, ")
    assert second.stdout == first.stdout.replace("downloaded, verified", "present")
    assert "\nclip: bundled:clip: not used by " in first.stdout


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


def test_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, local = builders.save_detector(tmp_path / "detector"), tmp_path / "local.yaml"
    preset, cache = tmp_path / "preset.yaml", tmp_path / "cache"
    preset.write_text(yaml.safe_dump({"detector": {"checkpoint": "owner/detector"}}))
    local.write_text(yaml.safe_dump({"detector": {"checkpoint": str(folder)}}))
    snapshot = link_cache(cache, "owner/detector", folder)
    use_hub(monkeypatch, cache)
    assert "detector: owner/detector: present, verified, 5 files, " in run(preset, "--verify").stdout
    assert "present, not verified (a local copy, which no hash is known of)" in run(local, "--verify").stdout
    weights = snapshot / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert run(preset).exit_code == 0
    result = run(preset, "--verify")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert f"{weights} is damaged: its contents do not have the hash that the hub states" in result.stderr


def test_a_cache_without_links_is_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    preset, cache = tmp_path / "preset.yaml", tmp_path / "cache"
    preset.write_text(yaml.safe_dump({"detector": {"checkpoint": "owner/detector"}}))
    fill_cache(cache, "owner/detector", builders.save_detector(tmp_path / "detector"))
    use_hub(monkeypatch, cache)
    assert "present, not verified (the cache has no links that name the hashes), " in run(preset, "--verify").stdout


def test_what_a_preset_does_not_use(tmp_path: Path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("{}")
    plain, whole = run(preset), run(preset, "--all")
    assert plain.exit_code == whole.exit_code == 0
    assert [line.split(":")[0] for line in plain.stdout.splitlines()] == ["detector", "segmenter", "clip"]
    assert "clip: bundled:clip: not used by" in plain.stdout
    assert [line.split(":")[0] for line in whole.stdout.splitlines()] == ["detector", "clip", "segmenter"]
    assert "not used" not in whole.stdout


def test_what_follows_objects_in_clips(tmp_path: Path):
    preset, folder = tmp_path / "preset.yaml", sam2_models.save("sam2", tmp_path / "sam2")
    preset.write_text(yaml.safe_dump({"video": {"kind": "sam2", "checkpoint": str(folder)}}))
    plain, whole = run(preset), run(preset, "--all")
    assert plain.exit_code == whole.exit_code == 0
    assert [line.split(":")[0] for line in plain.stdout.splitlines()] == ["detector", "segmenter", "video", "clip"]
    assert [line.split(":")[0] for line in whole.stdout.splitlines()] == ["detector", "clip", "segmenter", "video"]
    assert f"video: {folder}: present, 2 files, " in plain.stdout
