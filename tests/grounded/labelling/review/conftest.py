from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from grounded import config
from grounded.labelling.review import server
from grounded.labelling.review.clicks import ClickSegmenter
from grounded.labelling.review.session import ReviewSession
from grounded.labelling.sources import open_source
from tests.grounded.labelling.review.runs import example_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on the three examples and an image without instances."""
    return example_run(tmp_path)


@pytest.fixture(scope="session")
def segmenter() -> ClickSegmenter:
    return ClickSegmenter(config.override(config.load("tiny"), device="cpu"))


@pytest.fixture
def session(run: Path, segmenter: ClickSegmenter) -> ReviewSession:
    session = ReviewSession(run, open_source(run.parent / "images"), segmenter)
    session.index.wait()
    return session


@pytest.fixture
def client(session: ReviewSession) -> Iterator[TestClient]:
    """A browser that has the page, and its token."""
    with TestClient(server.create_app(session), base_url="http://127.0.0.1:7870") as client:
        page = client.get("/").text
        client.headers["X-Grounded-Token"] = page.split('name="token" content="')[1].split('"')[0]
        yield client
