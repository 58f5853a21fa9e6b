import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from segment_anything.utils import amg
from torch.nn import functional as F

from segany.utils import rle
from segany.utils.masks import mask_area, mask_iou, masks_to_boxes


def random_masks(cell: int, seed: int = 0) -> torch.Tensor:
    """Masks with details of about `cell` pixels, the last two empty and full."""
    noise = torch.randn(6, 1, 37 // cell + 1, 53 // cell + 1, generator=torch.Generator().manual_seed(seed))
    masks = F.interpolate(noise, (37, 53), mode="bilinear")[:, 0] > 0.2
    masks[-2], masks[-1] = False, True
    return masks


SMOOTH, NOISY = random_masks(cell=5), random_masks(cell=1)
kinds = pytest.mark.parametrize("masks", [SMOOTH, NOISY], ids=["smooth", "noisy"])


@kinds
class TestEncoding:
    def test_round_trip(self, masks):
        assert torch.equal(rle.decode_rle(rle.encode_rle(masks)), masks)

    def test_same_as_pycocotools(self, masks):
        pixels = np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8))
        expected = [encoded["counts"].decode() for encoded in coco_mask.encode(pixels)]
        encodings = rle.encode_rle(masks)
        assert [encoding["counts"] for encoding in encodings] == expected
        assert all(encoding["size"] == [37, 53] for encoding in encodings)

    def test_same_as_segment_anything(self, masks):
        assert rle.encode_rle(masks) == [amg.coco_encode_rle(runs) for runs in amg.mask_to_rle_pytorch(masks)]

    def test_survives_json(self, masks):
        encodings = rle.encode_rle(masks)
        assert json.loads(json.dumps(encodings)) == encodings

    def test_numpy_and_one_by_one_equal_the_batch(self, masks):
        encodings = rle.encode_rle(masks)
        assert rle.encode_rle(masks.numpy()) == encodings
        assert [rle.encode_rle(mask[None])[0] for mask in masks] == encodings
        assert torch.equal(torch.cat([rle.decode_rle([encoding]) for encoding in encodings]), masks)

    @pytest.mark.parametrize(
        "margins",
        [(0, 0, 0, 0), (4, 0, 0, 0), (0, 7, 0, 0), (0, 0, 1, 0), (0, 0, 0, 2), (3, 4, 5, 6)],
        ids=["none", "left", "right", "above", "below", "around"],
    )
    def test_a_part_of_an_image_equals_the_padded_mask(self, masks, margins):
        left, right, above, below = margins
        padded = F.pad(masks, margins)
        encodings = rle.encode_columns(masks.mT.contiguous(), (left, above), (37 + above + below, 53 + left + right))
        assert encodings == rle.encode_rle(padded)

    def test_changes_are_found_alike_on_every_device(self, masks):
        found = rle._changes_on_device(masks.flatten(1))
        for changes, expected in zip(found, rle._changes(masks.flatten(1)), strict=True):
            assert np.array_equal(changes, expected)

    def test_area(self, masks):
        areas = rle.rle_area(rle.encode_rle(masks))
        assert areas.tolist() == mask_area(masks).tolist()
        assert areas.tolist() == [amg.area_from_rle(runs) for runs in amg.mask_to_rle_pytorch(masks)]


@kinds
class TestMeasures:
    """Everything that is computed without decoding equals the same on the masks themselves."""

    def test_boxes(self, masks):
        expected = masks_to_boxes(masks)
        expected[:, 2:] += masks.any((1, 2))[:, None]  # behind the last pixel
        np.testing.assert_array_equal(rle.rle_boxes(rle.encode_rle(masks)), expected)

    def test_iou_and_containment(self, masks):
        encodings = rle.encode_rle(masks)
        common = (masks[:, None] & masks[None, 1:]).sum((2, 3)).numpy()
        areas = mask_area(masks).numpy()
        np.testing.assert_allclose(rle.rle_iou(encodings, encodings[1:]), mask_iou(masks, masks[1:]))
        np.testing.assert_allclose(
            rle.rle_containment(encodings, encodings[1:]), common / np.maximum(areas, 1)[:, None]
        )

    def test_crowds(self, masks):
        encodings, crowds = rle.encode_rle(masks), [True, False, True, False, False, True]
        both = np.where(crowds, rle.rle_containment(encodings, encodings), rle.rle_iou(encodings, encodings))
        np.testing.assert_array_equal(rle.rle_iou(encodings, encodings, crowds), both)

    def test_a_pixel_is_found(self, masks):
        for x, y in ((0, 0), (0, 36), (52, 0), (52, 36), (17, 9), (30, 20)):
            assert rle.rle_contains(rle.encode_rle(masks), x, y).tolist() == masks[:, y, x].tolist()

    def test_plain_runs(self, masks):
        for encoding in rle.encode_rle(masks):
            runs = rle.rle_runs(encoding)
            assert rle.rle_from_runs(runs.tolist(), (37, 53)) == encoding

    def test_union_and_intersection(self, masks):
        encodings = rle.encode_rle(masks)
        for chosen in ([0], [0, 1], [2, 0, 3], [1, 4], [1, 5]):  # the last two with an empty and a full mask
            some = [encodings[i] for i in chosen]
            assert rle.rle_union(some) == rle.encode_rle(masks[chosen].any(0, keepdim=True))[0]
            assert rle.rle_intersection(some) == rle.encode_rle(masks[chosen].all(0, keepdim=True))[0]

    @pytest.mark.parametrize("region", [(0, 0, 53, 37), (5, 3, 20, 30), (52, 36, 53, 37), (0, 10, 53, 11)])
    def test_a_region_is_decoded_alone(self, masks, region):
        x0, y0, x1, y1 = region
        for mask, encoding in zip(masks, rle.encode_rle(masks), strict=True):
            np.testing.assert_array_equal(rle.decode_columns(encoding, region), mask[y0:y1, x0:x1].T)


def test_polygons_as_coco_draws_them():
    polygons = [[2, 3, 20.5, 4, 15, 30], [10, 10, 50, 12, 48, 30, 12, 33]]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 37, 53)))
    np.testing.assert_array_equal(rle.decode_rle([rle.rle_from_polygons(polygons, (37, 53))])[0], expected)


def test_single_pixels():
    masks = torch.tensor([[[True]], [[False]]])
    assert torch.equal(rle.decode_rle(rle.encode_rle(masks)), masks)


def test_nothing():
    assert rle.encode_rle(SMOOTH[:0]) == []
    assert rle.encode_columns(SMOOTH[:0], (1, 2), (100, 100)) == []
    assert rle._changes_on_device(SMOOTH[:0].flatten(1)) == []
    assert rle.decode_rle([], image_size=(4, 5)).shape == (0, 4, 5)
    assert rle.rle_area([]).shape == (0,)
    assert rle.rle_contains([], 0, 0).shape == (0,)
    assert rle.rle_boxes([]).shape == (0, 4)
    assert rle.rle_iou([], rle.encode_rle(SMOOTH)).shape == (0, 6)


@pytest.mark.parametrize(
    ("encodings", "image_size", "message"),
    [
        pytest.param([], None, "needs image_size", id="nothing without a size"),
        pytest.param(rle.encode_rle(SMOOTH[:1]), (5, 5), r"must be of size \[5, 5\], got \[37, 53\]", id="size"),
        pytest.param(
            rle.encode_rle(SMOOTH[:1]) + rle.encode_rle(SMOOTH[:1, :9]), None, "encoding 1 must be", id="mixed"
        ),
    ],
)
def test_errors(encodings, image_size, message):
    with pytest.raises(ValueError, match=message):
        rle.decode_rle(encodings, image_size)
