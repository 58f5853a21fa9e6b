import copy
import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file

from grounded.errors import CheckpointError
from grounded.models.clip import ClipEncoder
from grounded.models.clip_checkpoint import load_checkpoint, locate
from segany.hub import HubModel
from tests.grounded import builders
from tests.hub import serve, use_hub

WEIGHTS = "open_clip_model.safetensors"
CONTEXT = 12
TAG = {"hf_hub": "owner/weights/", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
PHRASES = ["a dog", "the red mug"]


def text_tokens_config() -> dict:
    """A model whose texts are tokenised by `transformers`, as those of SigLIP are."""
    config = copy.deepcopy(builders.CLIP_CONFIG)
    config["text_cfg"] |= {
        "context_length": CONTEXT,
        "vocab_size": len(builders.bert_vocabulary()),
        "hf_tokenizer_name": "owner/tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    return config


def save_weights(folder: Path, model: torch.nn.Module) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / WEIGHTS)
    return folder


def build(config: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.model.CLIP(**{key: value for key, value in config.items() if key != "custom_text"}).eval()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    builders.bert_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_hub(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


def expected_embeddings(model: torch.nn.Module, tokenizer: Path) -> torch.Tensor:
    tokens = HFTokenizer(str(tokenizer), context_length=CONTEXT, clean="canonicalize")(PHRASES)
    with torch.no_grad():
        return model.encode_text(tokens, normalize=True)


def test_a_tag_brings_its_tokenizer_and_loads_without_the_hub(
    cache: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = text_tokens_config()
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-siglip", config)
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-siglip", {"webli": TAG})
    model = build(config)
    folders = {"owner/weights": save_weights(tmp_path / "weights", model), "owner/tokenizer": tokenizer}
    with serve(folders) as (address, log):
        use_hub(monkeypatch, cache, address)
        place = locate("tiny-siglip/webli")
        assert isinstance(place, HubModel)
        place.download()
        assert {"open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json"} == set(log)
        log.requests.clear()
        online = load_checkpoint("tiny-siglip/webli")
        assert log.requests == []  # what is cached is not asked for at every load
    use_hub(monkeypatch, cache)
    offline = ClipEncoder.from_pretrained("tiny-siglip/webli", templates=["{}"])
    torch.testing.assert_close(offline.encode(PHRASES), expected_embeddings(model, tokenizer), rtol=0, atol=1e-5)
    for preprocess in (online.preprocess, offline.preprocess):
        normalisation = preprocess.transforms[-1]
        assert (tuple(normalisation.mean), tuple(normalisation.std)) == (TAG["mean"], TAG["std"])


@pytest.mark.parametrize("together", [True, False], ids=["in the repository", "in another repository"])
def test_a_repository_with_a_tokenizer(
    together: bool, cache: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = text_tokens_config()
    model = build(config)
    folder = save_weights(tmp_path / "model", model)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    if together:
        builders.bert_tokenizer().save_pretrained(folder)
    folders = {"owner/clip": folder} | ({} if together else {"owner/tokenizer": tokenizer})
    with serve(folders) as (address, log):
        use_hub(monkeypatch, cache, address)
        locate("owner/clip").download()
        assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"} <= set(log)
    use_hub(monkeypatch, cache)
    encoder = ClipEncoder.from_pretrained("owner/clip", templates=["{}"])
    torch.testing.assert_close(encoder.encode(PHRASES), expected_embeddings(model, tokenizer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("together", [True, False], ids=["in the folder", "in another repository"])
def test_a_text_encoder_with_its_description(
    together: bool, cache: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import transformers

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 16}
    transformers.BertConfig(vocab_size=len(builders.bert_vocabulary()), **sizes).save_pretrained(tokenizer)
    config = text_tokens_config() | {"custom_text": True}
    config["text_cfg"] = {
        "hf_model_name": "owner/tokenizer",
        "hf_tokenizer_name": "owner/tokenizer",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": CONTEXT,
    }
    text = config["text_cfg"] | {"hf_model_name": str(tokenizer), "hf_model_pretrained": False}
    torch.manual_seed(0)
    model = open_clip.model.CustomTextCLIP(16, config["vision_cfg"], text).eval()
    folder = save_weights(tmp_path / "model", model)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    if together:
        for file in tokenizer.iterdir():
            shutil.copy(file, folder)
    with serve({"owner/clip": folder} | ({} if together else {"owner/tokenizer": tokenizer})) as (address, log):
        use_hub(monkeypatch, cache, address)
        locate("owner/clip").download()
        assert {"tokenizer.json", "config.json"} <= set(log)
    use_hub(monkeypatch, cache)
    encoder = ClipEncoder.from_pretrained("owner/clip", templates=["{}"])
    assert encoder.tokenizer(PHRASES).shape[1] < CONTEXT, "padding costs time and changes nothing"
    tokens = HFTokenizer(str(tokenizer), context_length=CONTEXT)(PHRASES)
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.encode(PHRASES), expected, rtol=0, atol=1e-5)
    if together:  # a folder serves by itself, without any repository
        use_hub(monkeypatch, tmp_path / "empty")
        alone = ClipEncoder.from_pretrained(folder, templates=["{}"])
        assert torch.equal(alone.encode(PHRASES), encoder.encode(PHRASES))
        assert locate(folder) == folder


def test_the_description_of_a_whole_clip_is_none_of_a_text_encoder(tmp_path: Path):
    folder = builders.save_clip(tmp_path / "clip")
    config = text_tokens_config()
    config["text_cfg"]["hf_model_name"] = "owner/encoder"
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(CheckpointError, match="owner/encoder"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("source", "repository", "revision", "tokenizers"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None, []),
        ("ViT-B-32/laion2b_s34b_b79k@abc", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "abc", []),
        ("ViT-B-16-SigLIP/webli", "timm/ViT-B-16-SigLIP", None, ["timm/ViT-B-16-SigLIP"]),
        ("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", None, None, ["xlm-roberta-base", "xlm-roberta-base"]),
        ("owner/clip@v1", "owner/clip", "v1", []),
        ("hf-hub:owner/clip@v1", "owner/clip", "v1", []),
    ],
)
def test_where_published_models_are(
    source: str, repository: str | None, revision: str | None, tokenizers: list[str], tmp_path: Path
):
    place = locate(source)
    assert isinstance(place, HubModel)
    assert repository is None or place.repo_id == repository
    assert place.revision == revision
    assert [one.repo_id for one in place.others(tmp_path)] == tokenizers


def test_every_model_with_a_tokenizer_on_the_hub_names_it(tmp_path: Path):
    with_tokenizer = 0
    for model, tag in open_clip.list_pretrained():
        name = open_clip.get_model_config(model)["text_cfg"].get("hf_tokenizer_name")
        if not open_clip.get_pretrained_cfg(model, tag).get("hf_hub"):
            continue
        others = [one.repo_id for one in locate(f"{model}/{tag}").others(tmp_path)]
        assert (name in others) if name else others == []
        with_tokenizer += bool(name)
    assert with_tokenizer > 20


def test_a_file_in_place_of_a_folder(tmp_path: Path):
    file = tmp_path / "clip.pt"
    torch.save({"visual.proj": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"clip\.pt is a file; a CLIP model is a folder with"):
        locate(file)
    file.write_text("<!doctype html><html></html>")
    with pytest.raises(CheckpointError, match=r"clip\.pt is an HTML page, not weights"):
        locate(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"<!doctype html><html></html>", "is an HTML page, not weights", id="a page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\nsize 7\n", "is a Git LFS pointer", id="a pointer"),
    ],
)
def test_weights_that_are_none(content: bytes, message: str, tmp_path: Path):
    folder = builders.save_clip(tmp_path / "clip")
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot read the CLIP model in {folder}: .*{message}") as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)
