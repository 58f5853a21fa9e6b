"""Teaching a text prompt: only its projection learns, and the adapter brings it back onto the base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segany
from grounded.config import load
from grounded.errors import CheckpointError, ConfigError
from grounded.labelling.formats.annotations import Notes
from grounded.models import segmenters
from grounded.training.data import hold_out
from grounded.training.interactive import InteractiveSettings
from grounded.training.log import read_log
from grounded.training.loop import LoopSettings
from grounded.training.text_prompt import ADAPTER_FILE, TextPromptSettings, TextPromptTraining, run
from segany.formats.text_adapter import save_text_adapter

LOOP = LoopSettings(steps=2, learning_rate=1e-3, validate_every=2, save_every=1, log_every=1, precision="float32")
STEP = InteractiveSettings(kinds=("text",), images=2, objects=1, rounds=2, flip=False)


def build(folder: Path, base: Path | str, data, processes, **changes: Any) -> TextPromptTraining:
    settings = TextPromptSettings(
        **{"base": str(base), "clip": "bundled:clip", "crops": 2, "loop": LOOP, "interactive": STEP, **changes}
    )
    folder.mkdir(exist_ok=True)
    training = TextPromptTraining.build(settings, *hold_out(data, 0.1), folder, processes, Notes())
    store = training.segmenter.embeddings
    assert store is not None
    list(store.fill(store.missing(training.segmenter.keys())))
    list(training.crops.fill(training.crops.missing(training.crop_keys())))
    return training


@pytest.mark.parametrize("decoder", [False, True])
def test_the_adapter_brings_the_text_prompt_back(tmp_path: Path, small_base, data, alone, decoder: bool) -> None:
    training = build(tmp_path / "out", small_base, data, alone, decoder=decoder)
    model = training.segmenter.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(training, tmp_path / "out", alone)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith(("prompt_encoder.text_", "mask_decoder.")) for name in changed)
    assert any(name.startswith("mask_decoder.") for name in changed) == decoder
    file = tmp_path / "out" / "model" / ADAPTER_FILE
    save_text_adapter(model, file, decoder)  # the last state, not the best one
    loaded = segany.load(small_base, text_adapter=file)
    assert loaded.config.text_dim == training.clip.dim
    prompts = segany.Prompts(text=training.clip.encode(["a disk"])[None])
    features = training.segmenter.read_features(data.images[0])[None]
    with torch.no_grad():
        expected, actual = (one.decode(features, prompts, None)[0] for one in (model, loaded))
    assert torch.allclose(expected, actual, atol=2e-2)
    config = load(tmp_path / "out" / "preset.yaml")
    assert config.segmenter.text_adapter == str(file) and config.clip.checkpoint == "bundled:clip"
    assert segmenters.build(config.segmenter).model.config.text_dim == training.clip.dim
    assert file.stat().st_size < small_base.stat().st_size


def test_crops_of_an_object(tmp_path: Path, small_base, data, alone) -> None:
    training = build(tmp_path / "out", small_base, data, alone)
    key = training.crop_keys()[0]
    found = training.crops.load(key)
    assert found.shape == (len(key[0].objects), 2, training.clip.dim)
    assert torch.allclose(found.norm(dim=-1), torch.ones(found.shape[:2]), atol=1e-2)
    assert training.crops.missing(training.crop_keys()) == []
    rng = np.random.default_rng(0)
    drawn = {tuple(training.read_text(key, 0, rng)[:3].tolist()) for _ in range(20)}
    assert drawn == {tuple(crop[:3].tolist()) for crop in found[0]}


def test_texts_take_the_place_of_crops(tmp_path: Path, small_base, data, alone) -> None:
    training = build(tmp_path / "out", small_base, data, alone, text_share=1.0)
    key = training.crop_keys()[0]
    text = training.read_text(key, 0, np.random.default_rng(0))
    assert torch.equal(text, training.clip.encode([key[0].objects[0].label])[0])


def test_another_clip_than_the_text_prompt_was_taught_with(tmp_path: Path, data, alone, small_base) -> None:
    torch.manual_seed(0)
    model = segany.load(small_base, text_dim=24)
    segany.save(model, tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match="takes embeddings of width 24, bundled:clip gives 128"):
        build(tmp_path / "out", tmp_path / "text.safetensors", data, alone)


def test_files_that_are_no_text_adapter(tmp_path: Path, small_base) -> None:
    model = segany.load(small_base)
    with pytest.raises(CheckpointError, match="the model has no text prompt"):
        save_text_adapter(model, tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"is no text adapter: it has no tensor prompt_encoder\.text_projection"):
        segany.load(small_base, text_adapter=small_base)
    whole = tmp_path / "whole.safetensors"
    segany.save(segany.load(small_base, text_dim=8), whole)
    with pytest.raises(CheckpointError, match="load it as a whole model"):
        segany.load(small_base, text_adapter=whole)
    other = segany.SegAny(replace(segany.load(small_base).config, prompt_dim=64, text_dim=8))
    save_text_adapter(other, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="is for prompts of 64 channels, the base has 32"):
        segany.load(small_base, text_adapter=tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        with torch.no_grad():
            other.prompt_encoder.text_projection.bias.fill_(1e9)
        save_text_adapter(other, tmp_path / "other.safetensors")


@pytest.mark.slow
def test_the_loss_falls(tmp_path: Path, small_base, data, alone) -> None:
    loop = replace(LOOP, steps=60, learning_rate=3e-3, validate_every=60, save_every=60)
    training = build(tmp_path / "out", small_base, data, alone, decoder=True, loop=loop)
    outcome = run(training, tmp_path / "out", alone)
    losses = [row["train"]["loss"] for row in read_log(tmp_path / "out") if "train" in row]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert outcome.best > outcome.first
