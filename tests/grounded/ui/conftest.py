import pytest

from grounded.ui.session import Session
from grounded.ui.studio import Studio
from tests.data import PICNIC


@pytest.fixture(scope="session")
def studio() -> Studio:
    """The bundled models, with all that the app can switch on."""
    return Studio.from_config("tiny")


@pytest.fixture(scope="session")
def found(studio: Studio) -> Session:
    """The example with a dog and a pizza."""
    return studio.segment(studio.open(PICNIC), "dog. pizza")


@pytest.fixture
def selected(studio: Studio, found: Session) -> Session:
    """The same with the dog selected, and nothing else in common with other tests but what is kept."""
    return studio.press(found, "select", 470.0, 270.0)
