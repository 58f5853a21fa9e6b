from pathlib import Path

import pytest

from tests.grounded import builders

FAMILIES = ("grounding-dino", "mm-grounding-dino")


@pytest.fixture(scope="session", params=FAMILIES)
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector folder, once for each family."""
    return builders.save_detector(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector folder of one family. Not to be changed: copy it first."""
    return builders.save_detector(tmp_path_factory.mktemp("detector"))
