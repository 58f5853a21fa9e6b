"""A small data engine over drawn images, with a segmenter of random weights, for what needs no good masks."""

import json
from pathlib import Path

import pytest
import torch

import segany
from grounded.engine.report import Truths
from grounded.engine.rounds import AutomaticSettings, Engine, Plan, RoundTraining, parse_rounds, start
from grounded.engine.simulate import read_truths
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.review.log import Review, append_reviews
from grounded.labelling.store import read_records
from tests.grounded.training.drawn import SMALL, draw, write

# A random segmenter is sure of nothing: everything passes.
ALL = AutomaticSettings(
    points_per_side=2,
    crop_layers=0,
    pred_iou_thresh=0.0,
    stability_score_thresh=0.0,
    min_region=0,
    most_of_image=1.0,
    confident_iou=0.0,
    confident_stability=0.0,
)


@pytest.fixture(scope="session")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file of five drawn images. Not to be changed."""
    folder = tmp_path_factory.mktemp("drawn")
    return write(folder, draw(folder, images=5))


@pytest.fixture(scope="session")
def truths(annotations: Path) -> Truths:
    return read_truths(str(annotations), Notes())


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of random weights, with which a step takes milliseconds."""
    path = tmp_path_factory.mktemp("base") / "small.safetensors"
    torch.manual_seed(1)
    segany.save(segany.SegAny(SMALL), path)
    return path


@pytest.fixture
def engine(tmp_path: Path, annotations: Path, base: Path) -> Engine:
    """Begun, with three rounds."""
    plan = Plan(
        source=str(annotations.parent),
        base=str(base),
        rounds=parse_rounds("assisted:2,semi:2,auto"),
        automatic=ALL,
        training=RoundTraining(steps=2, rate=1e-3, precision="float32"),
    )
    return start(tmp_path / "engine", plan)


def accept_truths(engine: Engine, truths: Truths) -> int:
    """Add the true masks to all images of the current round, as a person who draws exactly; returns how many."""
    reviews = [
        Review(
            file=record.image.file,
            action="add",
            id=f"{row}",
            phrase="thing",
            mask=rle,
            config=record.config,
            seconds=10.0,
            clicks=2,
        )
        for record in read_records(engine.round_folder())
        for row, rle in enumerate(truths[record.image.file])
    ]
    append_reviews(engine.round_folder(), *reviews)
    return len(reviews)


def state(engine: Engine) -> dict:
    """What the folder says."""
    return json.loads((engine.folder / "engine.json").read_text())
