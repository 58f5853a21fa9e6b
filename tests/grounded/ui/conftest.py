import pytest

from grounded.ui.actions import Actions
from grounded.ui.state import AppState
from tests.data import PICNIC


@pytest.fixture(scope="session")
def actions() -> Actions:
    """The bundled models, with all that the app can switch on."""
    return Actions.from_config("tiny")


@pytest.fixture(scope="session")
def found(actions: Actions) -> AppState:
    """The example with a dog and a pizza."""
    return actions.segment(actions.open(PICNIC), "dog. pizza")


@pytest.fixture
def selected(actions: Actions, found: AppState) -> AppState:
    """The same with the dog selected, and nothing else in common with other tests but the cache."""
    return actions.press(found, "select", 470.0, 270.0)
