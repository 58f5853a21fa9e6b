"""The loop of the rounds: what a person accepted trains the model that the next round uses."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import segany
from grounded.engine import loop
from grounded.engine.accepted import accepted_data, accepted_masks
from grounded.engine.report import Truths, measure_rounds
from grounded.engine.rounds import Engine
from grounded.engine.training import RoundOutcome
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.review.log import Review, append_reviews
from grounded.labelling.store import Run, read_records
from grounded.training.log import read_log
from segany.utils.rle import rle_area
from tests.grounded.engine.conftest import accept_truths, state


def test_a_round_begins_with_nothing_and_the_next_with_the_trained_model(engine: Engine, truths: Truths):
    engine = loop.prepare(engine)
    records = list(read_records(engine.round_folder()))
    assert [len(record.instances) for record in records] == [0, 0] and engine.phase == "annotate"
    number = accept_truths(engine, truths)
    engine = loop.finish(engine)
    assert state(engine)["number"] == 2 and engine.phase == "prepare"
    outcome = RoundOutcome.read(engine.training_folder(1))
    assert outcome is not None and (outcome.images, outcome.objects, outcome.steps) == (2, number, 2)
    engine = loop.prepare(engine)
    run = Run.read(engine.round_folder())
    assert run.configuration["segmenter"]["checkpoint"] == str(engine.training_folder(1) / "model")
    assert engine.config().segmenter.checkpoint == run.configuration["segmenter"]["checkpoint"]
    segany.load(engine.training_folder(1) / "model")
    assert len(list((engine.round_folder() / "sa1b").iterdir())) == 2
    assert sum(len(record.instances) for record in read_records(engine.round_folder())) > 0


@pytest.mark.slow
def test_the_automatic_stage_needs_nobody(engine: Engine, truths: Truths):
    for _ in range(2):
        engine = loop.prepare(engine)
        accept_truths(engine, truths)
        engine = loop.finish(engine)
    data = accepted_data(engine, Notes())
    assert data is not None and len(data.images) == 4 and "thing" in data.classes
    engine = loop.finish(loop.prepare(engine))
    assert (engine.phase, engine.number) == ("done", 3)
    assert not engine.training_folder(3).exists()  # nothing was accepted: the model stays
    figures = measure_rounds(engine, truths)
    assert [one.stage for one in figures] == ["assisted", "semi", "auto"]
    assert [one.images for one in figures] == [2, 2, 1]
    assert figures[0].seconds_per_mask == 10 and figures[0].accepted_truth_iou == 1


@pytest.mark.parametrize(
    "stage",
    [pytest.param("records", marks=pytest.mark.slow), pytest.param("comparison", marks=pytest.mark.slow), "training"],
)
def test_what_was_interrupted_goes_on(stage: str, engine: Engine, truths: Truths):
    if stage == "records":
        same = loop.prepare(engine, should_stop=lambda: True)
        assert (same.phase, same.number) == ("prepare", 1)
    engine = loop.prepare(engine)
    accept_truths(engine, truths)
    if stage != "records":
        engine = loop.finish(engine, should_stop=after(1 if stage == "comparison" else 6))
        assert state(engine)["phase"] == "train"
        engine = Engine.read(engine.folder)
    engine = loop.finish(engine)
    assert (engine.phase, engine.number) == ("prepare", 2)


def after(calls: int) -> Callable[[], bool]:
    """Wants to stop from so many calls on."""
    numbers = count()
    return lambda: next(numbers) >= calls


@pytest.mark.slow
def test_what_was_accepted_meanwhile_counts(engine: Engine, truths: Truths):
    engine = loop.prepare(engine)
    accept_truths(engine, truths)
    engine = loop.finish(engine, should_stop=after(6))  # in the middle of the training
    assert read_log(engine.training_folder(1))[-1]["step"] == 1
    lines: list[str] = []
    record = next(read_records(engine.round_folder()))
    mask = truths[record.image.file][0]
    append_reviews(engine.round_folder(), Review(file=record.image.file, action="add", id="b", phrase="it", mask=mask))
    engine = loop.finish(engine, tell=lines.append)
    assert any(line.startswith("The training begins anew") for line in lines)
    outcome = RoundOutcome.read(engine.training_folder(1))
    assert outcome is not None and outcome.objects == sum(map(len, accepted_masks(engine.round_folder(1)).values()))
    assert read_log(engine.training_folder(1))[-1]["step"] == 2


def test_rounds_in_which_nothing_was_accepted(engine: Engine):
    engine = loop.prepare(engine)
    with pytest.raises(ResultError, match="nothing is accepted in round 1: annotate it first"):
        loop.finish(engine)
    assert state(engine)["phase"] == "annotate"


def test_accepted_is_what_a_person_has_confirmed(engine: Engine, truths: Truths):
    engine = loop.prepare(engine)
    first, second = (record.image.file for record in read_records(engine.round_folder()))
    assert accepted_masks(engine.round_folder()) == {}
    mask = truths[first][0]
    add = Review(file=first, action="add", id="a", phrase="thing", mask=mask)
    append_reviews(engine.round_folder(), add, Review(file=second, action="accept"))
    found = accepted_masks(engine.round_folder())
    assert found[second] == [] and rle_area(found[first]).tolist() == rle_area([mask]).tolist()
    append_reviews(engine.round_folder(), Review(file=first, action="undo", id="a"))
    assert accepted_masks(engine.round_folder()) == {second: []}
    assert accepted_data(engine, Notes()) is None


def test_images_that_cannot_be_read_are_left_out(engine: Engine, tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("no image")
    broken = replace(engine, plan=replace(engine.plan, source=str(tmp_path / "images")))
    with pytest.raises(ResultError, match=r"no image of round 1 can be read"):
        loop.prepare(broken)
    with pytest.raises(ConfigError):
        loop.prepare(replace(engine, plan=replace(engine.plan, source=str(tmp_path / "none"))))
