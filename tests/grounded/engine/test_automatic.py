"""The automatic stage on a drawn image, by the bundled weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.data.image import SourceImage
from grounded.engine.automatic import AutomaticStage, confident_masks, find_masks, read_masks, to_instances
from grounded.engine.rounds import AutomaticSettings
from grounded.errors import ResultError
from segany import AutomaticMasks, Predictor
from segany.utils.rle import encode_rle, rle_area, rle_boxes
from tests.data import disk

SETTINGS = AutomaticSettings(
    points_per_side=4, crop_layers=1, pred_iou_thresh=0.6, stability_score_thresh=0.8, min_region=20
)


@pytest.fixture(scope="module")
def image() -> SourceImage:
    """A large and a small disk."""
    pixels = np.full((96, 128, 3), 110, np.uint8)
    pixels[disk(96, 128, 40, 48, 28)] = (220, 40, 30)
    pixels[disk(96, 128, 104, 72, 10)] = (30, 60, 220)
    return SourceImage(Image.fromarray(pixels), Path("a/b.png"))


def made_up(*shapes: np.ndarray, iou: list[float]) -> AutomaticMasks:
    """Masks with these predicted IoUs, all stable."""
    rles = tuple(encode_rle(np.stack(shapes)))
    boxes, count = torch.from_numpy(rle_boxes(rles)).float(), len(rles)
    return AutomaticMasks(
        rles=rles,
        boxes=boxes,
        areas=torch.from_numpy(rle_area(rles)),
        predicted_iou=torch.tensor(iou),
        stability_score=torch.ones(count),
        points=torch.zeros(count, 2),
        crop_boxes=torch.tensor([[0.0, 0.0, 64.0, 48.0]]).expand(count, 4),
        image_size=(48, 64),
    )


def test_a_small_object_is_found(predictor: Predictor, image: SourceImage):
    masks = find_masks(predictor, image, replace(SETTINGS, crop_layers=0, points_per_side=8))
    assert abs(masks.areas.numpy() / disk(96, 128, 104, 72, 10).sum() - 1).min() < 0.2
    assert masks.areas.max() <= 0.95 * 96 * 128  # the whole image is not among them


def test_confident_masks_are_few():
    whole, part, other = disk(48, 64, 20, 24, 16), disk(48, 64, 20, 24, 6), disk(48, 64, 50, 24, 8)
    found = made_up(part, whole, other, other, iou=[0.95, 0.97, 0.93, 0.5])
    shown = confident_masks(found, SETTINGS)
    assert shown.predicted_iou.tolist() == pytest.approx([0.97, 0.93])  # the part lies in the whole
    assert len(confident_masks(found, replace(SETTINGS, confident_iou=0.99))) == 0
    instances = to_instances(found)
    assert instances.scores.tolist() == pytest.approx([0.97, 0.95, 0.93, 0.5])
    assert set(instances.labels) == {"unnamed"} and set(instances.sources.tolist()) == {"automatic"}


def test_files_have_all_of_sa1b(predictor: Predictor, image: SourceImage, tmp_path: Path):
    stage = AutomaticStage(predictor, replace(SETTINGS, crop_layers=0), tmp_path, {"a/b.png": (7, "a/b.json")})
    masks = stage.find(image)
    data = json.loads((tmp_path / "a/b.json").read_text())
    assert data["image"] == {"image_id": 7, "width": 128, "height": 96, "file_name": "b.png"}
    assert len(data["annotations"]) == len(masks) > 0
    for row, one in enumerate(data["annotations"]):
        assert one["predicted_iou"] == pytest.approx(float(masks.predicted_iou[row]), abs=1e-5)
        assert one["stability_score"] == pytest.approx(float(masks.stability_score[row]), abs=1e-5)
        assert one["crop_box"] == [0.0, 0.0, 128.0, 96.0]
        assert one["point_coords"] == [pytest.approx(masks.points[row].tolist())]
    assert read_masks(tmp_path, ["a/b.json", "none.json"]) == {"a/b.json": list(masks.rles)}
    (tmp_path / "a/b.json").write_text("{")
    with pytest.raises(ResultError, match="not JSON"):
        read_masks(tmp_path, ["a/b.json"])
