"""StageCache answers: a stage runs again only where its input changed, and no answer is another one for it."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.data.instances import Instances
from grounded.pipeline import Pipeline
from grounded.stages.cache import StageCache, frozen
from grounded.utils.timing import Stopwatch
from tests.data import PICNIC
from tests.grounded.conftest import picture
from tests.grounded.counting import counted

DOG, PIZZA = [[470.0, 270.0]], [[200.0, 380.0]]
SETTINGS = ("mode", "filtering", "refine_rounds", "zoom", "min_mask_region_area", "fallback")
LENIENT = {"fallback_threshold": 0.0, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3, "points_per_side": 2}


def ask(
    pipeline: Pipeline, kept: StageCache | None = None, watch: Stopwatch | None = None, **question: Any
) -> Instances:
    """Ask about the example: "dog. pizza" above 0.2, without a closer look, unless the question says otherwise."""
    settings = {"zoom": None} | {name: question.pop(name) for name in SETTINGS if name in question}
    asked = {"image": PICNIC, "text": "dog. pizza", "box_threshold": 0.2, **question}
    return pipeline.with_config(**settings).segment(stopwatch=watch, cache=kept, **asked)


def clip(threshold: float) -> dict[str, Any]:
    return {"filtering": {"enabled": True, "clip_threshold": threshold}}


def fallback(source: str, **changes: Any) -> dict[str, Any]:
    return {"fallback": {"source": source, **LENIENT, **changes}}


OFF = {"filtering": {"enabled": False}}
ABSENT = {"text": "dog. helicopter"}  # there is no helicopter: the fallback answers for it
# The question before, the one after, and what the second one may run of what the first one ran.
CHANGES = [
    pytest.param({}, {}, set(), id="nothing"),
    pytest.param({}, {"text": ["dog", "pizza"]}, set(), id="another form of the text"),
    pytest.param({}, {"text": "dog. red apple"}, {"detect", "decode", "score"}, id="text"),
    pytest.param({}, {"box_threshold": 0.73}, {"decode", "score"}, id="box threshold"),
    pytest.param({}, {"box_threshold": 1.0}, set(), id="box threshold that drops all"),
    pytest.param(clip(0.01), clip(0.99999), set(), id="CLIP threshold"),
    pytest.param(clip(0.01), OFF, set(), id="filtering off"),
    pytest.param(OFF, clip(0.01), {"score"}, id="filtering on"),
    pytest.param({}, {"refine_rounds": 1}, {"decode"}, id="refinement that finds nothing wrong"),
    pytest.param({}, {"zoom": 3.0}, {"encode", "decode", "score"}, id="closer look"),
    pytest.param({}, {"min_mask_region_area": 10**6}, {"decode", "score"}, id="small regions"),
    pytest.param({"zoom": 3.0}, {"zoom": 3.0}, set(), id="closer look, nothing"),
    pytest.param({"zoom": 3.0}, {"zoom": 3.0, "mode": "box"}, {"decode", "score"}, id="closer look, other prompts"),
    pytest.param({}, {"mode": "box"}, {"decode", "score"}, id="boxes only"),
    pytest.param({}, {"mode": "text"}, {"decode", "score"}, id="text only"),
    pytest.param({"mode": "text"}, {}, {"detect", "decode", "score"}, id="from text to boxes"),
    pytest.param({"mode": "text"}, {"mode": "text"}, set(), id="text only, nothing"),
    pytest.param({"mode": "text"}, {"mode": "text", "box_threshold": 0.9}, set(), id="text only, box threshold"),
    pytest.param({"mode": "text"}, {"mode": "text", "text": "pizza"}, {"decode", "score"}, id="text only, text"),
    pytest.param({"mode": "text"}, {"mode": "text", **clip(0.99999)}, set(), id="text only, CLIP threshold"),
    pytest.param({}, {"points": DOG}, {"decode", "score"}, id="click"),
    pytest.param({"points": DOG}, {"points": PIZZA}, {"decode", "score"}, id="another click"),
    pytest.param({"points": DOG}, {"points": DOG, "point_labels": [0]}, {"decode", "score"}, id="kind of click"),
    pytest.param({"points": DOG}, {"points": np.array(DOG), "point_labels": [1]}, set(), id="the same click"),
    pytest.param(ABSENT, {**ABSENT, **fallback("text")}, {"decode", "score"}, id="text fallback on"),
    pytest.param(ABSENT, {**ABSENT, **fallback("automatic")}, {"decode", "score"}, id="automatic fallback on"),
    *(
        pytest.param({**ABSENT, **fallback(source)}, {**ABSENT, **fallback(source, **change)}, ran, id=f"{source}, {i}")
        for source in ("text", "automatic")
        for i, change, ran in (
            ("nothing", {}, set()),
            ("its threshold", {"fallback_threshold": 0.9}, set()),
            ("its most instances", {"max_instances": 1}, set()),
        )
    ),
    pytest.param(
        {**ABSENT, **fallback("automatic")},
        {**ABSENT, **fallback("automatic", points_per_side=3)},
        {"decode", "score"},
        id="grid of the fallback",
    ),
]


@pytest.mark.parametrize(("before", "after", "ran"), CHANGES)
def test_a_change_runs_only_what_depends_on_it(bundled: Pipeline, before: dict, after: dict, ran: set[str]):
    kept, watch = StageCache(), Stopwatch()
    ask(bundled, kept, **before)
    with counted(bundled) as calls:
        found = ask(bundled, kept, watch, **after)
    assert set(calls) == ran
    assert {"detect", "score"} & set(watch.seconds) == {"detect", "score"} & ran
    assert "encode" not in watch.seconds and ("closer" in watch.seconds) >= ("encode" in ran)
    assert bool({"decode", "refine", "automatic"} & set(watch.seconds)) == ("decode" in ran)
    assert found.to_dict() == ask(bundled, **after).to_dict()


def test_the_counters_count(bundled: Pipeline):
    with counted(bundled) as calls:
        ask(bundled, StageCache())
    assert set(calls) == {"detect", "encode", "decode", "score"}
    assert calls["detect"] == calls["encode"] == calls["score"] == 1


@pytest.mark.parametrize("mode", ["box", "box+text"])
def test_back_and_forth(bundled: Pipeline, mode: str):
    kept = StageCache()
    questions: list[dict] = [{}, {"text": "orange"}, {"box_threshold": 0.73}, {"points": DOG}]
    answers = [ask(bundled, kept, mode=mode, **question) for question in questions]
    with counted(bundled) as calls:
        again = [ask(bundled, kept, mode=mode, **question) for question in questions]
    assert not calls
    assert [found.to_dict() for found in again] == [found.to_dict() for found in answers]
    assert len({str(found.to_dict()) for found in answers}) == len(questions)


def test_dense_clip_is_kept(bundled: Pipeline):
    dense = Pipeline.from_config("tiny", load_all=True, text_prompt="dense-clip", device="cpu")
    kept, watch = StageCache(), Stopwatch()
    expected = dense.segment(PICNIC, "dog", cache=kept)
    assert dense.segment(PICNIC, "dog", watch, box_threshold=0.2, cache=kept).to_dict() == expected.to_dict()
    assert set(watch.seconds) == {"open"}
    assert dense.with_config(mode="text").segment(PICNIC, "dog", watch, cache=kept).sources.tolist() == ["text"]
    assert not {"text", "encode", "detect"} & set(watch.seconds)  # the heat of a phrase does not depend on the mode


def test_another_picture_empties_it(bundled: Pipeline):
    kept, image = StageCache(), Image.open(PICNIC).convert("RGB")
    first = ask(bundled, kept, image=image)
    with counted(bundled) as calls:
        ask(bundled, kept, image=np.asarray(image))
        ask(bundled, kept, image=image.copy())
    assert not calls  # the same pixels
    with counted(bundled) as calls:
        turned = ask(bundled, kept, image=image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert calls["encode"] == calls["detect"] == 1
        assert ask(bundled, kept, image=image).to_dict() == first.to_dict()
        assert calls["encode"] == calls["detect"] == 2
    assert turned.to_dict() != first.to_dict()


def test_a_picture_that_was_drawn_on_is_another_one(bundled: Pipeline):
    kept, image = StageCache(), Image.open(PICNIC).convert("RGB")
    assert len(ask(bundled, kept, image=image)) == 2
    image.paste("white", (0, 0, *image.size))
    assert len(ask(bundled, kept, image=image)) == 0


def test_other_models_empty_it(bundled: Pipeline, random_pipelines: dict[str, Pipeline]):
    kept = StageCache()
    ask(bundled, kept)
    other = random_pipelines["box+text"]
    asked = {"filtering": {"enabled": False}, "box_threshold": 0.0}
    assert ask(other, kept, **asked).to_dict() == ask(other, **asked).to_dict()
    assert other.encode(PICNIC, kept).fingerprint == other.segmenter.fingerprint
    assert ask(bundled, kept).to_dict() == ask(bundled).to_dict()


def test_what_is_returned_may_be_changed(bundled: Pipeline):
    kept = StageCache()
    found = ask(bundled, kept, **OFF)
    expected = found.to_dict()
    for name in ("boxes", "scores", "phrase_ids", "predicted_iou", "phrase_scores"):
        getattr(found, name)[:] = 0
    assert ask(bundled, kept, **OFF).to_dict() == expected


def test_few_answers_are_kept_of_each_stage(bundled: Pipeline):
    kept = StageCache(answers_per_stage=1)
    with counted(bundled) as calls:
        for text in ("dog", "pizza", "dog"):
            ask(bundled, kept, text=text)
    assert calls["detect"] == 3
    assert calls["encode"] == 1


class TestKept:
    def ask(self, kept: StageCache, stage: str, given: Any) -> list:
        """Return a new list unless one is kept."""
        return kept.answer(stage, given, lambda: [stage, given])

    def test_an_input_is_answered_once(self):
        kept = StageCache()
        assert self.ask(kept, "a", 1) is self.ask(kept, "a", 1)
        assert self.ask(kept, "a", 2) == ["a", 2]
        assert self.ask(kept, "b", 1) == ["b", 1]

    def test_none_is_an_answer(self):
        kept = StageCache()
        assert kept.answer("a", 1, lambda: None) is None
        assert kept.answer("a", 1, lambda: 1 / 0) is None

    def test_a_failure_is_not_kept(self):
        kept = StageCache()
        with pytest.raises(ZeroDivisionError):
            kept.answer("a", 1, lambda: 1 / 0)
        assert self.ask(kept, "a", 1) == ["a", 1]

    def test_the_latest_are_kept(self):
        kept = StageCache(answers_per_stage=2)
        first, second = self.ask(kept, "a", 1), self.ask(kept, "a", 2)
        assert self.ask(kept, "a", 1) is first  # and is now later than the second
        self.ask(kept, "a", 3)
        assert self.ask(kept, "a", 1) is first
        assert self.ask(kept, "a", 2) is not second

    @pytest.mark.parametrize("most", [1, 4])
    def test_the_others_are_let_go(self, most: int):
        kept = StageCache(answers_per_stage=most)
        answers = [kept.answer("a", i, lambda: torch.zeros(1)) for i in range(most + 3)]
        alive = [weakref.ref(answer) for answer in answers]
        del answers
        gc.collect()
        assert [ref() is not None for ref in alive] == [False] * 3 + [True] * most

    def test_none_at_all_are_too_few(self):
        with pytest.raises(ValueError, match="answers_per_stage must be at least 1, got 0"):
            StageCache(answers_per_stage=0)

    @pytest.mark.parametrize(
        ("other", "models", "is_kept"),
        [
            pytest.param(picture(), ("m",), True, id="the same pixels"),
            pytest.param(picture(seed=1), ("m",), False, id="other pixels"),
            pytest.param(Image.new("RGB", (80, 60)), ("m",), False, id="black"),
            pytest.param(picture(), ("n",), False, id="another model"),
            pytest.param(picture(), (), False, id="fewer models"),
            pytest.param(picture(), ("m", "n"), False, id="more models"),
        ],
    )
    def test_turning_to_a_picture(self, other: Image.Image, models: tuple, is_kept: bool):
        kept = StageCache()
        kept.reset_for(picture(), "m")
        answer = self.ask(kept, "a", 1)
        kept.reset_for(other, *models)
        assert (self.ask(kept, "a", 1) is answer) == is_kept

    def test_pictures_of_the_same_bytes_but_another_shape(self):
        kept = StageCache()
        kept.reset_for(Image.new("RGB", (6, 2)))
        answer = self.ask(kept, "a", 1)
        kept.reset_for(Image.new("RGB", (2, 6)))
        assert self.ask(kept, "a", 1) is not answer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(np.arange(6), np.arange(6), True, id="arrays"),
        pytest.param(np.arange(6), torch.arange(6), True, id="array and tensor"),
        pytest.param(np.arange(6), np.arange(6).reshape(2, 3), False, id="shapes"),
        pytest.param(np.zeros(2, np.float32), np.zeros(2, np.int32), False, id="dtypes"),
        pytest.param(np.zeros(0), np.zeros((0, 4)), False, id="empty"),
        pytest.param(np.arange(8)[::2], np.array([0, 2, 4, 6]), True, id="strides"),
        pytest.param([{"a": 1, "b": [2]}], [{"b": [2], "a": 1}], True, id="mappings"),
        pytest.param({"a": 1}, {"a": 2}, False, id="values"),
        pytest.param(("a", "b"), ["a", "b"], True, id="sequences"),
        pytest.param(("ab",), ("a", "b"), False, id="strings"),
        pytest.param(None, (), False, id="none and nothing"),
    ],
)
def test_keys(one: Any, other: Any, same: bool):
    assert (frozen(one) == frozen(other)) == same
    if same:
        assert hash(frozen(one)) == hash(frozen(other))


def test_settings_are_keys(bundled: Pipeline):
    prompting = bundled.config.prompting
    assert frozen(prompting) == frozen(replace(prompting)) != frozen(replace(prompting, multimask_output=True))
