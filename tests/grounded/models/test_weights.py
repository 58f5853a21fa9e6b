import shutil
from pathlib import Path

import pytest

from grounded.config import load, override
from grounded.models.weights import hashes
from grounded.settings import PipelineConfig
from tests.grounded import builders
from tests.hub import fill_cache, use_hub


def test_bundled():
    found = hashes(load("tiny"))
    assert sorted(found) == ["clip", "detector", "segmenter"]
    assert len({*found.values()}) == 3 and {len(one) for one in found.values()} == {16}
    assert hashes(load("tiny")) == found
    assert sorted(hashes(override(load("tiny"), mode="box", filtering={"enabled": False}))) == ["detector", "segmenter"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("open_clip_model.safetensors", True, id="weights"),
        pytest.param("open_clip_config.json", True, id="config"),
        pytest.param("new.json", True, id="another file of the model"),
        pytest.param("train.log", False, id="a log"),
    ],
)
def test_files_of_a_folder(name: str, changes: bool, random_config: PipelineConfig, tmp_path: Path):
    clip = shutil.copytree(random_config.clip.checkpoint, tmp_path / "clip")
    config = override(random_config, mode="text", clip={"checkpoint": str(clip)})
    before = hashes(config)
    assert before == hashes(override(random_config, mode="text"))  # wherever the folder is
    with (clip / name).open("ab") as file:
        file.write(b" ")
    after = hashes(config)
    assert (before["clip"] != after["clip"]) is changes
    assert before["segmenter"] == after["segmenter"]


def test_what_is_not_here_is_left_out(random_config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use_hub(monkeypatch, tmp_path / "cache")
    config = override(
        random_config,
        mode="box+text",
        clip={"checkpoint": "owner/clip"},
        detector={"checkpoint": str(tmp_path / "gone")},
        segmenter={"checkpoint": "bundled:other"},
    )
    assert hashes(config) == {}
    fill_cache(tmp_path / "cache", "owner/clip", builders.save_clip(tmp_path / "clip"))
    assert list(hashes(config)) == ["clip"]
