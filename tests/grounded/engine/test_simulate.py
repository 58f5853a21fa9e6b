"""The simulated annotator, with the bundled weights on small drawn images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.config import load
from grounded.data.instances import Instances
from grounded.engine.rounds import Engine
from grounded.engine.simulate import Annotator, Simulation, read_truths
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.review.clicks import ClickSegmenter
from grounded.labelling.review.log import read_reviews
from grounded.labelling.sources import open_source
from segany import Predictor
from segany.utils.rle import RLE, encode_rle, rle_area
from tests.data import disk

SIZE = (96, 128)
LARGE, SMALL = disk(*SIZE, 40, 48, 28), disk(*SIZE, 104, 72, 12)


def rle(mask: np.ndarray) -> RLE:
    return encode_rle(mask[None])[0]


@pytest.fixture
def simulation(engine: Engine, predictor: Predictor, tmp_path: Path) -> Simulation:
    """Of two disks in an image, and of an image without any."""
    pixels = np.full((*SIZE, 3), 110, np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "empty.png")
    pixels[LARGE], pixels[SMALL] = (220, 40, 30), (30, 60, 220)
    Image.fromarray(pixels).save(tmp_path / "images" / "disks.png")
    engine.round_folder().mkdir(parents=True)
    return Simulation(
        engine=engine,
        source=open_source(tmp_path / "images"),
        truths={"disks.png": [rle(SMALL), rle(LARGE)], "empty.png": []},
        segmenter=ClickSegmenter(load("tiny"), predictor),
        annotator=Annotator(good_iou=0.85),
    )


def record(file: str, *masks: np.ndarray) -> Record:
    ids, iou = np.zeros(len(masks), np.int64), np.full(len(masks), 0.9)
    found = Instances.from_masks(("unnamed",), SIZE, [rle(mask) for mask in masks], ids, iou, "automatic")
    return Record(image=ImageInfo(file=file, width=SIZE[1], height=SIZE[0]), instances=found)


def test_objects_are_added_from_nothing_the_largest_first(simulation: Simulation):
    assert simulation.annotate(record("disks.png")) == 2
    large, small = read_reviews(simulation.engine.round_folder())
    assert [one.action for one in (large, small)] == ["add", "add"] and large.source == "simulated"
    assert large.mask is not None and small.mask is not None
    assert rle_area([large.mask])[0] > rle_area([small.mask])[0]
    for one in (large, small):
        assert one.clicks and one.seconds
        # To find it, and of each click the click itself and one to three decisions; the model's own time comes on top.
        assert 3.0 + 2.5 * one.clicks <= one.seconds


def test_shown_masks_are_judged(simulation: Simulation):
    semi = replace(simulation, engine=replace(simulation.engine, number=2))
    semi.engine.round_folder().mkdir(parents=True)
    nothing = disk(*SIZE, 90, 20, 10)
    assert semi.annotate(record("disks.png", LARGE, nothing)) == 2
    accepted, rejected, added = read_reviews(semi.engine.round_folder())
    assert (accepted.action, accepted.key, accepted.clicks, accepted.seconds) == ("accept", 0, 0, 1.0)
    assert (rejected.action, rejected.key) == ("reject", 1)
    assert added.action == "add"


def test_bad_masks_are_corrected_and_the_automatic_stage_adds_nothing(simulation: Simulation):
    auto = replace(simulation, engine=replace(simulation.engine, number=3))
    auto.engine.round_folder().mkdir(parents=True)
    half = LARGE.copy()
    half[48:] = False
    half[:, :30] = False
    auto = replace(auto, annotator=replace(auto.annotator, same_iou=0.2))
    assert auto.annotate(record("disks.png", half)) <= 1
    (review,) = read_reviews(auto.engine.round_folder())
    assert review.action in ("redraw", "reject") and review.clicks


def test_empty_images_are_confirmed_and_lost_time_counts(simulation: Simulation):
    simulation.annotate(record("empty.png"))
    hopeless = replace(simulation, annotator=Annotator(good_iou=1.0, least_iou=1.0, most_clicks=1))
    assert hopeless.annotate(record("disks.png")) == 0
    empty, lost = read_reviews(simulation.engine.round_folder())
    assert (empty.action, empty.key, empty.seconds) == ("accept", "", 4.0)
    assert (lost.action, lost.key, lost.clicks) == ("undo", "", 2)


def test_the_next_image_is_due_after_too_long_a_mask(simulation: Simulation):
    plan = replace(simulation.engine.plan, seconds_per_mask=0.1)
    hasty = replace(simulation, engine=replace(simulation.engine, plan=plan))
    assert hasty.annotate(record("disks.png")) == 1


def test_truths_are_read(annotations: Path):
    notes = Notes()
    truths = read_truths(str(annotations), notes)
    assert sorted(truths) == [f"{n}.png" for n in range(1, 6)] and notes.lines() == []
    assert [len(truths[f"{n}.png"]) for n in (1, 2)] == [2, 1]
