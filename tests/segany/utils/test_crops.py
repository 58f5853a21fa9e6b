import pytest
import torch
from segment_anything.utils import amg

from segany.utils.crops import Crop, layered_crops, near_crop_edge

SIZES = [(100, 100), (480, 641), (37, 53), (1200, 300)]


@pytest.mark.parametrize("image_size", SIZES, ids=str)
@pytest.mark.parametrize(("layers", "overlap"), [(0, 512 / 1500), (1, 0.0), (1, 512 / 1500), (3, 512 / 1500), (3, 0.5)])
def test_layers_same_as_segment_anything(image_size, layers, overlap):
    crops = layered_crops(image_size, layers, overlap)
    boxes, layer_ids = amg.generate_crop_boxes(image_size, layers, overlap)
    assert [list(crop.box) for crop in crops] == boxes
    assert [crop.layer for crop in crops] == layer_ids


@pytest.mark.parametrize("image_size", [(1, 1), (1, 3000), (65, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("layers", [1, 3])
def test_crops_of_thin_images_have_pixels_and_cover_them(image_size, layers):
    crops = layered_crops(image_size, layers, 512 / 1500)
    for layer in range(layers + 1):
        seen = torch.zeros(image_size, dtype=torch.bool)
        for crop in crops:
            x0, y0, x1, y1 = crop.box
            assert x0 < x1 and y0 < y1
            if crop.layer == layer:
                seen[y0:y1, x0:x1] = True
        assert bool(seen.all())


def test_first_crop_is_the_whole_image():
    (crop,) = layered_crops((30, 40), layers=0, overlap_ratio=0.5)
    assert (crop.box, crop.size, crop.layer) == ((0, 0, 40, 30), (30, 40), 0)


@pytest.mark.parametrize(
    ("box", "near"),
    [
        pytest.param([60, 60, 90, 90], False, id="inside"),
        pytest.param([60, 60, 140, 90], True, id="right side at the crop's"),
        pytest.param([60, 60, 130, 90], True, id="just within the tolerance"),
        pytest.param([60, 60, 129, 90], False, id="just outside the tolerance"),
        pytest.param([5, 60, 90, 90], False, id="left side at the image's"),
        pytest.param([5, 60, 90, 149], True, id="left side at the image's, bottom side at the crop's"),
    ],
)
def test_near_crop_edge(box, near):
    crop, image_size = Crop((0, 0, 150, 150), layer=1), (400, 400)
    boxes = torch.tensor([box, [60, 60, 90, 90]], dtype=torch.float32)
    result = near_crop_edge(boxes, crop, image_size)
    assert result.tolist() == [near, False]
    assert torch.equal(result, amg.is_box_near_crop_edge(boxes, [0, 0, 150, 150], [0, 0, 400, 400]))


def test_near_crop_edge_of_the_whole_image_and_of_nothing():
    crop = Crop((0, 0, 40, 30), layer=0)
    assert near_crop_edge(torch.tensor([[0.0, 0.0, 40.0, 30.0]]), crop, (30, 40)).tolist() == [False]
    assert near_crop_edge(torch.zeros(0, 4), crop, (30, 40)).shape == (0,)
