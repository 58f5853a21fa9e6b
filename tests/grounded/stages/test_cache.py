"""StageCache: a stage runs again exactly where its input changed, and a result never stands for other input."""

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.config import PipelineConfig
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.models import build
from grounded.pipeline import Pipeline
from grounded.stages.cache import StageCache, cache_key
from grounded.utils.timing import Stopwatch
from tests.data import PICNIC
from tests.grounded.conftest import random_image
from tests.grounded.counting import counted

DOG, PIZZA = [[470.0, 270.0]], [[200.0, 380.0]]
OFF = {"filtering": {"enabled": False}}
TWO = {"text": "dog. pizza", "fallback": {"source": "none"}}
# Every stage has something to do: there is no helicopter, so the fallback looks for it.
QUERY: dict[str, Any] = {
    "text": "dog. helicopter",
    "box_threshold": 0.2,
    "mode": "box+text",
    "filtering": {"enabled": True, "clip_threshold": 0.01},
    "zoom": 2.0,
    "min_mask_region_area": 30,
    "fallback": {
        "source": "automatic",
        "fallback_threshold": 0.0,
        "pred_iou_thresh": 0.3,
        "stability_score_thresh": 0.3,
        "points_per_side": 2,
    },
}
ARGUMENTS = ("image", "text", "box_threshold", "points", "point_labels", "embedding")


def run(pipeline: Pipeline, cache: StageCache | None = None, watch: Stopwatch | None = None, **query: Any) -> Instances:
    """Segment the example, with arguments of `segment` and settings mixed; "dog. pizza" unless they say otherwise."""
    settings = {"zoom": None} | {name: value for name, value in query.items() if name not in ARGUMENTS}
    arguments = {"image": PICNIC, "text": "dog. pizza", "box_threshold": 0.2}
    arguments |= {name: value for name, value in query.items() if name in ARGUMENTS}
    return pipeline.with_config(**settings).segment(stopwatch=watch, cache=cache, **arguments)


def changed(query: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The query with some values replaced, those of sections one by one."""
    merged = {n: {**query[n], **v} if isinstance(v, dict) and n in query else v for n, v in change.items()}
    return {**query, **merged}


@pytest.fixture(scope="module")
def both(bundled: Pipeline) -> Pipeline:
    """The bundled models with both kinds of text prompts."""
    clip = build.load_clip(bundled.config, torch.device("cpu"))
    return replace(bundled, dense_prompter=build.dense_clip(clip, bundled.config))


MASKS = {"segment", "zoom", "clean", "score"}
# One setting that is changed -> the stages that run again, for every setting that can be changed on loaded models.
SETTINGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "prompting.mode": ({"mode": "box"}, MASKS),
    "prompting.text_prompt": ({"text_prompt": "dense-clip"}, {"dense_prompts", *MASKS}),
    "prompting.multimask_output": ({"multimask_output": True}, {"segment", "zoom"}),
    "prompting.mask_nms_threshold": ({"mask_nms_threshold": 0.51}, {"zoom"}),
    "prompting.mask_containment_threshold": ({"mask_containment_threshold": 0.95}, {"zoom"}),
    "filtering.enabled": (OFF, set()),
    "filtering.clip_threshold": ({"filtering": {"clip_threshold": 0.02}}, set()),
    "refinement.refine_rounds": ({"refine_rounds": 1}, {"segment"}),  # finds nothing to correct here
    "refinement.zoom": ({"zoom": 2.5}, {"zoom", "clean", "score"}),
    "refinement.min_mask_region_area": ({"min_mask_region_area": 10**5}, {"clean", "automatic_masks", "score"}),
    "fallback.source": ({"fallback": {"source": "text"}}, {"embed_text", "segment", "clean", "score"}),
    "fallback.fallback_threshold": ({"fallback": {"fallback_threshold": 0.5}}, set()),
    "fallback.points_per_side": ({"fallback": {"points_per_side": 3}}, {"automatic_masks", "score"}),
    "fallback.pred_iou_thresh": ({"fallback": {"pred_iou_thresh": 0.2}}, {"automatic_masks"}),
    "fallback.stability_score_thresh": ({"fallback": {"stability_score_thresh": 0.2}}, {"automatic_masks", "score"}),
    "fallback.max_instances": ({"fallback": {"max_instances": 1}}, set()),
    "fallback.max_objects": ({"fallback": {"max_objects": 5}}, set()),  # of another source
}
CHANGES = [pytest.param({}, change, stages, id=name) for name, (change, stages) in SETTINGS.items()] + [
    pytest.param({}, {}, set(), id="nothing"),
    pytest.param({}, {"text": ["dog", "helicopter"]}, set(), id="another form of the text"),
    pytest.param({}, {"text": "dog. red apple"}, {"detect", "embed_text", *MASKS}, id="text"),
    pytest.param(TWO, {**TWO, "box_threshold": 0.73}, MASKS, id="box threshold"),
    pytest.param({**TWO, **OFF}, TWO, {"score"}, id="filtering on"),
    pytest.param({"mode": "text"}, {}, {"detect", *MASKS, "automatic_masks"}, id="from text to boxes"),
    pytest.param({"mode": "text"}, {"mode": "text", "box_threshold": 0.9}, set(), id="box threshold without boxes"),
    pytest.param({}, {"points": DOG}, MASKS, id="click"),
    pytest.param({"points": DOG}, {"points": np.array(DOG), "point_labels": [1]}, set(), id="the same click"),
    pytest.param({"points": DOG}, {"points": DOG, "point_labels": [0]}, MASKS, id="kind of click"),
    pytest.param({}, {"fallback": {"source": "none"}}, set(), id="fallback off"),
]


def test_every_setting_is_tested():
    config = PipelineConfig()
    loaded_with = ("detector", "clip", "segmenter", "scoring", "video")  # or used for clips alone
    sections = [f.name for f in fields(config) if is_dataclass(getattr(config, f.name)) and f.name not in loaded_with]
    assert set(SETTINGS) == {f"{name}.{f.name}" for name in sections for f in fields(getattr(config, name))}


@pytest.fixture(scope="module")
def filled(both: Pipeline) -> Callable[[dict[str, Any]], StageCache]:
    """A cache that has seen QUERY with a change, and nothing else."""
    caches: dict[str, StageCache] = {}

    def fill(change: dict[str, Any]) -> StageCache:
        key = repr(change)
        if key not in caches:
            run(both, caches.setdefault(key, StageCache()), **changed(QUERY, change))
        return copied(caches[key])

    return fill


def copied(cache: StageCache) -> StageCache:
    """A cache of its own with the same results."""
    copy = StageCache()
    vars(copy).update(vars(cache), _lock=threading.Lock())
    copy._results = {stage: results.copy() for stage, results in cache._results.items()}
    return copy


@pytest.mark.parametrize(("before", "after", "stages"), CHANGES)
def test_exactly_the_stages_that_depend_on_a_change_run(
    both: Pipeline, filled: Callable[[dict], StageCache], before: dict, after: dict, stages: set[str]
):
    watch = Stopwatch()
    run(both, filled(before), watch, **changed(QUERY, after))
    assert set(watch.seconds) - {"open"} == stages


# Every third here, all of them in the long run: which stages run is tested above for each.
SOME_CHANGES = [
    pytest.param(*change.values, id=change.id, marks=pytest.mark.long if i % 3 else ())
    for i, change in enumerate(CHANGES)
]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "_stages"), SOME_CHANGES)
def test_results_are_those_without_a_cache(
    both: Pipeline, filled: Callable[[dict], StageCache], before: dict, after: dict, _stages: set[str]
):
    found = run(both, filled(before), **changed(QUERY, after))
    assert found.to_dict() == run(both, **changed(QUERY, after)).to_dict()


def test_every_stage_runs_at_first(both: Pipeline):
    watch = Stopwatch()
    with counted(both) as calls:
        run(both, StageCache(), watch, **QUERY)
    assert set(watch.seconds) == {"open", "detect", "embed_text", "encode", "automatic_masks", *MASKS}
    assert calls["detect"] == 1
    assert calls["encode"] > 1  # the image, and windows around what is small


def test_a_given_embedding_is_no_other_input(both: Pipeline):
    cache, watch = StageCache(), Stopwatch()
    embedding = both.encode(PICNIC, cache)
    run(both, cache, embedding=embedding, **QUERY)
    run(both, cache, watch, **QUERY)
    assert set(watch.seconds) == {"open"}


def test_windows_are_kept_where_prompts_change(both: Pipeline):
    cache = StageCache()
    run(both, cache, **QUERY)
    with counted(both) as calls:
        run(both, cache, **{**QUERY, "mode": "box"})
    assert "encode" not in calls


def test_threads_with_other_images_share_a_cache(bundled: Pipeline):
    cache, images = StageCache(), [Image.open(PICNIC).convert("RGB")]
    images.append(images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    expected = [run(bundled, image=image, text="dog").to_dict() for image in images]
    found: list[list[Any]] = [[], []]

    def work(i: int) -> None:
        for _ in range(3):
            found[i].append(run(bundled, cache, image=images[i], text="dog").to_dict())

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert found[i] == [expected[i]] * 3


@pytest.mark.parametrize("mode", ["box", "box+text"])
def test_back_and_forth(bundled: Pipeline, mode: str):
    cache = StageCache()
    queries: list[dict] = [{"box_threshold": 0.2}, {"text": "orange"}, {"box_threshold": 0.73}, {"points": DOG}]
    results = [run(bundled, cache, **{"text": "dog. pizza", "mode": mode, **query}) for query in queries]
    with counted(bundled) as calls:
        again = [run(bundled, cache, **{"text": "dog. pizza", "mode": mode, **query}) for query in queries]
    assert not calls
    assert [found.to_dict() for found in again] == [found.to_dict() for found in results]
    assert len({str(found.to_dict()) for found in results}) == len(queries)


def test_dense_clip_is_kept(bundled: Pipeline):
    dense = Pipeline.from_config("tiny", load_all=True, text_prompt="dense-clip", device="cpu")
    cache, watch = StageCache(), Stopwatch()
    expected = dense.segment(PICNIC, "dog", cache=cache)
    assert dense.segment(PICNIC, "dog", watch, box_threshold=0.2, cache=cache).to_dict() == expected.to_dict()
    assert set(watch.seconds) == {"open"}
    assert dense.with_config(mode="text").segment(PICNIC, "dog", watch, cache=cache).sources.tolist() == ["text"]
    assert not {"text", "encode", "detect"} & set(watch.seconds)  # the heat of a phrase does not depend on the mode


def test_another_image_empties_it(bundled: Pipeline):
    cache, image = StageCache(), Image.open(PICNIC).convert("RGB")
    first = run(bundled, cache, image=image)
    with counted(bundled) as calls:
        run(bundled, cache, image=np.asarray(image))
        run(bundled, cache, image=image.copy())
    assert not calls  # the same pixels
    with counted(bundled) as calls:
        turned = run(bundled, cache, image=image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert calls["encode"] == calls["detect"] == 1
        assert run(bundled, cache, image=image).to_dict() == first.to_dict()
        assert calls["encode"] == calls["detect"] == 2
    assert turned.to_dict() != first.to_dict()


def test_an_image_that_was_drawn_on_is_another_one(bundled: Pipeline):
    cache, image = StageCache(), Image.open(PICNIC).convert("RGB")
    assert len(run(bundled, cache, image=image)) == 2
    image.paste("white", (0, 0, *image.size))
    assert len(run(bundled, cache, image=image)) == 0


def test_other_models_empty_it(bundled: Pipeline, random_pipelines: dict[str, Pipeline]):
    cache = StageCache()
    run(bundled, cache)
    other = random_pipelines["box+text"]
    asked = {"filtering": {"enabled": False}, "box_threshold": 0.0}
    assert run(other, cache, **asked).to_dict() == run(other, **asked).to_dict()
    assert other.encode(PICNIC, cache).fingerprint == other.segmenter.fingerprint
    assert run(bundled, cache).to_dict() == run(bundled).to_dict()


def test_what_is_returned_may_be_changed(bundled: Pipeline):
    cache = StageCache()
    found = run(bundled, cache, **OFF)
    expected = found.to_dict()
    for name in ("boxes", "scores", "phrase_ids", "predicted_iou", "phrase_scores"):
        getattr(found, name)[:] = 0
    assert run(bundled, cache, **OFF).to_dict() == expected


def test_few_results_of_each_stage_are_kept(bundled: Pipeline):
    cache = StageCache(results_per_stage=1)
    with counted(bundled) as calls:
        for text in ("dog", "pizza", "dog"):
            run(bundled, cache, text=text)
    assert calls["detect"] == 3
    assert calls["encode"] == 1


class TestRun:
    """The cache with made-up stages."""

    @staticmethod
    def stage(*inputs: Any) -> list:
        return list(inputs)

    @staticmethod
    def other_stage(*inputs: Any) -> list:
        return [*inputs, "other"]

    def test_an_input_is_computed_once(self):
        cache = StageCache()
        assert cache.run(self.stage, 1) is cache.run(self.stage, 1)
        assert cache.run(self.stage, 2) == [2]
        assert cache.run(self.other_stage, 1) == [1, "other"]

    def test_helpers_are_no_input(self):
        cache = StageCache()
        assert cache.run(lambda_with_helper, 1, helper="a") == (1, "a")
        assert cache.run(lambda_with_helper, 1, helper="b") == (1, "a")

    def test_the_watch_receives_what_runs(self):
        cache, watch = StageCache(), Stopwatch()
        cache.run(self.stage, 1)
        cache.run(self.stage, 1, watch=watch)
        cache.run(self.other_stage, 1, watch=watch)
        assert list(watch.seconds) == ["other_stage"]

    def test_none_is_a_result(self):
        cache, calls = StageCache(), []
        for _ in range(2):
            assert cache.run(calls.append, 1) is None
        assert calls == [1]

    def test_a_failure_is_not_kept(self):
        cache, calls = StageCache(), []

        def fails_at_first(value: int) -> int:
            calls.append(value)
            return value // (len(calls) - 1)

        with pytest.raises(ZeroDivisionError):
            cache.run(fails_at_first, 1)
        assert cache.run(fails_at_first, 1) == 1

    def test_the_latest_are_kept(self):
        cache = StageCache(results_per_stage=2)
        first, second = cache.run(self.stage, 1), cache.run(self.stage, 2)
        assert cache.run(self.stage, 1) is first  # and is now later than the second
        cache.run(self.stage, 3)
        assert cache.run(self.stage, 1) is first
        assert cache.run(self.stage, 2) is not second

    @pytest.mark.parametrize("most", [1, 4])
    def test_the_others_are_let_go(self, most: int):
        cache = StageCache(results_per_stage=most)
        results = [cache.run(torch.full, (1,), float(i)) for i in range(most + 3)]
        alive = [weakref.ref(result) for result in results]
        del results
        gc.collect()
        assert [ref() is not None for ref in alive] == [False] * 3 + [True] * most

    @pytest.mark.parametrize("name", ["results_per_stage", "windows"])
    def test_none_at_all_are_too_few(self, name: str):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            StageCache(**{name: 0})


def lambda_with_helper(value: int, *, helper: str) -> tuple[int, str]:
    return value, helper


class TestRecall:
    @pytest.mark.parametrize(
        ("other", "same"),
        [
            pytest.param(random_image(), True, id="the same pixels"),
            pytest.param(random_image(seed=1), False, id="other pixels"),
            pytest.param(Image.new("RGB", (80, 60)), False, id="black"),
            pytest.param(random_image(80, 60), False, id="another shape"),
        ],
    )
    def test_an_image_is_known_by_its_pixels(self, other: Image.Image, same: bool):
        cache = StageCache()
        known = cache.recall(SourceImage(random_image()))
        result = cache.run(TestRun.stage, 1)
        assert (cache.recall(SourceImage(other)) is known) == same
        assert (cache.run(TestRun.stage, 1) is result) == same

    def test_the_same_bytes_in_another_shape(self):
        cache = StageCache()
        known = cache.recall(SourceImage(Image.new("RGB", (6, 2))))
        assert cache.recall(SourceImage(Image.new("RGB", (2, 6)))) is not known

    def test_drawing_on_an_image_does_not_change_the_known_one(self):
        cache, drawn_on = StageCache(), random_image()
        known = cache.recall(SourceImage(drawn_on))
        drawn_on.paste("white", (0, 0, 80, 60))
        assert cache.recall(SourceImage(random_image())) is known
        assert np.array_equal(np.asarray(known.pixels), np.asarray(random_image()))


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
        pytest.param(True, 1, False, id="types"),
        pytest.param(Instances.empty(("a",), (2, 3)), Instances.empty(("a",), (2, 3)), True, id="values"),
        pytest.param(Instances.empty(("a",), (2, 3)), Instances.empty(("b",), (2, 3)), False, id="other values"),
        pytest.param(SourceImage(random_image()), SourceImage(random_image()), False, id="images, by identity"),
        pytest.param(object(), object(), False, id="models, by identity"),
        pytest.param(None, (), False, id="none and nothing"),
    ],
)
def test_keys(one: Any, other: Any, same: bool):
    assert (cache_key(one) == cache_key(other)) == same
    if same:
        assert hash(cache_key(one)) == hash(cache_key(other))


def test_settings_are_keys(bundled: Pipeline):
    prompting = bundled.config.prompting
    assert cache_key(prompting) == cache_key(replace(prompting)) != cache_key(replace(prompting, multimask_output=True))
