import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from grounded.data.instances import Instances
from grounded.errors import ConfigError, GroundedError, ImageError, PromptError, ResultError, VideoError
from grounded.query import QuerySettings
from grounded.ui.actions import Actions
from grounded.ui.api import ENDPOINT_SETTINGS, ENDPOINTS, Api, _read_result, expand_settings
from grounded.ui.progress import TimeLimitError
from grounded.ui.state import Limits
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import encode_rle
from tests.data import PICNIC, picnic_truth, unchecked
from tests.fuzzing import FUZZ_COUNTS, fuzz


@pytest.fixture(scope="module")
def api(actions: Actions) -> Api:
    return Api(actions)


@pytest.fixture(scope="module")
def found(api: Api) -> dict[str, Any]:
    return api.segment(str(PICNIC), "a dog. pizza")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    return str(path)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_segment_finds_the_dog(found: dict[str, Any]):
    instances = Instances.from_dict(json.loads(json.dumps(found)))
    assert set(instances.labels.tolist()) == {"a dog", "pizza"}
    dog = instances[instances.labels == "a dog"][0]
    assert iou(dog.masks[0], picnic_truth()["dog"][0]) > 0.7
    assert found["image"] == {"file": "picnic.png", "orientation": 1, "width": 640, "height": 480}
    assert found["models"]["segmenter"] == "bundled:tiny" and found["notes"] == []
    assert {"detect", "encode", "segment"} <= set(found["seconds"])


def test_segment_finds_what_the_pipeline_finds(api: Api, actions: Actions, found: dict[str, Any]):
    threshold = actions.defaults.box_threshold
    expected = actions.pipeline.segment(PICNIC, "a dog. pizza", box_threshold=threshold).to_dict()
    assert found["instances"] == expected["instances"]


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        pytest.param({"box_threshold": 1.0}, lambda r: r["instances"] == [], id="box_threshold"),
        pytest.param({"mode": "text"}, lambda r: {i["source"] for i in r["instances"]} == {"text"}, id="mode"),
        pytest.param({"mode": "text"}, lambda r: r["models"]["detector"] is None, id="models"),
        pytest.param({"filtering": False}, lambda r: r["instances"][0]["clip_score"] is None, id="filtering"),
        pytest.param({"clip_threshold": 1.0}, lambda r: r["instances"] == [], id="clip_threshold"),
        pytest.param({"box_threshold": 1.0, "fallback": "text"}, lambda r: len(r["instances"]) > 0, id="fallback"),
    ],
)
def test_settings_reach_the_pipeline(api: Api, settings: dict[str, Any], check: Any):
    assert check(api.segment(str(PICNIC), "a dog", QuerySettings(**settings)))


def test_refine_rounds_reach_the_pipeline(api: Api, actions: Actions):
    found = api.segment(str(PICNIC), "a dog", QuerySettings(refine_rounds=1))
    pipeline = actions.pipeline.with_config(refine_rounds=1)
    expected = pipeline.segment(PICNIC, "a dog", box_threshold=actions.config.detector.box_threshold)
    assert found["instances"] == expected.to_dict()["instances"]


def test_large_images_are_scaled_down_with_a_note(actions: Actions):
    api = Api(replace(actions, limits=Limits(max_side=320)))
    result = api.segment(str(PICNIC), "a dog")
    assert (result["image"]["width"], result["image"]["height"]) == (320, 240)
    assert result["notes"] == ["scaled down from 640 x 480 to 320 x 240 pixels"]
    assert result["instances"][0]["mask"]["size"] == [240, 320]
    corrected = api.refine(str(PICNIC), result, 0, [[220, 125]])
    assert corrected["instances"][0]["mask"]["size"] == [240, 320]


def test_refine_corrects_one_instance(api: Api, found: dict[str, Any]):
    corrected = api.refine(str(PICNIC), found, 0, [[440, 250], [600, 50]], [1, 0])
    assert corrected["instances"][0]["mask"] != found["instances"][0]["mask"]
    assert corrected["instances"][1:] == found["instances"][1:]
    assert corrected["phrases"] == found["phrases"] and {"encode", "refine"} <= set(corrected["seconds"])
    assert iou(Instances.from_dict(corrected).masks[0], picnic_truth()["dog"][0]) > 0.7


def test_refine_takes_json_text_and_points_without_labels(api: Api, found: dict[str, Any]):
    by_text = api.refine(str(PICNIC), json.dumps(found), 0, [[440, 250]])
    by_value = api.refine(str(PICNIC), found, 0, [[440, 250]], [1])
    assert by_text["instances"] == by_value["instances"]


def test_automatic_names_what_clip_recognises(api: Api):
    result = api.automatic(str(PICNIC), "dog. pizza", points_per_side=8)
    assert result["phrases"] == ["dog", "pizza", "unnamed"]
    instances = Instances.from_dict(result)
    assert {"dog", "unnamed"} <= set(instances.labels.tolist())
    assert set(instances.sources.tolist()) == {"automatic"}
    dog = instances[instances.labels == "dog"]
    assert max(iou(mask, picnic_truth()["dog"][0]) for mask in dog.masks) > 0.7
    none = api.automatic(str(PICNIC), points_per_side=2, pred_iou_thresh=1.0)
    assert none["instances"] == [] and none["phrases"] == ["unnamed"]


def test_automatic_removes_small_regions_when_asked_to(api: Api):
    few = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}

    def smallest(least: int) -> float:
        found = Instances.from_dict(api.automatic(str(PICNIC), min_mask_region_area=least, **few))
        numbered = [ndimage.label(mask, np.ones((3, 3)))[0] for mask in found.masks]
        return min(np.bincount(numbers.ravel())[1:].min() for numbers in numbered)

    assert smallest(0) < 300 <= smallest(300)


def test_label_returns_results_in_order_and_goes_on_after_a_failure(api: Api, found: dict[str, Any], broken: str):
    results = api.label([str(PICNIC), broken, "/none/such.png", str(PICNIC)], "a dog. pizza")
    assert results[0]["instances"] == results[3]["instances"] == found["instances"]
    assert results[1]["file"] == "broken.png" and "is not an image in a known format" in results[1]["error"]
    assert results[2]["file"] == "such.png" and "no such image" in results[2]["error"]
    assert api.label([], "a dog") == []


BAD_CALLS = [
    pytest.param("segment", {"text": " . "}, PromptError, "holds no phrase", id="empty text"),
    pytest.param("segment", {"image": None}, ImageError, "must be a file, got NoneType", id="no image"),
    pytest.param("segment", {"image": "{broken}"}, ImageError, "not an image in a known format", id="broken"),
    pytest.param("segment", {"mode": "points"}, ConfigError, "^mode must be one of box, text", id="mode"),
    pytest.param("segment", {"box_threshold": 2.0}, ConfigError, r"must lie in \[0, 1\], got 2.0", id="threshold"),
    pytest.param("segment", {"box_threshold": "much"}, ConfigError, "must be float .*got str 'much'", id="type"),
    pytest.param("segment", {"refine_rounds": 9}, ConfigError, r"must lie in \[0, 8\], got 9", id="rounds"),
    pytest.param("segment", {"fallback": "magic"}, ConfigError, "^fallback must be one of", id="fallback"),
    pytest.param("refine", {"index": 99}, PromptError, "index must be one of 2 instances", id="index too high"),
    pytest.param("refine", {"index": -1}, PromptError, "index must be one of 2 instances", id="negative index"),
    pytest.param("refine", {"index": "first"}, PromptError, "got 'first'", id="index is a word"),
    pytest.param("refine", {"points": []}, PromptError, "must have points or strokes", id="no points"),
    pytest.param("refine", {"points": [[9999, 1]]}, PromptError, "9999", id="point outside"),
    pytest.param("refine", {"points": [[1, 2, 3]]}, PromptError, "points", id="three numbers for a point"),
    pytest.param("refine", {"points": "here"}, PromptError, "points", id="points are a word"),
    pytest.param("refine", {"labels": [1, 0]}, PromptError, "label", id="too many labels"),
    pytest.param("refine", {"labels": [7]}, PromptError, "label", id="unknown label"),
    pytest.param("refine", {"result": "{not json"}, ResultError, "the result is not JSON", id="no JSON"),
    pytest.param("refine", {"result": {}}, ResultError, "must hold the key 'phrases'", id="empty result"),
    pytest.param("refine", {"result": [1, 2]}, ResultError, "not a result of this program", id="a list"),
    pytest.param("automatic", {"points_per_side": 0}, ConfigError, "must be at least 1, got 0", id="no points"),
    pytest.param("automatic", {"points_per_side": 1000}, ConfigError, "must be at most 64, got 1000", id="too fine"),
    pytest.param("automatic", {"pred_iou_thresh": -1.0}, ConfigError, r"pred_iou_thresh must lie in", id="IoU"),
    pytest.param("automatic", {"naming_threshold": 2}, ConfigError, r"naming_threshold must lie in", id="naming"),
    pytest.param("automatic", {"min_mask_region_area": -1}, ConfigError, "must not be negative, got -1", id="area"),
    pytest.param("automatic", {"words": ". ,"}, PromptError, "holds no phrase", id="empty words"),
    pytest.param("automatic", {"image": "{broken}"}, ImageError, "not an image", id="automatic, broken"),
    pytest.param("label", {"text": ""}, PromptError, "holds no phrase", id="label, empty text"),
    pytest.param("label", {"mode": "points"}, ConfigError, "must be one of", id="label, mode"),
    pytest.param("label", {"images": ["x"] * 101}, PromptError, "at most 100 images", id="too many images"),
]


@pytest.mark.parametrize(("method", "changes", "error", "message"), BAD_CALLS)
def test_bad_input_is_a_typed_error(
    api: Api,
    found: dict[str, Any],
    broken: str,
    method: str,
    changes: dict[str, Any],
    error: type[GroundedError],
    message: str,
):
    good: dict[str, dict[str, Any]] = {
        "segment": {"image": str(PICNIC), "text": "a dog"},
        "refine": {"image": str(PICNIC), "result": found, "index": 0, "points": [[440, 250]]},
        "automatic": {"image": str(PICNIC)},
        "label": {"images": [str(PICNIC)], "text": "a dog"},
    }
    given = {name: broken if value == "{broken}" else value for name, value in changes.items()}
    with pytest.raises(error, match=message) as caught:
        # As the network brings it: nothing has looked at the types.
        arguments = {**good[method], **given}
        settings = {name: arguments.pop(name) for name in ENDPOINT_SETTINGS if name in arguments}
        if settings:
            arguments["settings"] = QuerySettings(**settings)
        unchecked(getattr(Api, method))(api, **arguments)
    assert len(str(caught.value).splitlines()) == 1


def _with_mask(found: dict[str, Any], **mask: Any) -> dict[str, Any]:
    first, *others = found["instances"]
    return {**found, "instances": [{**first, "mask": {**first["mask"], **mask}}, *others]}


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param({"counts": ""}, id="no runs"),
        pytest.param({"counts": "1000"}, id="runs that end early"),
        pytest.param({"counts": "o" * 40}, id="runs beyond the image"),
        pytest.param({"counts": "Ünwahr"}, id="no runs at all"),
        pytest.param({"counts": 7}, id="a number"),
        pytest.param({"counts": [1, 2]}, id="a list"),
        pytest.param({"size": [10, 10]}, id="another size"),
    ],
)
def test_masks_that_came_over_the_network_are_not_trusted(api: Api, found: dict[str, Any], mask: dict[str, Any]):
    with pytest.raises(ResultError):
        api.refine(str(PICNIC), _with_mask(found, **mask), 1, [[540, 380]])


def test_a_mask_from_elsewhere_is_taken(api: Api, found: dict[str, Any]):
    drawn = np.zeros((1, 480, 640), bool)
    drawn[:, 200:340, 390:560] = True
    result = _with_mask(found, **encode_rle(drawn)[0])
    assert iou(Instances.from_dict(api.refine(str(PICNIC), result, 0, [[440, 250]])).masks[0], drawn[0]) > 0.3


def test_a_result_of_another_image(api: Api, found: dict[str, Any], tmp_path: Path):
    Image.new("RGB", (64, 48)).save(tmp_path / "small.png")
    with pytest.raises(ResultError, match="of this image of 64 x 48 pixels, got 640 x 480"):
        api.refine(str(tmp_path / "small.png"), found, 0, [[1, 1]])


def test_the_time_limit(actions: Actions):
    api = Api(replace(actions, limits=Limits(seconds=0.0)))
    with pytest.raises(TimeLimitError):
        api.segment(str(PICNIC), "a dog")
    results = api.label([str(PICNIC)] * 2, "a dog")
    assert [sorted(result) for result in results] == [["error", "file"]] * 2
    assert "time limit" in results[1]["error"]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_parameter_is_documented(api: Api, name: str):
    function = expand_settings(getattr(api, name))
    parameters = list(inspect.signature(function).parameters)
    assert "settings" not in parameters and "settings:" not in (function.__doc__ or "")
    for parameter in parameters:
        assert f"\n            {parameter}: " in (function.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("box_threshold", "lowest detector score to keep, 0 to 1."),
        ("mode", "what the segmenter is prompted with: box, text or box+text."),
        ("filtering", "let CLIP drop what does not look like its phrase."),
        ("refine_rounds", "rounds of correcting the masks by points, 0 to 8."),
    ],
)
def test_settings_are_described_with_their_values(api: Api, name: str, text: str):
    assert f"\n            {name}: {text}\n" in expand_settings(api.label).__doc__


def test_settings_are_taken_by_position(api: Api, found: dict[str, Any]):
    segment = expand_settings(api.segment)
    assert segment(str(PICNIC), "a dog. pizza")["instances"] == found["instances"]
    assert segment(str(PICNIC), "a dog. pizza", *[None] * 6)["instances"] == found["instances"]
    assert segment(str(PICNIC), "a dog. pizza", 1.0)["instances"] == []


def test_track_follows_the_dog(api: Api, walk: Path):
    result = api.track(str(walk), "a dog", frames=2)
    assert result["clip"] == {"file": "walk.mp4", "width": 320, "height": 240, "frame_rate": 25.0}
    frames = [TrackedFrame.from_dict(frame) for frame in json.loads(json.dumps(result))["frames"]]
    assert [(frame.number, frame.names) for frame in frames] == [(0, ["a dog 1"]), (1, ["a dog 1"])]
    assert result["notes"] == [] and result["models"]["segmenter"] == "bundled:tiny"


@pytest.mark.parametrize(
    ("frames", "text", "message"),
    [(0, "a dog", "frames must be a whole number from 1 on, got 0"), (1, " . ", "no phrase")],
)
def test_track_refuses_wrong_arguments(api: Api, walk: Path, frames: int, text: str, message: str):
    with pytest.raises((ConfigError, PromptError), match=message):
        api.track(str(walk), text, frames)


def test_track_needs_a_clip_and_a_model(api: Api, actions: Actions, tmp_path: Path, walk: Path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"broken.mp4 cannot be read as a video"):
        api.track(str(tmp_path / "broken.mp4"), "a dog")
    without = Api(replace(actions, video=None, video_missing="No video model."))
    with pytest.raises(ConfigError, match="No video model"):
        without.track(str(walk), "a dog")


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_odd_results_are_read_or_refused(count: int, found: dict[str, Any]):
    def read(content: bytes) -> None:
        instances = _read_result(content.decode(errors="replace"), (480, 640))
        assert instances.masks.shape == (len(instances), 480, 640)
        json.dumps(instances.to_dict(), allow_nan=False)

    fuzz([json.dumps(found).encode()], read, count)
