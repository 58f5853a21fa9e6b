"""Fine-tuning the one-stage detector: what its cells are to say, what learns, what is kept, and going on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from grounded.config import load
from grounded.errors import ConfigError
from grounded.models.detectors.one_stage_head import FILE, OneStageConfig, OneStageHead, load_head, save_head
from grounded.pipeline import Pipeline
from grounded.training import one_stage
from grounded.training.data import TrainingData, hold_out
from grounded.training.log import read_log
from grounded.training.loop import LoopSettings
from grounded.training.one_stage import OneStageSettings, OneStageTraining, cell_targets, is_one_stage
from grounded.training.processes import Processes
from tests.grounded.training.drawn import SIZE, SMALL

LOOP = LoopSettings(steps=3, learning_rate=1e-2, validate_every=3, save_every=1, log_every=1, precision="float32")


@pytest.fixture(scope="module", params=[0, 3], ids=["plain", "refined"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    """A preset with a head of random weights that knows two names, one of them of the data."""
    folder = tmp_path_factory.mktemp("one_stage")
    torch.manual_seed(3)
    width = Pipeline.from_config("tiny", mode="box+text").text_encoder.dim  # type: ignore[union-attr]
    head = OneStageHead(OneStageConfig(dim=SMALL.prompt_dim, width=24, groups=4, text_dim=width, points=request.param))
    save_head(head, ["a lamp", "disk"], torch.randn(2, width), folder / FILE)
    preset = {
        "detector": {"kind": "one-stage", "checkpoint": str(folder), "box_threshold": 0.3},
        "clip": {"checkpoint": "bundled:clip", "templates": ["{}"]},
        "segmenter": {"checkpoint": str(small_base)},
    }
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def build(base: Path, data: TrainingData, folder: Path, processes: Processes, **changes: Any) -> OneStageTraining:
    settings = OneStageSettings(**{"base": str(base), "images": 2, "loop": LOOP, **changes})
    training = OneStageTraining.build(settings, *hold_out(data, 0.1), folder, processes)
    list(training.embeddings.fill(training.embeddings.missing(training.keys())))
    return training


@pytest.mark.parametrize("mirrored", [False, True])
def test_cells_say_what_lies_on_them(data: TrainingData, mirrored: bool) -> None:
    image = next(one for one in data.images if len(one.objects) == 2)
    boxes, has_box, named = cell_targets((image, mirrored), data.classes, SMALL)
    square = next(one for one in image.objects if one.label == "square")
    cell = SMALL.grid_size / max(SIZE)  # cells for a pixel
    column = (square.box[0] + square.box[2]) / 2
    x = int((SIZE[1] - column if mirrored else column) * cell)
    row = int((square.box[1] + square.box[3]) / 2 * cell) * SMALL.grid_size + x
    assert has_box[row] and named[row].tolist() == [name == "square" for name in data.classes]
    assert boxes[row, 1].item() == pytest.approx(square.box[1] / max(SIZE), abs=0.01)
    assert not has_box.all() and torch.equal(has_box, named.any(-1))
    without = replace(image, objects=tuple(replace(one, mask=None) for one in image.objects))
    _, has_box, _ = cell_targets((without, mirrored), data.classes, SMALL)
    assert has_box[row] and not has_box.all()


def test_what_learns_what_is_written_and_what_is_kept(tmp_path: Path, base: Path, data, alone) -> None:
    training = build(base, data, tmp_path, alone)
    head = {name: value.clone() for name, value in training.detector.head.state_dict().items()}
    model = {name: value.clone() for name, value in training.embeddings.model.state_dict().items()}
    assert one_stage.run(training, tmp_path, alone, preset=str(base)).step == 3
    after = training.detector.head.state_dict()
    same = {name for name, value in head.items() if torch.equal(value, after[name])}
    assert same == {name for name in head if name.startswith(("fore.", "edge."))}
    now = training.embeddings.model.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in model.items())
    assert {"sides", "quality", "word", "kept"} <= set(read_log(tmp_path)[1]["train"])
    training.export(tmp_path, str(base))  # the last state, not the best one
    _, names, _ = load_head(tmp_path / "model")
    assert names == (*data.classes, "a lamp")
    config = load(tmp_path / "preset.yaml")
    assert config.detector.checkpoint == str(tmp_path / "model") and config.segmenter == load(base).segmenter
    found = Pipeline.from_config(config, box_threshold=0.0).segment(data.images[0].open(), "a disk")
    assert found.phrases == ("a disk",) and not found.notes


def test_resumed_equals_uninterrupted(tmp_path: Path, base: Path, data, alone) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    whole = build(base, data, tmp_path, alone)
    expected = one_stage.run(whole, tmp_path / "whole", alone, preset=str(base))
    parts = build(base, data, tmp_path, alone)
    assert one_stage.run(parts, tmp_path / "parts", alone, lambda: True, str(base)).step == 1
    parts = build(base, data, tmp_path, alone)
    assert one_stage.run(parts, tmp_path / "parts", alone, preset=str(base)) == expected
    after = parts.detector.head.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.detector.head.state_dict().items())


@pytest.mark.slow
def test_a_drawn_class_is_learnt(tmp_path: Path, base: Path, data, alone) -> None:
    loop = replace(LOOP, steps=150, validate_every=150, save_every=150, learning_rate=3e-3)
    training = build(base, data, tmp_path, alone, loop=loop)
    training = replace(training, held_out=training.learned)
    outcome = one_stage.run(training, tmp_path, alone, preset=str(base))
    assert outcome.first < 0.2 < 0.6 < outcome.best


def test_bases(base: Path, tmp_path: Path, data, alone) -> None:
    assert is_one_stage(str(base)) and not is_one_stage("tiny") and not is_one_stage("IDEA-Research/x")
    with pytest.raises(ConfigError, match="must have a one-stage detector, got kind grounding-dino"):
        build("tiny", data, tmp_path, alone)  # type: ignore[arg-type]
