"""What a user shows on the example, by clicks and boxes, as the bundled models answer it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.errors import ConfigError, PromptError
from grounded.pipeline import Pipeline
from grounded.stages.answers import tight_boxes
from segany import MaskPrediction, Predictor, Prompts
from tests.data import PICNIC
from tests.grounded.conftest import picture
from tests.grounded.counting import counted

CENTRE, BESIDE = [470.0, 270.0], [20.0, 20.0]  # of the dog


@pytest.fixture(scope="module")
def dog(bundled: Pipeline) -> Instances:
    """The dog as the pipeline finds it by its name."""
    found = bundled.segment(PICNIC, "dog", box_threshold=0.3)
    assert len(found) == 1
    return found


def ious(found: Instances, one: Instances) -> np.ndarray:
    return coco_mask.iou(list(found.rles), list(one.rles), [False])[:, 0]


class TestCandidates:
    def test_one_click_may_mean_three_things(self, bundled: Pipeline, dog: Instances):
        found = bundled.candidates(PICNIC, "hound", [CENTRE])
        assert len(found) == 3
        assert len({rle["counts"] for rle in found.rles}) == 3
        assert ious(found, dog).max() > 0.6
        assert found.phrases == ("hound",)
        assert found.image_size == (480, 640)
        assert found.sources.tolist() == ["point"] * 3
        assert (np.diff(found.predicted_iou) <= 0).all()
        np.testing.assert_array_equal(found.scores, found.predicted_iou)
        np.testing.assert_array_equal(found.boxes, tight_boxes(found.rles))
        for scores in (found.detector_scores, found.clip_scores, found.phrase_scores):
            assert np.isnan(scores).all()

    @pytest.mark.parametrize(
        "shown",
        [
            pytest.param({}, id="alone"),
            pytest.param({"points": [CENTRE]}, id="with a click"),
            pytest.param({"points": [CENTRE, BESIDE], "point_labels": [1, 0]}, id="with two clicks"),
        ],
    )
    def test_a_box_means_one(self, bundled: Pipeline, dog: Instances, shown: dict[str, Any]):
        found = bundled.candidates(PICNIC, "hound", box=dog.boxes[0], **shown)
        assert found.sources.tolist() == ["box"]
        assert ious(found, dog)[0] > 0.6

    def test_several_clicks_mean_one(self, bundled: Pipeline, dog: Instances):
        found = bundled.candidates(PICNIC, "hound", [CENTRE, BESIDE], [1, 0])
        assert found.sources.tolist() == ["point"]
        assert ious(found, dog)[0] > 0.6

    @pytest.mark.parametrize("shown", [{"points": [CENTRE]}, {"box": [380, 190, 575, 350]}], ids=["click", "box"])
    def test_a_given_embedding_gives_the_same(self, bundled: Pipeline, shown: dict[str, Any]):
        expected = bundled.candidates(PICNIC, "hound", **shown)
        embedding = bundled.encode(PICNIC)
        with counted(bundled) as calls:
            found = bundled.candidates(PICNIC, "hound", **shown, embedding=embedding)
        assert set(calls) == {"decode"}
        assert found.to_dict() == expected.to_dict()

    def test_arrays_do_as_well(self, bundled: Pipeline):
        image = np.asarray(Image.open(PICNIC).convert("RGB"))
        found = bundled.candidates(image, "hound", np.array([CENTRE]), np.array([1]))
        assert found.to_dict() == bundled.candidates(PICNIC, "hound", [CENTRE], [1]).to_dict()

    def test_the_phrase_is_tidied_and_not_split(self, bundled: Pipeline):
        assert bundled.candidates(PICNIC, " a  dog. brown ", [CENTRE]).phrases == ("a dog. brown",)

    @pytest.mark.parametrize(
        ("phrase", "shown", "message"),
        [
            pytest.param("dog", {}, "must be given, got nothing", id="nothing"),
            pytest.param("dog", {"points": [CENTRE], "point_labels": [0]}, "got background alone", id="background"),
            pytest.param("dog", {"points": [[641, 10]]}, "must lie in the picture of 640 x 480", id="outside"),
            pytest.param("dog", {"points": [[10, -1]]}, "must lie in the picture", id="above"),
            pytest.param("dog", {"points": [[float("nan"), 1]]}, "finite", id="nan"),
            pytest.param("dog", {"points": [CENTRE], "point_labels": [1, 1]}, "one per point", id="too many labels"),
            pytest.param("dog", {"point_labels": [1]}, "point_labels need points", id="labels alone"),
            pytest.param("dog", {"box": [1, 2, 3]}, r"box must be \(4,\)", id="shape of the box"),
            pytest.param("dog", {"box": [9, 2, 3, 4]}, "x0 < x1", id="box from the right"),
            pytest.param("dog", {"box": [1, 2, 700, 4]}, "box must lie in the picture", id="box outside"),
            pytest.param(" . ", {"points": [CENTRE]}, "holds no phrase", id="no phrase"),
        ],
    )
    def test_wrong(self, bundled: Pipeline, phrase: str, shown: dict[str, Any], message: str):
        with pytest.raises(PromptError, match=message):
            bundled.candidates(PICNIC, phrase, **shown)

    def test_an_embedding_of_another_image(self, bundled: Pipeline):
        with pytest.raises(PromptError, match="the embedding must be of an image of"):
            bundled.candidates(PICNIC, "dog", [CENTRE], embedding=bundled.encode(picture()))

    @pytest.mark.parametrize("empty", [[0], [0, 2], [0, 1, 2]], ids=str)
    def test_masks_that_are_empty_are_left_out(self, bundled: Pipeline, empty: list[int]):
        everything = bundled.candidates(PICNIC, "hound", [CENTRE])
        found = replace(bundled, segmenter=Emptied(bundled.segmenter, empty)).candidates(PICNIC, "hound", [CENTRE])
        assert len(found) == 3 - len(empty)
        assert {rle["counts"] for rle in found.rles} <= {rle["counts"] for rle in everything.rles}


class Emptied(Predictor):
    """A predictor that finds nothing in some of its masks of an ambiguous prompt."""

    def __init__(self, predictor: Predictor, empty: list[int]) -> None:
        super().__init__(predictor.model)
        self.empty = empty

    def predict(self, *arguments: Any, **options: Any) -> MaskPrediction:
        prediction = super().predict(*arguments, **options)
        logits = prediction.low_res_logits.clone()
        logits[:, self.empty] = -1.0
        return replace(prediction, low_res_logits=logits)


class PromptsAlone:
    """Another package's segmenter, which takes no masks as prompts."""

    def encode(self, image: Image.Image) -> Any:
        raise NotImplementedError

    def predict(self, embedding: Any, prompts: Prompts, multimask_output: bool = True) -> MaskPrediction:
        raise NotImplementedError


@pytest.mark.parametrize("ask", ["candidates", "refine"])
def test_a_segmenter_without_mask_prompts(bundled: Pipeline, dog: Instances, ask: str):
    pipeline = replace(bundled.with_config(mode="box"), segmenter=PromptsAlone())
    arguments = {"candidates": (PICNIC, "dog", [CENTRE]), "refine": (PICNIC, dog, 0, [CENTRE])}[ask]
    with pytest.raises(ConfigError, match="PromptsAlone takes no mask prompts, which corrections need"):
        getattr(pipeline, ask)(*arguments)


class TestCorrect:
    """Beyond what tests of `Pipeline.refine` in test_question.py cover."""

    @pytest.mark.parametrize("source", ["detector", "text", "automatic", "point", "box"])
    def test_the_box_is_the_detectors_or_tight(self, bundled: Pipeline, dog: Instances, source: str):
        before = replace(dog, sources=np.array([source]))
        after = bundled.refine(PICNIC, before, 0, [[400, 330]], [0])
        assert after.rles != before.rles
        expected = before.boxes if source == "detector" else tight_boxes(after.rles)
        np.testing.assert_array_equal(after.boxes, expected)

    def test_a_clip_score_is_renewed(self, bundled: Pipeline, dog: Instances):
        after = bundled.refine(PICNIC, dog, 0, [[400, 330]], [0])
        expected = bundled.scorer.score(Image.open(PICNIC).convert("RGB"), after.rles, ["dog"])[:, 0]
        np.testing.assert_array_equal(after.clip_scores, expected)
        assert after.clip_scores[0] != dog.clip_scores[0]
        np.testing.assert_allclose(after.scores**2, after.clip_scores * after.detector_scores, rtol=1e-5)

    def test_none_is_made_up(self, bundled: Pipeline):
        before = bundled.candidates(PICNIC, "unnamed", [CENTRE])[0]
        with counted(bundled) as calls:
            after = bundled.refine(PICNIC, before, 0, [CENTRE, BESIDE], [1, 0])
        assert np.isnan(after.clip_scores).all()
        np.testing.assert_array_equal(after.scores, before.scores)
        assert "score" not in calls

    @pytest.mark.parametrize("source", ["detector", "point"])
    def test_what_was_erased_can_be_had_back(self, bundled: Pipeline, dog: Instances, source: str):
        before = replace(dog, sources=np.array([source]))
        erased = bundled.refine(PICNIC, before, 0, eraser=np.ones((480, 640), bool))
        assert coco_mask.area(erased.rles[0]) == 0
        back = bundled.refine(PICNIC, erased, 0, [CENTRE])
        assert ious(back, dog)[0] > 0.6

    def test_an_empty_mask_with_an_empty_box(self, bundled: Pipeline, dog: Instances):
        nothing = bundled.refine(PICNIC, dog, 0, eraser=np.ones((480, 640), bool))
        nothing = replace(nothing, boxes=np.zeros((1, 4), np.float32))
        assert coco_mask.area(bundled.refine(PICNIC, nothing, 0, [CENTRE]).rles[0]) > 0
        with pytest.raises(PromptError, match="got background alone"):
            bundled.refine(PICNIC, nothing, 0, [CENTRE], [0])
