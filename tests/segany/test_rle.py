import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from segment_anything.utils import amg
from torch.nn import functional as F

from segany import rle
from segany.masks import mask_area


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
        assert torch.equal(areas, mask_area(masks))
        assert areas.tolist() == [amg.area_from_rle(runs) for runs in amg.mask_to_rle_pytorch(masks)]


def test_single_pixels():
    masks = torch.tensor([[[True]], [[False]]])
    assert torch.equal(rle.decode_rle(rle.encode_rle(masks)), masks)


def test_nothing():
    assert rle.encode_rle(SMOOTH[:0]) == []
    assert rle.encode_columns(SMOOTH[:0], (1, 2), (100, 100)) == []
    assert rle._changes_on_device(SMOOTH[:0].flatten(1)) == []
    assert rle.decode_rle([], image_size=(4, 5)).shape == (0, 4, 5)
    assert rle.rle_area([]).shape == (0,)


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
