import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from grounded.config import PipelineConfig, override
from grounded.data.image import SourceImage, open_image
from grounded.errors import ConfigError
from grounded.labelling.task import PipelineTask, PipelineTaskSpec, Task, TaskSpec
from grounded.labelling.tiling.tiles import Tiles
from grounded.labelling.vocabulary import Vocabulary
from grounded.pipeline import Pipeline
from tests.data import PICNIC

WORDS = Vocabulary.from_text("a dog. pizza")


@pytest.fixture(scope="module")
def task(bundled: Pipeline) -> PipelineTask:
    return PipelineTask(bundled, WORDS)


@pytest.fixture(scope="module")
def images() -> list[SourceImage]:
    picnic = Image.open(PICNIC).convert("RGB").resize((320, 240))
    return [open_image(picnic), open_image(picnic.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]


def test_a_batch_is_answered_like_single_images(task: PipelineTask, images: list[SourceImage]):
    together = task(images)
    assert len(together) == 2 and all(len(labelled.instances) for labelled in together)
    for image, labelled in zip(images, together, strict=True):
        alone = task([image])[0].instances
        direct = WORDS.to_classes(task.pipeline.segment(image, WORDS.queries))
        for other in (alone, direct):
            assert other.rles == labelled.instances.rles
            np.testing.assert_allclose(other.scores, labelled.instances.scores, atol=1e-5)


def test_no_image(task: PipelineTask):
    assert task([]) == []


def test_seconds_of_a_batch_are_shared(task: PipelineTask, images: list[SourceImage]):
    first, second = task(images)
    assert first.seconds == second.seconds
    assert {"detect", "encode", "segment", "vocabulary"} <= set(first.seconds)


def test_tiles(task: PipelineTask, images: list[SourceImage]):
    whole = replace(task, tiles=Tiles(1000))
    assert whole(images[:1])[0].instances.rles == task(images[:1])[0].instances.rles
    tiled = replace(task, tiles=Tiles(200))(images[:1])[0].instances
    assert tiled.image_size == (240, 320) and tiled.phrases == WORDS.class_names
    assert set(tiled.labels) == {"a dog", "pizza"}


def test_a_vocabulary_names_the_instances(bundled: Pipeline, images: list[SourceImage]):
    words = Vocabulary.from_dict({"classes": {"food": ["pizza", "a sandwich"], "animal": ["a dog"]}})
    labelled = PipelineTask(bundled, words)(images[:1])[0].instances
    assert labelled.phrases == ("food", "animal")
    assert {"food", "animal"} == set(labelled.labels)


@pytest.fixture
def spec(random_config: PipelineConfig) -> PipelineTaskSpec:
    return PipelineTaskSpec(random_config, WORDS)


def test_a_spec_can_be_sent_to_other_processes(spec: PipelineTaskSpec):
    received = pickle.loads(pickle.dumps(replace(spec, tiles=Tiles(64))))
    assert isinstance(received, TaskSpec)
    task = received.load()
    assert isinstance(task, Task)
    assert task.tiles == Tiles(64) and task.vocabulary == WORDS and task.pipeline.models == spec.config.models


def test_runs_are_told_apart_by_their_settings(spec: PipelineTaskSpec):
    run = spec.describe_run("/data")
    assert (run.source, run.phrases, run.models) == ("/data", ("a dog", "pizza"), spec.config.models)
    assert run.configuration == spec.config.to_dict()
    same = [
        spec.describe_run("/elsewhere"),
        spec.describe_run("/data", phrase_scores=False),
        replace(spec, config=override(spec.config, device="cuda"), threads=2).describe_run("/data"),
        replace(spec, vocabulary=Vocabulary.from_text(["a dog", "pizza"])).describe_run("/data"),
    ]
    assert {other.config for other in same} == {run.config}
    others = [
        replace(spec, vocabulary=Vocabulary.from_text("a dog")),
        replace(spec, vocabulary=Vocabulary.from_text("pizza. a dog")),
        replace(spec, config=override(spec.config, box_threshold=0.7)),
        replace(spec, tiles=Tiles(64)),
        replace(spec, tiles=Tiles(64, 0.5)),
    ]
    assert len({run.config, *(other.describe_run("/data").config for other in others)}) == 6


def test_a_configuration_that_cannot_be_met(spec: PipelineTaskSpec):
    with pytest.raises(ConfigError):
        replace(spec, config=override(spec.config, device="no such device")).load()
