"""Fine-tuning Grounding DINO: both families of transformers, what learns, what is written, and going on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grounded.config import load
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.models.detectors.grounding_dino import GroundingDino
from grounded.training import grounding_dino as detectors
from grounded.training.data import TrainingData, hold_out
from grounded.training.grounding_dino import DetectorSettings, DetectorTraining
from grounded.training.grounding_dino_batches import DetectorBatchSettings, choose_phrases, make_batch, pad_images
from grounded.training.log import read_log
from grounded.training.loop import LoopSettings
from tests.grounded import builders

LOOP = LoopSettings(steps=2, learning_rate=1e-3, validate_every=2, save_every=1, log_every=1, precision="float32")
DINO, MM = "grounding-dino", "mm-grounding-dino"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small networks of random weights, as transformers saves them, by family."""
    return {name: builders.save_detector(tmp_path_factory.mktemp(name), name) for name in (DINO, MM)}


@pytest.fixture(scope="session")
def base(bases: dict[str, Path]) -> Path:
    return bases[MM]


@pytest.fixture(scope="session")
def known(data: TrainingData) -> TrainingData:
    """The drawn data with classes that the small tokenizer can spell."""
    names = {"disk": "cat", "square": "red mug"}
    images = tuple(
        replace(image, objects=tuple(replace(one, label=names[one.label]) for one in image.objects))
        for image in data.images
    )
    return TrainingData(images, tuple(names.values()))


def build(base: Path | str, data: TrainingData, processes: Any, **changes: Any) -> DetectorTraining:
    batches = DetectorBatchSettings(images=2)
    settings = DetectorSettings(**{"base": str(base), "loop": LOOP, "batches": batches, **changes})
    return DetectorTraining.build(settings, *hold_out(data, 0.1), processes, Notes())


@pytest.mark.parametrize(
    ("family", "part"),
    [(DINO, "all"), (MM, "lora"), pytest.param(MM, "detector", marks=pytest.mark.slow)],
)
def test_what_learns_and_what_is_written(tmp_path: Path, bases: dict[str, Path], known, alone, family, part) -> None:
    training = build(bases[family], known, alone, part=part)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    assert detectors.run(training, tmp_path, alone).step == 2
    changed = {name for name, value in training.model.state_dict().items() if not torch.equal(value, before[name])}
    backbones = [name for name in changed if name.startswith(("model.backbone.", "model.text_backbone."))]
    assert bool(backbones) == (part == "all")
    assert any("enc_output" in name for name in changed)  # the first stage, which transformers' own loss leaves out
    assert any(".lora_B." in name for name in changed) == (part == "lora")
    training.export(tmp_path, "tiny")  # the last state, not the best one
    config = load(tmp_path / "preset.yaml")
    assert config.detector.checkpoint == str(tmp_path / "model")
    image = known.images[0].open()
    ours = training.detector()
    (expected,) = ours.detect([image], [["cat", "red mug"]])
    (actual,) = GroundingDino.from_pretrained(tmp_path / "model", ours.config).detect([image], [["cat", "red mug"]])
    assert np.allclose(expected.scores, actual.scores, atol=1e-4)
    assert np.allclose(expected.boxes, actual.boxes, atol=0.05)


def test_resumed_equals_uninterrupted(tmp_path: Path, base: Path, known, alone) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    whole, parts = build(base, known, alone), build(base, known, alone)
    expected = detectors.run(whole, tmp_path / "whole", alone)
    assert detectors.run(parts, tmp_path / "parts", alone, lambda: True).step == 1
    parts = build(base, known, alone)
    assert detectors.run(parts, tmp_path / "parts", alone) == expected
    after = parts.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.model.state_dict().items())


@pytest.mark.parametrize("family", [DINO, MM])
def test_every_stage_has_a_loss(bases: dict[str, Path], known, alone, family: str) -> None:
    training = build(bases[family], known, alone)
    batch = make_batch(0, known, training.inputs, training.settings.batches)
    layers = training.model.config.decoder_layers
    names = [f"{kind} {number}" for kind in ("layer", "denoising") for number in range(1, layers + 1)]
    with torch.no_grad():
        (parts,) = training.compute_losses(batch)
        without = detectors.compute_losses(training.model, batch, denoising=False)
    assert set(parts) == {"first stage", *names} and all(part.isfinite() for part in parts.values())
    assert set(without) == {"first stage", *names[:layers]}


def test_prompts_of_a_batch_have_their_own_targets(base: Path, known, alone) -> None:
    training = build(base, known, alone)
    settings = DetectorBatchSettings(images=6, flip=False)
    batch = make_batch(1, known, training.inputs, settings)
    assert batch.pixels.shape[0] == len(batch.truths) == 6
    for row, truth in enumerate(batch.truths):
        tokens = training.tokenizer.convert_ids_to_tokens(batch.input_ids[row])
        for wanted, box in zip(truth.tokens, truth.boxes, strict=True):
            said = [token for token, is_wanted in zip(tokens, wanted, strict=True) if is_wanted]
            assert said == (["cat"] if box[0] > 0.5 else ["red", "mug"])  # disks lie at the right
        assert not truth.tokens[:, ~batch.text_mask[row]].any()
    same = make_batch(1, known, training.inputs, settings)
    assert torch.equal(batch.pixels, same.pixels) and torch.equal(batch.input_ids, same.input_ids)


def test_mirrored_boxes(base: Path, known, alone) -> None:
    training = build(base, known, alone)
    for step in range(6):
        batch = make_batch(step, known, training.inputs, DetectorBatchSettings(images=1))
        for truth, pixels in zip(batch.truths, batch.pixels, strict=True):
            red = (pixels[0] > pixels[2] + 1).any(0).nonzero()  # columns of the disk
            centre = float(red.float().mean()) / pixels.shape[2]
            assert (truth.boxes[:, 0] - centre).abs().min() < 0.05


def test_absent_classes_are_asked_as_well(known) -> None:
    rng = np.random.default_rng(0)
    image = next(image for image in known.images if len(image.objects) == 1)
    names = ["cat", *(f"other {number}" for number in range(30))]
    drawn = [choose_phrases(image, names, 5, rng) for _ in range(40)]
    assert all("cat" in one and len(set(one)) == len(one) <= 5 for one in drawn)
    assert {len(one) for one in drawn} == {1, 2, 3, 4, 5}
    empty = replace(image, objects=())
    assert all(choose_phrases(empty, names, 5, rng) for _ in range(10))
    assert choose_phrases(image, ["cat"], 5, rng) == ["cat"]


def test_images_of_several_sizes_are_padded() -> None:
    pixels, mask = pad_images([torch.ones(3, 4, 6), torch.ones(3, 5, 2)])
    assert pixels.shape == (2, 3, 5, 6) and mask.sum((1, 2)).tolist() == [24, 10]
    assert torch.equal(pixels[:, 0].long(), mask)


def test_classes_that_cannot_be_spelled(base: Path, data: TrainingData, known, alone) -> None:
    notes = Notes()
    settings = DetectorSettings(base=str(base), loop=LOOP)
    foreign = replace(known, classes=(*known.classes, "猫"))
    training = DetectorTraining.build(settings, *hold_out(foreign, 0.1), alone, notes)
    assert training.learned.classes == known.classes
    assert notes.lines() == ["classes that the detector cannot spell, or that are too long for it, left out: 1 (猫)"]
    alien = replace(
        data,
        classes=("猫",),
        images=tuple(
            replace(image, objects=tuple(replace(one, label="猫") for one in image.objects)) for image in data.images
        ),
    )
    with pytest.raises(ResultError, match="no object is left to learn from"):
        DetectorTraining.build(settings, *hold_out(alien, 0.1), alone, Notes())


@pytest.mark.slow
def test_the_loss_falls_on_drawn_images(tmp_path: Path, data, alone) -> None:
    loop = replace(LOOP, steps=15, learning_rate=3e-4, validate_every=15)
    training = build("tiny", data, alone, loop=loop, backbone_rate=1.0)
    outcome = detectors.run(training, tmp_path, alone)
    losses = [row["train"]["loss"] for row in read_log(tmp_path) if "train" in row]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert outcome.best >= outcome.first
