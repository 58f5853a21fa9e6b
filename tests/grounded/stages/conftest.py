import numpy as np
import pytest

import segany
from tests.data import PICNIC, picnic_truth


@pytest.fixture(scope="session")
def predictor() -> segany.Predictor:
    """The bundled weights on the CPU."""
    return segany.Predictor(segany.load("tiny"))


@pytest.fixture(scope="session")
def embedding(predictor: segany.Predictor) -> segany.ImageEmbedding:
    """The example picture, 480 x 640 pixels."""
    return predictor.encode(PICNIC)


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    """The true masks of the example, (n, h, w)."""
    return np.stack([mask for masks in picnic_truth().values() for mask in masks])
