import contextlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from grounded.data.instances import Instances
from segany.utils.rle import encode_rle
from tests.data import disk


def build(masks: np.ndarray, ids: list[int], scores: list[float], phrases: tuple[str, ...]) -> Instances:
    n = len(masks)
    unknown = np.full(n, np.nan, np.float32)
    return Instances(
        phrases=phrases,
        image_size=masks.shape[1:],
        phrase_ids=np.array(ids, np.int64),
        boxes=np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        rles=tuple(encode_rle(masks)),
        scores=np.array(scores, np.float32),
        detector_scores=unknown,
        clip_scores=unknown,
        predicted_iou=unknown,
        phrase_scores=np.zeros((n, len(phrases)), np.float32),
        sources=np.array(["detector"] * n, dtype=np.str_),
    )


def overlapping() -> Instances:
    """A disk in a larger one that scores less, one apart, and one wholly under the first."""
    masks = np.stack(
        [disk(30, 40, 12, 15, 5), disk(30, 40, 12, 15, 9), disk(30, 40, 30, 9, 4), disk(30, 40, 12, 15, 2)]
    )
    return build(masks, [1, 0, 2, 1], [0.9, 0.8, 0.7, float("nan")], ("a dog", "pizza", "ein Stück Käse 猫"))


def many() -> Instances:
    """300 single pixels."""
    masks = np.zeros((300, 20, 20), bool)
    masks[np.arange(300), np.arange(300) // 20, np.arange(300) % 20] = True
    return build(masks, [i % 3 for i in range(300)], np.linspace(1, 0.1, 300).tolist(), ("a", "b", "c"))


CASES = {
    "none": Instances.empty(("a dog", "猫"), (7, 5)),
    "no phrase": Instances.empty((), (7, 5)),
    "overlapping": overlapping(),
    "many": many(),
    "an empty mask": build(np.zeros((1, 6, 8), bool), [0], [0.5], ("a dog",)),
    "whole image": build(np.ones((1, 6, 8), bool), [0], [0.5], ("a dog",)),
}
cases = pytest.mark.parametrize("instances", CASES.values(), ids=CASES.keys())


@cases
def test_coco_is_read_by_pycocotools_with_the_same_masks(instances: Instances, tmp_path: Path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(instances.to_coco(image_id=7, file_name="bild.png"), allow_nan=False))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(instances) + 1))
    height, width = instances.image_size
    assert coco.loadImgs(7) == [{"id": 7, "width": width, "height": height, "file_name": "bild.png"}]
    assert tuple(category["name"] for category in coco.loadCats(coco.getCatIds())) == instances.phrases
    for annotation, mask, label in zip(annotations, instances.masks, instances.labels, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0
        assert coco.cats[annotation["category_id"]]["name"] == label
        x, y, w, h = (round(side) for side in annotation["bbox"])
        inside = np.zeros_like(mask)
        inside[y : y + h, x : x + w] = True
        assert (mask <= inside).all()
        if mask.any():
            assert (w, h) == (np.ptp(np.nonzero(mask)[1]) + 1, np.ptp(np.nonzero(mask)[0]) + 1)


def test_coco_numbers():
    data = overlapping().to_coco(3, {"a dog": 18, "pizza": 59, "ein Stück Käse 猫": 59}, first_annotation_id=100)
    assert [annotation["id"] for annotation in data["annotations"]] == [100, 101, 102, 103]
    assert [annotation["category_id"] for annotation in data["annotations"]] == [59, 18, 59, 59]
    assert data["categories"] == [{"id": 18, "name": "a dog"}, {"id": 59, "name": "pizza"}]
    assert [annotation.get("score") for annotation in data["annotations"]] == [0.9, 0.8, 0.7, None]
    assert data["images"] == [{"id": 3, "width": 40, "height": 30}]


@pytest.mark.parametrize("method", ["to_coco", "to_panoptic"])
def test_every_phrase_needs_a_category(method: str, tmp_path: Path):
    first = [tmp_path / "panoptic.png"] if method == "to_panoptic" else []
    with pytest.raises(ValueError, match="category_ids must hold every phrase, got none for 'pizza'"):
        getattr(overlapping(), method)(*first, category_ids={"a dog": 1})
    assert not list(tmp_path.iterdir())


@cases
def test_maps_show_the_best_score_on_top(instances: Instances):
    expected = np.zeros(instances.image_size, int)
    for row in np.argsort(-np.nan_to_num(instances.scores, nan=-1), kind="stable")[::-1]:
        expected[instances.masks[row]] = row + 1
    np.testing.assert_array_equal(instances.instance_map(), expected)
    labels = instances.label_map(background=255)
    assert (labels[expected == 0] == 255).all()
    on = expected > 0
    np.testing.assert_array_equal(labels[on], instances.phrase_ids[expected[on] - 1] + 1)


def test_of_equal_scores_the_first_lies_on_top():
    masks = np.ones((3, 2, 2), bool)
    assert (build(masks, [0, 0, 0], [0.5, 0.7, 0.7], ("a",)).instance_map() == 2).all()


@cases
def test_panoptic_file(instances: Instances, tmp_path: Path):
    path = tmp_path / "folder" / "panoptic.png"
    annotation = instances.to_panoptic(path, image_id=4)
    assert json.loads(json.dumps(annotation)) == annotation
    assert (annotation["image_id"], annotation["file_name"]) == (4, "panoptic.png")
    image = Image.open(path)
    assert image.mode == "RGB"
    assert [file.name for file in path.parent.iterdir()] == ["panoptic.png"]
    red, green, blue = np.asarray(image, dtype=np.int64).transpose(2, 0, 1)
    ids = red + 256 * green + 256**2 * blue
    np.testing.assert_array_equal(ids, instances.instance_map())
    infos = annotation["segments_info"]
    assert len({info["id"] for info in infos}) == len(infos)
    assert {info["id"] for info in infos} == set(np.unique(ids).tolist()) - {0}
    for info in infos:
        segment = ids == info["id"]
        rows, columns = np.nonzero(segment)
        assert info["area"] == segment.sum()
        assert info["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert info["category_id"] == instances.phrase_ids[info["id"] - 1] + 1


def test_panoptic_ids_beyond_one_byte_and_hidden_instances(tmp_path: Path):
    assert max(info["id"] for info in many().to_panoptic(tmp_path / "many.png")["segments_info"]) == 300
    infos = overlapping().to_panoptic(tmp_path / "overlapping.png")["segments_info"]
    assert [info["id"] for info in infos] == [1, 2, 3]  # the fourth lies under the first


@cases
def test_supervision(instances: Instances):
    if importlib.util.find_spec("supervision") is None:
        pytest.skip("needs the package supervision")
    detections = instances.to_supervision()
    assert len(detections) == len(instances)
    np.testing.assert_array_equal(detections.xyxy, instances.boxes)
    np.testing.assert_array_equal(detections.mask, instances.masks)
    np.testing.assert_array_equal(detections.confidence, instances.scores)
    np.testing.assert_array_equal(detections.class_id, instances.phrase_ids)
    assert detections["class_name"].tolist() == instances.labels.tolist()


def test_supervision_that_is_not_installed():
    if importlib.util.find_spec("supervision") is not None:
        pytest.skip("needs an environment without the package supervision")
    with pytest.raises(ImportError, match="pip install supervision"):
        overlapping().to_supervision()
