import json
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from segment_anything.utils import amg
from torch.nn import functional as F

from segany.errors import MaskError
from segany.utils import rle
from segany.utils.masks import mask_area, mask_iou, masks_to_boxes
from tests.data import disk
from tests.fuzzing import FUZZ_COUNTS, fuzz


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


# Masks from outside

ONE = {"size": [3, 4], "counts": "156"}  # 1 pixel of background, 5 of foreground, 6 of background


def packed(runs: list[int]) -> str:
    """Compressed run lengths as pycocotools writes them, runs of nothing included."""
    return coco_mask.frPyObjects({"size": [3, 4], "counts": runs}, 3, 4)["counts"].decode()


@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param({"size": [3, 4], "counts": [1, 5, 6]}, id="list"),
        pytest.param({"size": ["3", 4.0], "counts": [1.0, 5, 6]}, id="other numbers"),
        pytest.param({"size": (3, 4), "counts": np.array([1, 5, 6], np.uint8)}, id="array"),
        pytest.param({"size": [3, 4], "counts": "156"}, id="text"),
        pytest.param({"size": [3, 4], "counts": b"156"}, id="bytes"),
        pytest.param({"size": [3, 4], "counts": [1, 2, 0, 3, 6, 0]}, id="runs of nothing"),
        pytest.param({"size": [3, 4], "counts": packed([1, 2, 0, 3, 6, 0])}, id="runs of nothing, compressed"),
    ],
)
def test_masks_from_outside_become_one_form(encoding: Any):
    assert rle.check_rle(encoding) == rle.check_rle(encoding, (3, 4)) == ONE


@pytest.mark.parametrize("runs", [[12], [0, 12], [0, 1, 11], [11, 1]], ids=str)
def test_whole_and_empty_masks_from_outside(runs: list[int]):
    assert rle.rle_runs(rle.check_rle({"size": [3, 4], "counts": runs})).tolist() == runs
    assert rle.rle_from_runs(runs, (3, 4))["counts"] == packed(runs)


@pytest.mark.parametrize("masks", [SMOOTH, torch.rand(4, 37, 53) > 0.5, torch.rand(2, 300, 400) > 0.001])
def test_our_own_masks_pass_unchanged(masks: torch.Tensor):
    for encoding in rle.encode_rle(masks):
        assert rle.check_rle(encoding, tuple(masks.shape[1:])) == encoding
        assert rle.check_rle({**encoding, "counts": encoding["counts"].encode()}) == encoding
        assert rle.check_rle({**encoding, "counts": rle.rle_runs(encoding).tolist()}) == encoding


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        pytest.param(None, "with size and counts, got None", id="none"),
        pytest.param({"size": [3, 4]}, "with size and counts, got ", id="no counts"),
        pytest.param({"size": [0, 4], "counts": []}, "two whole numbers", id="no size"),
        pytest.param({"size": [3, 4], "counts": []}, "add up to height x width = 12, got 0", id="nothing"),
        pytest.param({"size": [3, 4], "counts": ""}, "add up to height x width = 12, got 0", id="no text"),
        pytest.param({"size": [3, 4], "counts": [1, 2]}, "add up to height x width = 12, got 3", id="too few"),
        pytest.param({"size": [3, 4], "counts": [6, 7]}, "add up to height x width = 12, got 13", id="too many"),
        pytest.param({"size": [3, 4], "counts": [13, -1]}, "from 0 to 12, got -1", id="negative"),
        pytest.param({"size": [3, 4], "counts": [1.5, 10.5]}, "whole numbers", id="half a pixel"),
        pytest.param({"size": [3, 4], "counts": [10**30]}, "whole numbers", id="huge"),
        pytest.param({"size": [3, 4], "counts": [2**62, 2**62]}, "whole numbers", id="sums that overflow"),
        pytest.param({"size": [3, 4], "counts": [None, 12]}, "whole numbers", id="null"),
        pytest.param({"size": [3, 4], "counts": [[12]]}, "whole numbers", id="nested"),
        pytest.param({"size": [3, 4], "counts": ["12"]}, "whole numbers", id="texts"),
        pytest.param({"size": [3, 4], "counts": 12}, "text or a list, got 12", id="a number"),
        pytest.param({"size": [3, 4], "counts": "b'<'"}, "characters 0 to o", id="bytes as Python shows them"),
        pytest.param({"size": [3, 4], "counts": "é"}, "characters 0 to o", id="beyond ASCII"),
        pytest.param({"size": [3, 4], "counts": "\ud800"}, "characters 0 to o", id="half a surrogate pair"),
        pytest.param({"size": [3, 4], "counts": "1o"}, "and whole, got '1o'", id="cut off"),
        pytest.param({"size": [3, 4], "counts": "o" * 9 + "0"}, "up to 7 characters, got 10", id="a number too long"),
        pytest.param({"size": [3, 4], "counts": "O" * 3}, "from 0 to 12, got -1", id="negative, compressed"),
    ],
)
def test_masks_from_outside_that_are_none(encoding: Any, message: str):
    with pytest.raises(MaskError, match=message) as caught:
        rle.check_rle(encoding)
    assert len(str(caught.value)) < 250


def test_a_mask_of_another_size():
    with pytest.raises(MaskError, match=r"of the image's size \[4, 3\], got \[3, 4\]"):
        rle.check_rle(ONE, (4, 3))


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_any_mask_is_safe_or_refused(count: int):
    def read(content: bytes) -> None:
        try:
            encoding = json.loads(content)
        except ValueError:
            return
        found = rle.check_rle(encoding, (30, 40))
        mask = rle.decode_rle([found])[0]
        assert rle.encode_rle(mask[None])[0] == rle.check_rle(rle.encode_rle(mask[None])[0])
        assert rle.rle_area([found])[0] == mask.sum()
        assert rle.rle_iou([found], [found])[0, 0] == float(mask.any())

    mask = disk(30, 40, 20, 15, 9)
    (encoding,) = rle.encode_rle(mask[None])
    runs = {"size": [30, 40], "counts": rle.rle_runs(encoding).tolist()}
    fuzz([json.dumps(one).encode() for one in (encoding, runs)], read, count)
