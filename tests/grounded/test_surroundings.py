"""The pipeline computes in its own precision, whatever is set for PyTorch around a call."""

import pytest

from grounded.data.instances import Instances
from grounded.pipeline import Pipeline
from tests.data import PICNIC
from tests.surroundings import SURROUNDINGS

TEXT = "a dog. pizza. a bus"


@pytest.fixture(scope="module")
def thorough(bundled: Pipeline) -> Pipeline:
    return bundled.with_config(
        mode="box+text", filtering={"enabled": True}, fallback={"source": "automatic", "points_per_side": 2}, zoom=3.0
    )


@pytest.fixture(scope="module")
def expected(thorough: Pipeline) -> Instances:
    return thorough.segment(PICNIC, TEXT)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_segment(thorough: Pipeline, expected: Instances, surroundings):
    with surroundings():
        found = thorough.segment(PICNIC, TEXT)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert found.rles == expected.rles


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_load(thorough: Pipeline, expected: Instances, surroundings):
    with surroundings():
        pipeline = Pipeline.from_config(thorough.config)
    assert pipeline.segment(PICNIC, TEXT).rles == expected.rles
