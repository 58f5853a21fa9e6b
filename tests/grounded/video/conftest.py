"""The video pipeline of the bundled models, loaded once."""

import pytest

from grounded.video.pipeline import VideoPipeline


@pytest.fixture(scope="package")
def video() -> VideoPipeline:
    return VideoPipeline.from_config("tiny")
