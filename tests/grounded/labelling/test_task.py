import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from grounded.config import override
from grounded.data.image import SourceImage, open_image
from grounded.errors import ConfigError
from grounded.labelling.task import PipelineStep, Recipe, Step, StepSpec
from grounded.labelling.tiling.tiles import Tiles
from grounded.labelling.vocabulary import Vocabulary
from grounded.pipeline import Pipeline
from grounded.settings import PipelineConfig
from tests.data import PICNIC

WORDS = Vocabulary.from_text("a dog. pizza")


@pytest.fixture(scope="module")
def step(bundled: Pipeline) -> PipelineStep:
    return PipelineStep(bundled, WORDS)


@pytest.fixture(scope="module")
def pictures() -> list[SourceImage]:
    picnic = Image.open(PICNIC).convert("RGB").resize((320, 240))
    return [open_image(picnic), open_image(picnic.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]


def test_a_batch_is_answered_like_single_pictures(step: PipelineStep, pictures: list[SourceImage]):
    together = step(pictures)
    assert len(together) == 2 and all(len(labelled.instances) for labelled in together)
    for picture, labelled in zip(pictures, together, strict=True):
        alone = step([picture])[0].instances
        direct = WORDS.answer(step.pipeline.segment(picture, WORDS.queries))
        for other in (alone, direct):
            assert other.rles == labelled.instances.rles
            np.testing.assert_allclose(other.scores, labelled.instances.scores, atol=1e-5)


def test_no_picture(step: PipelineStep):
    assert step([]) == []


def test_seconds_of_a_batch_are_shared(step: PipelineStep, pictures: list[SourceImage]):
    first, second = step(pictures)
    assert first.seconds == second.seconds
    assert {"detect", "encode", "decode", "vocabulary"} <= set(first.seconds)


def test_tiles(step: PipelineStep, pictures: list[SourceImage]):
    whole = replace(step, tiles=Tiles(1000))
    assert whole(pictures[:1])[0].instances.rles == step(pictures[:1])[0].instances.rles
    tiled = replace(step, tiles=Tiles(200))(pictures[:1])[0].instances
    assert tiled.image_size == (240, 320) and tiled.phrases == WORDS.classes
    assert set(tiled.labels) == {"a dog", "pizza"}


def test_a_vocabulary_names_the_instances(bundled: Pipeline, pictures: list[SourceImage]):
    words = Vocabulary.from_dict({"classes": {"food": ["pizza", "a sandwich"], "animal": ["a dog"]}})
    labelled = PipelineStep(bundled, words)(pictures[:1])[0].instances
    assert labelled.phrases == ("food", "animal")
    assert {"food", "animal"} == set(labelled.labels)


@pytest.fixture
def spec(random_config: PipelineConfig) -> StepSpec:
    return StepSpec(random_config, WORDS)


def test_a_recipe_can_be_sent_to_other_processes(spec: StepSpec):
    received = pickle.loads(pickle.dumps(replace(spec, tiles=Tiles(64))))
    assert isinstance(received, Recipe)
    step = received.load()
    assert isinstance(step, Step)
    assert step.tiles == Tiles(64) and step.vocabulary == WORDS and step.pipeline.models == spec.config.models


def test_what_is_asked_is_told_apart(spec: StepSpec):
    run = spec.run("/data")
    assert (run.source, run.phrases, run.models) == ("/data", ("a dog", "pizza"), spec.config.models)
    assert run.configuration == spec.config.to_dict()
    same = [
        spec.run("/elsewhere"),
        spec.run("/data", phrase_scores=False),
        replace(spec, config=override(spec.config, device="cuda"), threads=2).run("/data"),
        replace(spec, vocabulary=Vocabulary.from_text(["a dog", "pizza"])).run("/data"),
    ]
    assert {other.config for other in same} == {run.config}
    others = [
        replace(spec, vocabulary=Vocabulary.from_text("a dog")),
        replace(spec, vocabulary=Vocabulary.from_text("pizza. a dog")),
        replace(spec, config=override(spec.config, box_threshold=0.7)),
        replace(spec, tiles=Tiles(64)),
        replace(spec, tiles=Tiles(64, 0.5)),
    ]
    assert len({run.config, *(other.run("/data").config for other in others)}) == 6


def test_a_configuration_that_cannot_be_met(spec: StepSpec):
    with pytest.raises(ConfigError):
        replace(spec, config=override(spec.config, device="no such device")).load()
