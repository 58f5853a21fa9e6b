"""The plan of a data engine, and the file that it is kept in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from grounded.config import load
from grounded.engine.rounds import Engine, Plan, PlannedRound, base_config, parse_rounds, start
from grounded.errors import ConfigError, GroundedError


def test_a_plan_is_read():
    expected = (PlannedRound("assisted", 20), PlannedRound("semi", 5), PlannedRound("auto"))
    assert parse_rounds("assisted:20, semi:5,auto") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("manual:20", "must be one of assisted, semi, auto, got 'manual:20'", id="no such stage"),
        pytest.param("semi:many", "must have a number of images, as in semi:20, got 'semi:many'", id="no number"),
        pytest.param("semi:0", "must have a number of images", id="no image"),
        pytest.param("", "must be one of", id="nothing"),
        pytest.param("assisted,auto", "only the last may take all images", id="nothing left for the second"),
    ],
)
def test_plans_that_are_none(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        Plan(source="images", base="tiny", rounds=parse_rounds(text))


def test_the_state_is_read_back(engine: Engine):
    later = engine.in_phase("train", 2)
    assert Engine.read(engine.folder) == later
    assert later.round == PlannedRound("semi", 2)
    assert later.round_folder().name == "02-semi" and later.training_folder().name == "02"


def test_a_folder_holds_one_plan(engine: Engine, tmp_path: Path):
    engine.in_phase("annotate")
    assert start(engine.folder, engine.plan).phase == "annotate"  # it goes on
    with pytest.raises(ConfigError, match="another folder") as error:
        start(engine.folder, replace(engine.plan, seed=1))
    assert "other seed" in str(error.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"must be new, empty, or of a data engine, got notes\.txt"):
        start(tmp_path / "full", engine.plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda data: data.update(number=4), "the plan has 3 rounds, got the number 4", id="no such round"),
        pytest.param(lambda data: data.update(phase="rest"), "phase must be one of", id="no such phase"),
        pytest.param(lambda data: data["plan"].pop("base"), "the key plan.base is missing", id="without a base"),
        pytest.param(lambda data: data["plan"]["automatic"].update(nms_thresh=2.0), "lie in", id="out of range"),
    ],
)
def test_states_that_are_none(change, message: str, engine: Engine):
    path = engine.folder / "engine.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(GroundedError, match=message):
        Engine.read(engine.folder)


@pytest.mark.parametrize("text", [None, "", "[]", "{"], ids=["missing", "empty", "a list", "cut off"])
def test_files_that_are_none(text: str | None, engine: Engine):
    path = engine.folder / "engine.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(GroundedError, match=r"engine\.json"):
        Engine.read(engine.folder)


def test_a_base_is_a_preset_or_a_checkpoint(base: Path):
    assert base_config("tiny") == load("tiny")
    assert base_config(str(base)).segmenter.checkpoint == str(base)
    with pytest.raises(ConfigError, match="kind 'sam2'"):
        base_config("sam2")
