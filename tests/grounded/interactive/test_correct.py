"""What a user shows on the example, by clicks and boxes, as the bundled models answer it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.data.protocols import MaskPromptable
from grounded.errors import ConfigError, PromptError
from grounded.interactive.correct import candidates, correct, predict_instance
from grounded.pipeline import Pipeline
from grounded.stages.cache import StageCache
from segany import MaskPrediction, Predictor, Prompts
from segany.utils.rle import encode_rle, rle_boxes
from tests.data import PICNIC, disk, unchecked
from tests.grounded.conftest import random_image
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
        np.testing.assert_array_equal(found.boxes, rle_boxes(found.rles))
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
            pytest.param("dog", {"points": [[641, 10]]}, "must lie in the image of 640 x 480", id="outside"),
            pytest.param("dog", {"points": [[10, -1]]}, "must lie in the image", id="above"),
            pytest.param("dog", {"points": [[float("nan"), 1]]}, "finite", id="nan"),
            pytest.param("dog", {"points": [CENTRE], "point_labels": [1, 1]}, "one per point", id="too many labels"),
            pytest.param("dog", {"point_labels": [1]}, "point_labels need points", id="labels alone"),
            pytest.param("dog", {"box": [1, 2, 3]}, r"box must be \(4,\)", id="shape of the box"),
            pytest.param("dog", {"box": [9, 2, 3, 4]}, "x0 < x1", id="box from the right"),
            pytest.param("dog", {"box": [1, 2, 700, 4]}, "box must lie in the image", id="box outside"),
            pytest.param(" . ", {"points": [CENTRE]}, "holds no phrase", id="no phrase"),
        ],
    )
    def test_wrong(self, bundled: Pipeline, phrase: str, shown: dict[str, Any], message: str):
        with pytest.raises(PromptError, match=message):
            bundled.candidates(PICNIC, phrase, **shown)

    def test_an_embedding_of_another_image(self, bundled: Pipeline):
        with pytest.raises(PromptError, match="the embedding must be of an image of"):
            bundled.candidates(PICNIC, "dog", [CENTRE], embedding=bundled.encode(random_image()))

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
    """Beyond what tests of `Pipeline.refine` in test_pipeline_stages.py cover."""

    @pytest.mark.parametrize("source", ["detector", "text", "automatic", "point", "box"])
    def test_the_box_is_the_detectors_or_tight(self, bundled: Pipeline, dog: Instances, source: str):
        before = replace(dog, sources=np.array([source]))
        after = bundled.refine(PICNIC, before, 0, [[400, 330]], [0])
        assert after.rles != before.rles
        expected = before.boxes if source == "detector" else rle_boxes(after.rles)
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


class TestOnASegmenterAlone:
    """No pipeline, and so no detector: what the review page has."""

    def test_the_same_as_by_the_pipeline(self, bundled: Pipeline, dog: Instances):
        without = replace(dog, clip_scores=np.full(1, np.nan, np.float32))
        alone = correct(bundled.segmenter, PICNIC, without, 0, [[400, 330]], [0], zoom=bundled.config.refinement.zoom)
        assert alone.to_dict() == bundled.refine(PICNIC, without, 0, [[400, 330]], [0]).to_dict()
        expected = bundled.candidates(PICNIC, "hound", [CENTRE])
        assert candidates(bundled.segmenter, PICNIC, "hound", [CENTRE]).to_dict() == expected.to_dict()

    def test_a_cache_holds_the_embedding(self, bundled: Pipeline, dog: Instances):
        cache = StageCache()
        with counted(bundled) as calls:
            candidates(bundled.segmenter, PICNIC, "hound", [CENTRE], cache=cache)
            for point in ([400, 330], [410, 330]):
                correct(bundled.segmenter, PICNIC, dog, 0, [point], [0], cache=cache)
        assert calls["encode"] == 1


SIZE = (480, 640)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def tight_box(mask: np.ndarray) -> list[float]:
    x, y = np.nonzero(mask.any(0))[0], np.nonzero(mask.any(1))[0]
    return [float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)]


def rle_of(mask: np.ndarray):
    return encode_rle(mask[None])[0]


@pytest.fixture(scope="module")
def thing(truth) -> np.ndarray:
    """The dog of the example."""
    return truth[0]


@pytest.fixture(scope="module")
def middle(thing) -> tuple[float, float]:
    y, x = np.nonzero(thing)
    return float(np.median(x)), float(np.median(y))


@pytest.fixture(scope="module")
def ask(predictor, embedding):
    """`predict_instance` about the example: the first mask."""

    def answer(**said) -> np.ndarray:
        return predict_instance(predictor, embedding, **said).masks[0, 0].numpy()

    return answer


def test_the_predictor_takes_mask_prompts(predictor):
    assert isinstance(predictor, MaskPromptable)


def test_what_is_said_decides_how_many_masks_come(predictor, embedding, thing, middle):
    box, stroke = tight_box(thing), disk(*SIZE, *middle, 10)
    text = torch.ones(1, predictor.model.config.text_dim)
    cases = [
        ({"points": [middle], "labels": [1]}, 3),
        ({"points": [middle, (5, 5)], "labels": [1, 0]}, 1),
        ({"points": [middle], "labels": [1], "box": box}, 1),
        ({"points": [middle], "labels": [1], "text": text}, 1),
        ({"points": [middle], "labels": [1], "rle": rle_of(thing)}, 1),
        ({"box": box}, 1),
        ({"text": text}, 1),
        ({"rle": rle_of(thing)}, 1),
        ({"brush": stroke}, 1),
        ({"brush": stroke, "eraser": disk(*SIZE, 5, 5, 4)}, 1),
        ({"box": box, "brush": np.zeros(SIZE, bool)}, 1),
    ]
    for said, outputs in cases:
        prediction = predict_instance(predictor, embedding, **said)
        assert prediction.predicted_iou.shape == (1, outputs), said.keys()
        assert torch.isfinite(prediction.low_res_logits).all()


def test_a_box_or_a_click_alone_is_a_plain_prompt(predictor, embedding, thing, middle):
    box = predictor.predict(embedding, Prompts(boxes=[tight_box(thing)]), multimask_output=False)
    click = predictor.predict(embedding, Prompts(points=[[middle]], point_labels=[[1]]))
    nothing = np.zeros(SIZE, bool)
    for said, expected in (({"box": tight_box(thing)}, box), ({"points": [middle], "labels": [1]}, click)):
        for strokes in ({}, {"brush": nothing, "eraser": torch.from_numpy(nothing)}):
            answer = predict_instance(predictor, embedding, **said, **strokes)
            assert torch.equal(answer.low_res_logits, expected.low_res_logits)


@pytest.mark.parametrize("with_box", [True, False], ids=["with box", "without"])
def test_a_good_mask_stays_good(ask, thing, with_box):
    assert iou(ask(rle=rle_of(thing), box=tight_box(thing) if with_box else None), thing) > 0.6


def test_a_background_click_takes_a_leak_back(ask, thing):
    x0, y0, x1, y1 = tight_box(thing)
    x = x0 - 45 if x0 > 90 else x1 + 45
    leak = disk(*SIZE, x, (y0 + y1) / 2, 40) & ~thing
    spoiled = thing | leak
    corrected = ask(rle=rle_of(spoiled), box=(x0, y0, x1, y1), points=[(x, (y0 + y1) / 2)], labels=[0])
    assert (corrected & leak).sum() < 0.5 * leak.sum()
    assert iou(corrected, thing) > iou(spoiled, thing)


def test_a_foreground_click_beyond_the_box_enlarges_it(ask, thing):
    x0, y0, x1, y1 = tight_box(thing)
    cut = (x0 + x1) / 2
    beyond = thing & (np.arange(SIZE[1]) > cut)
    y, x = (float(np.median(side)) for side in np.nonzero(beyond))
    assert beyond[int(y), int(x)]
    half = ask(box=(x0, y0, cut, y1))
    whole = ask(rle=rle_of(half), box=(x0, y0, cut, y1), points=[(x, y)], labels=[1])
    assert (whole & beyond).sum() > (half & beyond).sum()


class TestStrokes:
    def test_what_is_erased_is_gone(self, ask, thing, middle):
        before = ask(box=tight_box(thing))
        stroke = disk(*SIZE, *middle, 25)
        after = ask(rle=rle_of(before), box=tight_box(thing), eraser=stroke)
        assert (before & stroke).sum() > 0.5 * stroke.sum()
        assert (after & stroke).sum() < 0.1 * stroke.sum()
        assert after.sum() < before.sum()

    def test_what_is_brushed_on_is_there(self, ask, thing, middle):
        x0, y0, x1, y1 = tight_box(thing)
        stroke = disk(*SIZE, x0 - 30 if x0 > 60 else x1 + 30, (y0 + y1) / 2, 25) & ~thing
        before = ask(box=(x0, y0, x1, y1))
        after = ask(rle=rle_of(before), box=(x0, y0, x1, y1), brush=stroke)
        assert (after & stroke).sum() > 0.9 * stroke.sum()
        assert (after & stroke).sum() > (before & stroke).sum()

    def test_a_brush_alone_starts_a_mask(self, ask, middle):
        stroke = disk(*SIZE, *middle, 20)
        assert (ask(brush=stroke) & stroke).sum() > 0.9 * stroke.sum()

    def test_the_eraser_counts_where_both_are_painted(self, ask, thing, middle):
        stroke = disk(*SIZE, *middle, 25)
        after = ask(rle=rle_of(thing), brush=stroke, eraser=stroke)
        assert (after & stroke).sum() < 0.1 * stroke.sum()

    def test_each_region_of_a_stroke_counts(self, ask, thing, middle):
        strokes = [disk(*SIZE, middle[0] + step, middle[1], 12) for step in (-25, 25)]
        after = ask(rle=rle_of(thing), box=tight_box(thing), eraser=strokes[0] | strokes[1])
        for stroke in strokes:
            assert (after & stroke).sum() < 0.15 * stroke.sum()


STROKE, NAN = np.ones(SIZE, bool), float("nan")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "must be given, got nothing"),
        ({"brush": ~STROKE, "rle": rle_of(~STROKE)}, "must be given, got nothing"),
        ({"points": [(5, 5)], "labels": [0]}, "must be given, got background alone"),
        ({"eraser": STROKE}, "must be given, got background alone"),
        ({"points": [(5, 500)], "labels": [1]}, r"points must lie in the image of 640 x 480 pixels, got \[5.0, 500"),
        ({"points": [(5, NAN)], "labels": [1]}, "points must be finite"),
        ({"points": [(5, 5)], "labels": [3]}, "labels must be 1"),
        ({"points": [(5, 5)]}, "labels must be one per point"),
        ({"box": [0, 0, 700, 40]}, r"box must lie in the image of 640 x 480 pixels, got \[0.0, 0.0, 700"),
        ({"box": [-5, 0, 70, 40]}, "box must lie in the image"),
        ({"box": [9, 0, 9, 40]}, "box must be xyxy with x0 < x1"),
        ({"box": [0, 0, NAN, 40]}, "box must be finite"),
        ({"box": [[0, 0, 5, 40]]}, r"box must be \(4,\), xyxy, got \(1, 4\)"),
        ({"box": [0, 0, 5, 5], "brush": STROKE[:9]}, r"brush must be bool \(480, 640\), got bool \(9, 640\)"),
        ({"box": [0, 0, 5, 5], "eraser": STROKE.astype(np.uint8)}, r"eraser must be bool \(480, 640\), got uint8"),
        ({"rle": rle_of(STROKE[:9])}, r"run-length encoding of size \[480, 640\]: .* got \[9, 640\]"),
        ({"rle": {"size": [480, 640]}}, "run-length encoding of size"),
    ],
)
def test_what_makes_no_sense_is_refused(predictor, embedding, said, message):
    with pytest.raises(PromptError, match=message):
        unchecked(predict_instance)(predictor, embedding, **said)
