import pytest

from grounded.ui.studio import Studio


@pytest.fixture(scope="session")
def studio() -> Studio:
    """The bundled models, with all that the app can switch on."""
    return Studio.from_config("tiny")
