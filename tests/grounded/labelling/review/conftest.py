from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from grounded import config
from grounded.labelling.review import server
from grounded.labelling.review.clicks import Redrawing
from grounded.labelling.review.session import Desk
from grounded.labelling.sources import open_source
from tests.grounded.labelling.review.runs import example_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on the three examples and a picture without instances."""
    return example_run(tmp_path)


@pytest.fixture(scope="session")
def redrawing() -> Redrawing:
    return Redrawing(config.override(config.load("tiny"), device="cpu"))


@pytest.fixture
def desk(run: Path, redrawing: Redrawing) -> Desk:
    desk = Desk(run, open_source(run.parent / "pictures"), redrawing)
    desk.catalogue.wait()
    return desk


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    """A browser that has the page, and its token."""
    with TestClient(server.build(desk), base_url="http://127.0.0.1:7870") as client:
        page = client.get("/").text
        client.headers["X-Grounded-Token"] = page.split('name="token" content="')[1].split('"')[0]
        yield client
