import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from grounded.errors import CheckpointError, ConfigError
from grounded.models.detectors.checkpoint import find_folder, load_checkpoint, locate
from segany.hub import HubModel
from tests.grounded import builders


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A detector folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "detector"))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16], ids=str)
def test_weights_are_read_in_the_given_dtype(tmp_path: Path, stored: torch.dtype):
    original = builders.detector_model()
    builders.save_detector(tmp_path, dtype=stored)
    loaded = load_checkpoint(tmp_path, torch.float32)
    assert not loaded.model.training
    for name, parameter in loaded.model.named_parameters():
        torch.testing.assert_close(parameter, original.get_parameter(name).to(stored).float(), rtol=0, atol=0)


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture):
    load_checkpoint(str(folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_missing_file(copied: Path, name: str):
    (copied / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}; a Grounding DINO folder holds") as error:
        load_checkpoint(copied)
    one_line(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_damaged_file(copied: Path, name: str):
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=f"cannot read the Grounding DINO in {copied}") as error:
        load_checkpoint(copied)
    one_line(error)


def test_missing_weights_are_named(copied: Path):
    def drop_two(weights: dict[str, torch.Tensor]) -> None:
        del weights["model.text_projection.weight"], weights["model.level_embed"]

    rewrite_weights(copied, drop_two)
    with pytest.raises(CheckpointError, match=r"lack model\.level_embed, model\.text_projection\.weight") as error:
        load_checkpoint(copied)
    one_line(error)


def test_weights_of_another_shape_are_named(copied: Path):
    rewrite_weights(copied, lambda weights: weights.update({"model.level_embed": torch.zeros(2, 2)}))
    with pytest.raises(CheckpointError, match=r"another shape for model\.level_embed") as error:
        load_checkpoint(copied)
    one_line(error)


def test_surplus_weights_do_no_harm(copied: Path):
    before = load_checkpoint(copied)[0].state_dict()
    rewrite_weights(copied, lambda weights: weights.update({"a_stranger": torch.zeros(1)}))
    after = load_checkpoint(copied)[0].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_model_of_another_family(copied: Path):
    rewrite_config(copied, model_type="owlvit")
    with pytest.raises(CheckpointError, match="grounding-dino or mm-grounding-dino, got owlvit"):
        load_checkpoint(copied)


@pytest.mark.parametrize(
    "source",
    ["/nowhere/detector", "./detector", "~/no-such-detector", "detector", "a/b/c", Path("owner/name")],
    ids=str,
)
def test_no_such_folder(source: str | Path):
    with pytest.raises(CheckpointError, match=f"no such folder: {source}") as error:
        find_folder(source)
    one_line(error)


def test_hub_id_without_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nobody/no-such-detector") as error:
        find_folder("nobody/no-such-detector")
    message = one_line(error)
    for part in ("offline mode", "config.json, model.safetensors", "name a local folder that holds them"):
        assert part in message


def test_unknown_bundled_name():
    with pytest.raises(ConfigError, match="no-such-weights"):
        find_folder("bundled:no-such-weights")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "dino.pth", None, r"dino\.pth is a file, .*`grounded convert-checkpoint .*dino\.pth --out", id=".pth"
        ),
        pytest.param(
            "model.safetensors", None, r"is a file; a Grounding DINO is a folder with config\.json", id="weights"
        ),
        pytest.param("dino.pth", b"<!DOCTYPE html><html>", r"dino\.pth is an HTML page, not weights", id="a page"),
    ],
)
def test_a_file_in_place_of_a_folder(name: str, content: bytes | None, message: str, tmp_path: Path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name.endswith(".pth"):
        torch.save({"model": {"feat_map.weight": torch.zeros(1)}}, path)
    else:
        save_file({"query_position_embeddings.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=message) as error:
        locate(path)
    one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"<!DOCTYPE html><html>", "is an HTML page, not weights", id="a page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\nsize 7\n", "is a Git LFS pointer", id="a pointer"),
    ],
)
def test_weights_that_are_none(copied: Path, content: bytes, message: str):
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"cannot read the Grounding DINO in .*model\.safetensors {message}"
    ) as error:
        load_checkpoint(copied)
    one_line(error)


def test_a_revision():
    place = locate("IDEA-Research/grounding-dino-tiny@v1")
    assert isinstance(place, HubModel)
    assert (place.repo_id, place.revision) == ("IDEA-Research/grounding-dino-tiny", "v1")
