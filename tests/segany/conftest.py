import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling import Sam

from segany import SegAny
from tests.segany import reference


@pytest.fixture(scope="session")
def sam() -> Sam:
    """The public implementation with small sizes and random weights. Not to be changed by tests."""
    torch.manual_seed(0)
    return reference.perturb(reference.meta_sam(reference.SMALL))


@pytest.fixture(scope="session")
def model(sam: Sam) -> SegAny:
    """Our model with the weights of `sam`. Not to be changed by tests."""
    return reference.segany_like(sam, reference.SMALL)


@pytest.fixture(scope="session")
def text_model() -> SegAny:
    """A model that also takes text prompts. Not to be changed by tests."""
    torch.manual_seed(0)
    return reference.perturb(SegAny(reference.SMALL_TEXT))


@pytest.fixture(scope="session")
def drawing() -> np.ndarray:
    """A (90, 140, 3) image of smooth shapes over a gradient."""
    y, x = np.mgrid[:90, :140].astype(np.float32)
    red = 255 * x / 140
    green = np.where((x - 50) ** 2 + (y - 40) ** 2 < 600, 220, 40)
    blue = np.where((x > 80) & (x < 120) & (y > 20) & (y < 70), 200, 255 * y / 90)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session", params=["drawing", "photograph"])
def image(request: pytest.FixtureRequest, drawing: np.ndarray) -> np.ndarray:
    """An image that is not square, as an RGB array."""
    if request.param == "drawing":
        return drawing
    from tests.data import photo

    return np.asarray(Image.open(photo("dog.jpg")).convert("RGB"))
