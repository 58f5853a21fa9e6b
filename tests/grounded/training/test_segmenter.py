"""Fine-tuning a segmenter: what learns, what is written, and that one goes on where it was stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segany
from grounded.config import load
from grounded.errors import CheckpointError, ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.training import embeddings, interactive
from grounded.training.data import TrainingData, hold_out
from grounded.training.log import read_log
from grounded.training.loop import LoopSettings, Outcome
from grounded.training.processes import Processes
from grounded.training.segmenter import SegmenterSettings, SegmenterTraining, export, run, select_parameters, usable
from segany.utils.masks import masks_to_boxes
from tests.grounded.training.drawn import SMALL

LOOP = LoopSettings(steps=3, learning_rate=1e-3, validate_every=2, save_every=1, log_every=1, precision="float32")
STEP = interactive.InteractiveSettings(images=2, objects=2, rounds=3)


def build(folder: Path, base: Path | str, data: TrainingData, processes: Processes, **changes: Any):
    """A training in a folder, its images encoded."""
    settings = SegmenterSettings(**{"base": str(base), "loop": LOOP, "interactive": STEP, **changes})
    folder.mkdir(exist_ok=True)
    training = SegmenterTraining.build(settings, *hold_out(data, 0.1), folder, processes, Notes())
    if training.embeddings is not None:
        list(training.embeddings.fill(training.embeddings.missing(training.keys())))
    return training


def embedding_of(model: segany.SegAny) -> torch.Tensor:
    pixels = torch.randn(1, 3, model.config.image_size, model.config.image_size, generator=torch.Generator())
    with torch.no_grad():
        return model.encode_image(pixels)


@pytest.mark.parametrize("parts", [("decoder",), ("prompts",), ("decoder", "lora")], ids="+".join)
def test_what_learns_and_what_is_written(tmp_path: Path, small_base, data, alone, parts) -> None:
    training = build(tmp_path / "out", small_base, data, alone, parts=parts)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    outcome = run(training, tmp_path / "out", alone)
    changed = {n for n, v in training.model.state_dict().items() if not torch.equal(v, before[n])}
    places = {"decoder": "mask_decoder.", "prompts": "prompt_encoder.", "lora": "image_encoder."}
    assert {name.split(".")[0] + "." for name in changed} == {places[part] for part in parts}
    if "lora" in parts:
        assert all(".lora_" in name for name in changed if name.startswith("image_encoder."))
    assert outcome.step == 3
    # The best state is the last one or an earlier one: write the last, to compare.
    export(training, select_parameters(training.model, parts), tmp_path / "out", "tiny")
    loaded = segany.load(tmp_path / "out" / "model")
    assert torch.allclose(embedding_of(loaded), embedding_of(training.model), atol=2e-3)
    weights = [(model.mask_decoder.mask_tokens.weight, model) for model in (loaded, training.model)]
    assert torch.allclose(weights[0][0], weights[1][0], atol=1e-3)
    config = load(tmp_path / "out" / "preset.yaml")
    assert config.segmenter.checkpoint == str(tmp_path / "out" / "model")
    if "lora" in parts:  # an adapter that names its base, of some KB
        assert not (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_resumed_equals_uninterrupted(tmp_path: Path, small_base, data, alone) -> None:
    whole, parts = (build(tmp_path / name, small_base, data, alone) for name in ("whole", "parts"))
    expected = run(whole, tmp_path / "whole", alone)
    asked = iter((False, True))
    assert run(parts, tmp_path / "parts", alone, lambda: next(asked)).step == 2
    parts = build(tmp_path / "parts", small_base, data, alone)
    outcome: Outcome = run(parts, tmp_path / "parts", alone)
    assert outcome == expected
    after = parts.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.model.state_dict().items())


def test_batches_are_functions_of_the_step(tmp_path: Path, small_base, data, alone) -> None:
    training = build(tmp_path / "out", small_base, data, alone)

    def batch(step: int, *seed: int) -> interactive.InteractiveBatch:
        reader = training.read_input
        return interactive.make_batch(step, training.learned, training.model.config, STEP, reader, seed=seed or (0,))

    one, same, other, process = batch(3), batch(3), batch(4), batch(3, 0, 1)
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.boxes, same.boxes) and one.seed == same.seed
    assert one.seed != other.seed and one.seed != process.seed


def test_embeddings_are_computed_once(tmp_path: Path, small_base, data, alone) -> None:
    training = build(tmp_path / "out", small_base, data, alone)
    store = training.embeddings
    assert store is not None and len(training.keys()) == 5 and store.missing(training.keys()) == []
    image = data.images[0]
    plain = store.load((image, False))
    pixels = embeddings.pixels_of((image, False), training.model)
    with torch.no_grad():
        assert torch.allclose(plain, training.model.encode_image(pixels[None])[0], atol=5e-3)
    assert not torch.allclose(plain, store.load((image, True)), atol=5e-2)


def test_mirrored_truths_belong_to_mirrored_images(data, small_base) -> None:
    model = segany.load(small_base)
    image = next(image for image in data.images if len(image.objects) == 2)
    square = next(one for one in image.objects if one.label == "square")
    for mirrored in (False, True):
        truth = interactive.low_res_truth((image, mirrored), square, model.config) > 0.5
        pixels = embeddings.pixels_of((image, mirrored), model)
        step = model.config.image_size // model.config.low_res_size
        shown = pixels[:, ::step, ::step][:, truth]
        assert (shown[2] > shown[0]).all()  # the square is blue


def test_boxes_with_noise_lie_around_the_truth() -> None:
    truths = torch.zeros(40, 32, 32)
    truths[:, 8:20, 4:28] = 1
    config = replace(segany.PRESETS["tiny"], image_size=256, patch_size=32)
    boxes = interactive.noisy_boxes(truths, config, np.random.default_rng(0))
    tight = (masks_to_boxes(truths[:1] > 0) + torch.tensor([0, 0, 1, 1])) * 8
    assert (boxes - tight).abs().max() <= 0.02 * 256 + 1e-3 and (boxes != tight).any(1).all()
    faint = interactive.noisy_boxes(truths[:1] * 0.1, config, np.random.default_rng(0))
    assert (faint - tight).abs().max() <= 0.02 * 256 + 1e-3  # smaller than a pixel of the masks, but there


def test_objects_too_small_are_left_out(data, small_base) -> None:
    model, notes = segany.load(small_base), Notes()
    image = data.images[0]
    speck = replace(image.objects[0], box=(3.0, 3.0, 4.0, 4.0))
    small = replace(data, images=(replace(image, objects=(*image.objects, speck)),))
    assert usable(small, model, notes).objects == len(image.objects)
    assert notes.lines() == ["objects smaller than a pixel of the predicted masks, left out: 1 (1.png)"]
    with pytest.raises(ResultError, match="no object is left to learn from: objects smaller"):
        usable(replace(data, images=(replace(image, objects=(speck,)),)), model, notes)


def test_measuring(data, small_base) -> None:
    model = segany.load(small_base)
    with torch.no_grad():
        figures = interactive.measure(
            model,
            data,
            ("box", "point"),
            lambda image: model.encode_image(embeddings.pixels_of((image, False), model)[None])[0],
        )
    assert set(figures) == {"box IoU", "point IoU"} and all(0 <= value <= 1 for value in figures.values())


def test_sam_hq_is_refused(tmp_path: Path, data, alone) -> None:
    torch.manual_seed(0)
    segany.save(segany.SegAny(replace(SMALL, hq=True)), tmp_path / "hq.safetensors")
    with pytest.raises(CheckpointError, match="is a SAM-HQ"):
        build(tmp_path / "out", tmp_path / "hq.safetensors", data, alone)


@pytest.mark.slow
def test_the_loss_falls_on_one_image(tmp_path: Path, data, alone) -> None:
    """The bundled model learns shapes that it does not know, and a pipeline takes what was written."""
    from grounded import Pipeline

    one = TrainingData(data.images[:2], data.classes)
    loop = replace(LOOP, steps=12, learning_rate=3e-4, validate_every=6)
    training = build(tmp_path / "out", "tiny", one, alone, loop=loop, interactive=replace(STEP, rounds=1, flip=False))
    outcome = run(training, tmp_path / "out", alone)
    rows = [row["train"]["loss"] for row in read_log(tmp_path / "out") if "train" in row]
    assert np.mean(rows[-4:]) < 0.8 * np.mean(rows[:4])
    assert outcome.best >= outcome.first
    pipeline = Pipeline.from_config(tmp_path / "out" / "preset.yaml")
    assert pipeline.segment(data.images[0].open(), "a disk").image_size == data.images[0].size
