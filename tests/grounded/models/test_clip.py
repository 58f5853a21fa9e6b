import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from grounded.errors import CheckpointError, ConfigError, ImageError
from grounded.models.clip import ClipEncoder, find_rivals
from tests.grounded import builders

TEMPLATES = ("a photo of {}", "{} in the wild", "a drawing of {}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder. Not to be changed: copy it first."""
    return builders.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(folder, templates=TEMPLATES)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A CLIP folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "clip"))


def crop(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "phrases",
    [
        pytest.param([], id="none"),
        pytest.param(["a cat"], id="one"),
        pytest.param(["a cat", "a red mug", "a cat"], id="one twice"),
        pytest.param([f"phrase {i}" for i in range(50)], id="several batches"),
        pytest.param(["a {brace} and 100 %", "猫", "word " * 50], id="odd characters and more than the context holds"),
    ],
)
def test_single_equals_batched(folder: Path, encoder: ClipEncoder, phrases: list[str]):
    fresh = ClipEncoder.from_pretrained(folder, templates=TEMPLATES)
    together = fresh.encode(phrases)
    assert together.shape == (len(phrases), 16)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(phrases)))
    for i, phrase in enumerate(phrases):
        torch.testing.assert_close(encoder.encode([phrase])[0], together[i], rtol=0, atol=1e-5)


def test_templates_are_averaged(folder: Path, encoder: ClipEncoder):
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([t.format("a cat") for t in TEMPLATES])
    with torch.no_grad():
        expected = normalize(normalize(model.encode_text(tokens), dim=-1).mean(dim=0), dim=-1)
    torch.testing.assert_close(encoder.encode(["a cat"])[0], expected, rtol=0, atol=1e-5)
    assert encoder.dim == 16


def test_embeddings_can_be_trained_upon(encoder: ClipEncoder):
    layer = torch.nn.Linear(encoder.dim, 1)
    layer(encoder.encode(["a cat"])).sum().backward()
    layer(encoder.encode_images([crop(8, 8)])).sum().backward()
    assert layer.weight.grad is not None


def test_cached_embeddings_are_bounded_and_the_same(folder: Path):
    plain = ClipEncoder.from_pretrained(folder)
    small = ClipEncoder(plain.model, plain.tokenizer, plain.preprocess, cache_size=2)
    phrases = ["a cat", "a dog", "a mug"]
    for _ in range(2):
        torch.testing.assert_close(small.encode(phrases), plain.encode(phrases), rtol=0, atol=1e-5)
    known = plain.encode(["a cat"])
    known.zero_()  # the result is a copy
    assert plain.encode(["a cat"]).norm() > 0.9


def test_weights_are_computed_with_in_float32(encoder: ClipEncoder):
    original = builders.clip_model()
    for name, parameter in encoder.model.named_parameters():
        torch.testing.assert_close(parameter, original.get_parameter(name).half().float(), rtol=0, atol=0)


def test_crops_pass_the_preprocessing_of_the_folder(encoder: ClipEncoder):
    white = Image.new("RGB", (50, 20), (255, 255, 255))
    torch.testing.assert_close(encoder.preprocess(white), torch.full((3, 32, 32), 2.0))  # (1 - 0.5) / 0.25


@pytest.mark.parametrize("count", [0, 1, 70])
def test_crops_single_equals_batched(encoder: ClipEncoder, count: int):
    crops = [crop(5 + i % 7, 40 - i % 5, seed=i) for i in range(count)]
    together = encoder.encode_images(crops)
    assert together.shape == (count, 16)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(count))
    for i in range(0, count, 23):
        torch.testing.assert_close(encoder.encode_images([crops[i]])[0], together[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(encoder.encode_images([np.asarray(crops[i])])[0], together[i], rtol=0, atol=1e-5)


def test_a_crop_that_is_not_an_image(encoder: ClipEncoder):
    with pytest.raises(ImageError, match="an image array must be"):
        encoder.encode_images([np.zeros(4)])


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_sources_of_a_folder(folder: Path, encoder: ClipEncoder, prefix: str):
    loaded = ClipEncoder.from_pretrained(f"{prefix}{folder}", templates=TEMPLATES)
    assert loaded.name == f"{prefix}{folder}"
    torch.testing.assert_close(loaded.encode(["a cat"]), encoder.encode(["a cat"]), rtol=0, atol=1e-5)


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "open_clip_model.safetensors")
    del weights["visual.proj"]
    save_file(weights, folder / "open_clip_model.safetensors")


def truncate_weights(folder: Path) -> None:
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def widen_config(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["embed_dim"] = 24
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda f: (f / "open_clip_config.json").unlink(), "has no open_clip_config.json", id="no config"),
        pytest.param(lambda f: (f / "open_clip_config.json").write_text("{"), "cannot read", id="broken config"),
        pytest.param(lambda f: (f / "open_clip_model.safetensors").unlink(), "has no open_clip_model", id="no weights"),
        pytest.param(truncate_weights, "cannot read", id="broken weights"),
        pytest.param(drop_a_weight, "visual.proj", id="a weight is missing"),
        pytest.param(widen_config, "size mismatch", id="weights of another width"),
    ],
)
def test_damaged_folder(copied: Path, damage, message: str):
    damage(copied)
    with pytest.raises(CheckpointError, match=message) as error:
        ClipEncoder.from_pretrained(copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("nobody/no-such-clip", "nobody/no-such-clip"),
        ("hf-hub:nobody/no-such-clip", "nobody/no-such-clip"),
        ("ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    ],
)
def test_hub_without_connection(
    source: str, repository: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=f"cannot get {repository}: .*offline mode is on") as error:
        ClipEncoder.from_pretrained(source)
    assert "\n" not in str(error.value)
    assert "name a local folder with open_clip_config.json" in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "source", ["/nowhere/clip", "./clip", "local-dir:nowhere", "ViT-B-32", "a/b/c", Path("owner/name")], ids=str
)
def test_no_such_model(source: str | Path):
    with pytest.raises(CheckpointError, match=f"no CLIP model at '{source}'"):
        ClipEncoder.from_pretrained(source)


def test_unknown_tag():
    with pytest.raises(CheckpointError, match="no-such-tag"):
        ClipEncoder.from_pretrained("ViT-B-32/no-such-tag")


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} and {}",)], ids=str)
def test_templates_must_hold_the_phrase_once(encoder: ClipEncoder, templates: tuple[str, ...]):
    with pytest.raises(ConfigError, match="templates must"):
        ClipEncoder(encoder.model, encoder.tokenizer, encoder.preprocess, templates)


@pytest.mark.parametrize(
    ("cosines", "ordinary", "expected"),
    [
        pytest.param([0.1, 0.95, 0.5], 0.2, [True, False, True], id="a synonym"),
        pytest.param([0.86, 0.92, 0.995], 0.85, [True, True, False], id="a model in which all texts are close"),
        pytest.param([0.9, 0.7], 0.0, [False, True], id="one pair tells nothing"),
        pytest.param([0.999, 0.99], 0.2, [False, True], id="all are synonyms: the least similar one stays"),
        pytest.param([1.0, 1.0], 1.0, [True, False], id="all texts are one to the model"),
        pytest.param([1.0], 0.0, [True], id="one negative"),
    ],
)
def test_find_rivals(cosines: list[float], ordinary: float, expected: list[bool]):
    assert find_rivals(torch.tensor(cosines), ordinary, synonym_similarity=0.85).tolist() == expected
