import numpy as np
import pytest
import torch

import segany
from tests.data import disk


@pytest.fixture(scope="session")
def predictor() -> segany.Predictor:
    return segany.Predictor(segany.load("tiny"))


@pytest.fixture(scope="session")
def disks() -> tuple[np.ndarray, torch.Tensor]:
    """An image of two disks, red and blue on grey, and their masks."""
    truths = np.stack([disk(80, 100, 30, 40, 18), disk(80, 100, 75, 30, 12)])
    image = np.full((80, 100, 3), 230, np.uint8)
    image[truths[0]], image[truths[1]] = (200, 30, 30), (30, 60, 200)
    return image, torch.from_numpy(truths)


@pytest.fixture(scope="session")
def embedding(predictor: segany.Predictor, disks: tuple) -> segany.ImageEmbedding:
    return predictor.encode(disks[0])
