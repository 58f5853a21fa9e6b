"""Masks of everything on the example, named by the bundled CLIP."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ConfigError, PromptError
from grounded.pipeline import Pipeline
from grounded.utils.timing import Stopwatch
from segany import MaskPrediction, Prompts
from tests.data import PICNIC, picnic_truth
from tests.grounded.conftest import random_image
from tests.grounded.counting import counted

# The bundled segmenter thinks little of its masks.
OPTIONS: dict[str, Any] = {"points_per_side": 6, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


@pytest.fixture(scope="module")
def unnamed(bundled: Pipeline) -> Instances:
    return bundled.everything(PICNIC, **OPTIONS)


@pytest.fixture(scope="module")
def named(bundled: Pipeline) -> Instances:
    return bundled.everything(PICNIC, "a dog. balloon", **OPTIONS)


def test_without_words_nothing_is_named(unnamed: Instances):
    assert len(unnamed) > 5
    assert unnamed.phrases == ("unnamed",)
    assert set(unnamed.labels.tolist()) == {"unnamed"}
    assert set(unnamed.sources.tolist()) == {"automatic"}
    assert np.isnan(unnamed.clip_scores).all()
    np.testing.assert_array_equal(unnamed.scores, unnamed.predicted_iou)
    assert (np.diff(unnamed.scores) <= 0).all()


@pytest.mark.parametrize(("phrase", "known_as"), [("a dog", "dog"), ("balloon", "balloon")])
def test_what_clip_recognises_is_named(named: Instances, phrase: str, known_as: str):
    assert named.phrases == ("a dog", "balloon", "unnamed")
    found = named[named.labels == phrase]
    (truth,) = picnic_truth()[known_as]
    assert max((mask & truth).sum() / (mask | truth).sum() for mask in found.masks) > 0.5
    np.testing.assert_allclose(found.scores**2, found.clip_scores * found.predicted_iou, rtol=1e-5)


def test_the_masks_are_those_without_words(named: Instances, unnamed: Instances):
    assert sorted(rle["counts"] for rle in named.rles) == sorted(rle["counts"] for rle in unnamed.rles)
    recognised = named.labels != "unnamed"
    assert 0 < recognised.sum() < len(named)
    assert (named.clip_scores[recognised] >= 0.3).all()
    assert np.isnan(named.clip_scores[~recognised]).all()
    assert (np.diff(named.scores) <= 0).all()


@pytest.mark.parametrize("words", ["a dog. balloon", ["balloon", "a dog"]], ids=["text", "sequence"])
def test_names_stay_below_their_threshold(bundled: Pipeline, unnamed: Instances, words: Any):
    found = bundled.everything(PICNIC, words, naming_threshold=1.0, **OPTIONS)
    assert set(found.labels.tolist()) == {"unnamed"}
    assert [rle["counts"] for rle in found.rles] == [rle["counts"] for rle in unnamed.rles]


def test_every_mask_has_a_name_at_threshold_zero(bundled: Pipeline):
    found = bundled.everything(PICNIC, "a dog. balloon", naming_threshold=0.0, **OPTIONS)
    assert set(found.labels.tolist()) == {"a dog", "balloon"}


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        pytest.param("unnamed. pizza", ("pizza", "unnamed"), id="among others"),
        pytest.param("Unnamed", ("unnamed",), id="alone"),
    ],
)
def test_unnamed_is_no_name(bundled: Pipeline, words: str, phrases: tuple[str, ...]):
    assert bundled.everything(PICNIC, words, naming_threshold=1.0, **OPTIONS).phrases == phrases


@pytest.mark.parametrize("words", [(), "a dog"], ids=["unnamed", "named"])
def test_nothing_there(bundled: Pipeline, words: Any):
    blank = Image.new("RGB", (50, 40), "white")
    found = bundled.everything(blank, words, **{**OPTIONS, "pred_iou_thresh": 1.0})
    assert len(found) == 0
    assert found.image_size == (40, 50)
    assert found.phrases == (*([words] if words else []), "unnamed")


def test_a_given_embedding_saves_the_encoder(bundled: Pipeline, unnamed: Instances):
    embedding, watch = bundled.encode(PICNIC), Stopwatch()
    with counted(bundled) as calls:
        found = bundled.everything(PICNIC, stopwatch=watch, embedding=embedding, **OPTIONS)
    assert found.to_dict() == unnamed.to_dict()
    assert set(calls) == {"decode"}
    assert list(watch.seconds) == ["automatic_masks"]


def test_the_time_of_each_stage(bundled: Pipeline):
    watch = Stopwatch()
    bundled.everything(PICNIC, "pizza", watch, **OPTIONS)
    assert list(watch.seconds) == ["encode", "automatic_masks", "score"]


def test_a_segmenter_without_text_prompt_does(random_pipelines: dict[str, Pipeline]):
    found = random_pipelines["box"].everything(random_image(), **{**OPTIONS, "stability_score_thresh": 0.0})
    assert set(found.labels.tolist()) <= {"unnamed"}


class OtherSegmenter:
    """Another package's segmenter: it answers prompts, and that is all."""

    def encode(self, image: Image.Image) -> Any:
        raise NotImplementedError

    def predict(self, embedding: Any, prompts: Prompts, multimask_output: bool = True) -> MaskPrediction:
        raise NotImplementedError


def test_another_segmenter(random_pipelines: dict[str, Pipeline]):
    pipeline = replace(random_pipelines["box"], segmenter=OtherSegmenter())
    with pytest.raises(ConfigError, match=r"automatic masks need a segany\.Predictor, got OtherSegmenter"):
        pipeline.everything(random_image())


def test_names_need_a_scorer(random_pipelines: dict[str, Pipeline]):
    with pytest.raises(ConfigError, match="needs a region scorer, got none"):
        random_pipelines["box"].everything(random_image(), "a dog")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"words": " . "}, PromptError, "holds no phrase", id="no word"),
        pytest.param({"points_per_batch": 0}, ValueError, "points_per_batch must be at least 1", id="option"),
        pytest.param({"naming_threshold": 1.5}, ValueError, r"naming_threshold must lie in \[0, 1\]", id="threshold"),
        pytest.param({"naming_threshold": float("nan")}, ValueError, "naming_threshold must lie in", id="nan"),
    ],
)
def test_wrong(bundled: Pipeline, arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        bundled.everything(PICNIC, **arguments)


def test_an_embedding_of_another_image(bundled: Pipeline):
    with pytest.raises(PromptError, match="the embedding must be of an image of"):
        bundled.everything(PICNIC, embedding=bundled.encode(random_image()))
