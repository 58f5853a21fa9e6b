"""A drawn data set, and a small segmenter of random weights, once for all tests of training."""

from pathlib import Path

import pytest
import torch

import segany
from grounded.labelling.formats.annotations import Notes
from grounded.training.check import read_training_data
from grounded.training.data import TrainingData
from grounded.training.processes import Processes
from tests.grounded.training.drawn import SMALL, draw, write


@pytest.fixture(scope="session")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file of three drawn images. Not to be changed."""
    folder = tmp_path_factory.mktemp("drawn")
    return write(folder, draw(folder))


@pytest.fixture(scope="session")
def data(annotations: Path) -> TrainingData:
    """What is read from it."""
    return read_training_data(annotations, Notes(), needed="mask")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter without a text prompt."""
    path = tmp_path_factory.mktemp("base") / "small.safetensors"
    torch.manual_seed(1)
    segany.save(segany.SegAny(SMALL), path)
    return path


@pytest.fixture
def alone() -> Processes:
    return Processes(torch.device("cpu"))
