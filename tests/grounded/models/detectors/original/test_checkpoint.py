import json
from pathlib import Path

import pytest
import torch

from grounded.errors import CheckpointError, ConfigError
from grounded.models.detectors.original.checkpoint import (
    SWIN_B_COGCOOR,
    SWIN_T_OGC,
    Architecture,
    find_architecture,
    find_file,
    load_tokenizer,
    read_weights,
)
from tests.grounded import builders
from tests.grounded.models.detectors import tiny_models

WEIGHTS = {"transformer.level_embed": torch.ones(4, 2), "bbox_embed.0.layers.0.bias": torch.arange(3.0)}


class NotATensor:
    """An object that only an unpickler that runs arbitrary code can load."""


def save(path: Path, stored: object) -> Path:
    torch.save(stored, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_weights_by_their_own_names(tmp_path: Path, prefix: str, key: str | None):
    named = {prefix + name: value for name, value in WEIGHTS.items()}
    weights = read_weights(save(tmp_path / "a.pth", {key: named} if key else named))
    assert weights.keys() == {*WEIGHTS, "transformer.decoder.bbox_embed.0.layers.0.bias"}
    for name, value in WEIGHTS.items():
        torch.testing.assert_close(weights[name], value)


@pytest.mark.parametrize("name", ["bbox_embed.0.layers.0.bias", "transformer.decoder.bbox_embed.0.layers.0.bias"])
def test_the_box_head_has_two_names(tmp_path: Path, name: str):
    weights = read_weights(save(tmp_path / "a.pth", {name: torch.arange(3.0)}))
    assert len(weights) == 2
    for value in weights.values():
        torch.testing.assert_close(value, torch.arange(3.0))


def test_what_training_left_over_is_dropped(tmp_path: Path):
    left_over = {"label_enc.weight": torch.ones(2), "bert.embeddings.position_ids": torch.ones(2)}
    weights = read_weights(save(tmp_path / "a.pth", {**WEIGHTS, **left_over}))
    assert not left_over.keys() & weights.keys()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        pytest.param({"model": NotATensor()}, "not safe to read", id="an object"),
        pytest.param({"model": {"epoch": 3}}, "must hold named tensors", id="a number"),
        pytest.param({}, "must hold named tensors", id="nothing"),
        pytest.param(torch.ones(2), "must hold named tensors", id="one tensor"),
    ],
)
def test_files_with_something_else(tmp_path: Path, stored: object, message: str):
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(save(tmp_path / "a.pth", stored))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short"], ids=["empty", "text", "archive"])
def test_damaged_file(tmp_path: Path, content: bytes):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth") as error:
        read_weights(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


def test_find_file(tmp_path: Path):
    path = save(tmp_path / "a.pth", WEIGHTS)
    assert find_file(path) == find_file(str(path)) == find_file(tmp_path) == path
    save(tmp_path / "b.pth", WEIGHTS)
    with pytest.raises(CheckpointError, match=r"exactly one \.pth file, got 2"):
        find_file(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"exactly one \.pth file, got 0"):
        find_file(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"no such file: .*c\.pth"):
        find_file(tmp_path / "c.pth")


@pytest.mark.parametrize(("width", "expected"), [(96, SWIN_T_OGC), (128, SWIN_B_COGCOOR)])
def test_published_networks_are_known_by_their_shapes(tmp_path: Path, width: int, expected: Architecture):
    weights = {"backbone.0.patch_embed.proj.weight": torch.zeros(width, 3, 4, 4)}
    assert find_architecture(tmp_path / "renamed.pth", weights) == expected


def test_a_description_beside_the_checkpoint(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"embed_dim": 8, "depths": [1, 1, 2, 1]}))
    found = find_architecture(tmp_path / "a.pth", {"backbone.0.patch_embed.proj.weight": torch.zeros(96, 3, 4, 4)})
    assert found == Architecture(embed_dim=8, depths=(1, 1, 2, 1))


@pytest.mark.parametrize("weights", [{}, {"backbone.0.patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}])
def test_unknown_network(tmp_path: Path, weights: dict[str, torch.Tensor]):
    with pytest.raises(CheckpointError, match=r"neither of the published networks .* state its sizes in .*a\.json"):
        find_architecture(tmp_path / "a.pth", weights)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "cannot read .*a.json", id="damaged"),
        pytest.param('{"width": 3}', "unknown key width", id="unknown key"),
        pytest.param('{"embed_dim": "wide"}', "embed_dim must be int", id="wrong type"),
        pytest.param('{"depths": [2, 2]}', "must hold 4 stages", id="too few stages"),
    ],
)
def test_bad_description(tmp_path: Path, text: str, message: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        find_architecture(tmp_path / "a.pth", {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [".", "bert-base-uncased"])
@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_tokenizer_beside_the_checkpoint(tmp_path: Path, place: str, form: str):
    if form == "vocab.txt":
        tiny_models.save_vocabulary(tmp_path / place)
    else:
        builders.bert_tokenizer().save_pretrained(tmp_path / place)
    tokenizer = load_tokenizer(tmp_path / "a.pth")
    text = "a red Mug, xyz ."
    assert tokenizer(text)["input_ids"] == builders.bert_tokenizer()(text)["input_ids"]


def test_a_tokenizer_that_is_named_comes_first(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    named = tiny_models.save_vocabulary(tmp_path / "named")
    assert len(load_tokenizer(tmp_path / "a.pth", named)) == len(builders.bert_vocabulary())


@pytest.mark.parametrize("folder", [None, "named"])
def test_missing_tokenizer(tmp_path: Path, folder: str | None):
    named = None if folder is None else tmp_path / folder
    expected = r"tokenizer\.json or vocab\.txt of bert-base-uncased in .*" + (folder or "bert-base-uncased")
    with pytest.raises(CheckpointError, match=expected) as error:
        load_tokenizer(tmp_path / "a.pth", named)
    assert "\n" not in str(error.value)


def test_damaged_tokenizer(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path / "a.pth")
