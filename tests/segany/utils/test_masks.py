import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from segment_anything.utils import amg

from segany.utils import masks
from segany.utils.rle import encode_rle


def draw(rows: str) -> torch.Tensor:
    """A mask from lines of '#' and '.'."""
    return torch.tensor([[pixel == "#" for pixel in line] for line in rows.split()])


def blobs(count: int, height: int = 37, width: int = 53, seed: int = 0) -> torch.Tensor:
    """Smooth random masks, the last two empty and full."""
    noise = torch.randn(count, 1, height // 4 + 1, width // 4 + 1, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[:, 0]
    drawn = smooth > 0.2
    drawn[-2], drawn[-1] = False, True
    return drawn


BLOBS = blobs(6)


class TestBoxes:
    @pytest.mark.parametrize(
        ("rows", "box"),
        [
            pytest.param("..... ..... .....", [0, 0, 0, 0], id="empty"),
            pytest.param("##### ##### #####", [0, 0, 4, 2], id="full"),
            pytest.param("..... ...#. .....", [3, 1, 3, 1], id="single pixel"),
            pytest.param("#.... ..... ....#", [0, 0, 4, 2], id="opposite corners"),
            pytest.param("..... .##.. ..##.", [1, 1, 3, 2], id="inside"),
        ],
    )
    def test_cases(self, rows, box):
        assert masks.masks_to_boxes(draw(rows)).tolist() == box

    def test_same_as_segment_anything(self):
        assert torch.equal(masks.masks_to_boxes(BLOBS), amg.batched_mask_to_box(BLOBS).float())

    @pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 4, 5), (2, 3, 4, 5)], ids=str)
    def test_leading_axes(self, shape):
        boxes = masks.masks_to_boxes(torch.ones(shape, dtype=torch.bool))
        assert boxes.shape == (*shape[:-2], 4)
        assert boxes.dtype == torch.float32
        assert (boxes == torch.tensor([0.0, 0.0, 4.0, 3.0])).all()

    def test_occupied_rows_and_columns_are_enough(self):
        boxes = masks.occupied_to_boxes(columns=BLOBS.any(dim=1), rows=BLOBS.any(dim=2))
        assert torch.equal(boxes, masks.masks_to_boxes(BLOBS))


class TestIoU:
    @pytest.mark.parametrize(
        ("a", "b", "iou"),
        [
            pytest.param("##. ##.", "##. ##.", 1.0, id="same"),
            pytest.param("##. ##.", ".## .##", 1 / 3, id="overlapping"),
            pytest.param("#.. #..", "..# ..#", 0.0, id="apart"),
            pytest.param("... ...", "### ###", 0.0, id="one empty"),
            pytest.param("... ...", "... ...", 0.0, id="both empty"),
        ],
    )
    def test_cases(self, a, b, iou):
        assert masks.mask_iou(draw(a)[None], draw(b)[None]).item() == pytest.approx(iou)

    def test_pairs_match_pycocotools(self):
        a, b = BLOBS, blobs(4, seed=1)
        expected = coco_mask.iou(encode_rle(a), encode_rle(b), [0] * len(b))
        assert masks.mask_iou(a, b).numpy() == pytest.approx(expected)

    def test_blocks_of_pixels_add_up(self, monkeypatch):
        expected = masks.mask_iou(BLOBS, BLOBS)
        monkeypatch.setattr(masks, "_PIXEL_BLOCK", 100)
        assert torch.equal(masks.mask_iou(BLOBS, BLOBS), expected)

    def test_nothing(self):
        assert masks.mask_iou(BLOBS[:0], BLOBS).shape == (0, 6)
        assert masks.mask_iou(BLOBS, BLOBS[:0]).shape == (6, 0)


class TestStability:
    @pytest.mark.parametrize(
        ("logits", "score"),
        [
            pytest.param([[5.0, -5.0]], 1.0, id="far from the cut"),
            pytest.param([[5.0, 0.5]], 0.5, id="one of two pixels near the cut"),
            pytest.param([[0.5, -0.5]], 0.0, id="all near the cut"),
            pytest.param([[-5.0, -5.0]], 0.0, id="empty"),
            pytest.param([[1.0, 5.0]], 0.5, id="exactly at the upper cut is outside"),
        ],
    )
    def test_cases(self, logits, score):
        assert masks.stability_score(torch.tensor(logits)).item() == score

    @pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.3, 0.2)])
    def test_same_as_segment_anything(self, threshold, offset):
        logits = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 2
        expected = amg.calculate_stability_score(logits, threshold, offset)
        assert torch.equal(masks.stability_score(logits, threshold, offset), expected)

    def test_nothing(self):
        assert masks.stability_score(torch.zeros(0, 4, 5)).shape == (0,)
        assert masks.stability_score(torch.zeros(2, 3, 4, 5)).shape == (2, 3)


class TestSmallRegions:
    @pytest.mark.parametrize(
        ("rows", "min_area", "cleaned", "found"),
        [
            pytest.param("#### #..# ####", 3, "#### #### ####", True, id="small hole is filled"),
            pytest.param("#### #..# ####", 2, "#### #..# ####", False, id="hole of min_area stays"),
            pytest.param("##.. ##.. ...#", 1, "##.. ##.. ...#", False, id="island of min_area stays"),
            pytest.param("##... ##... ....#", 2, "##... ##... .....", True, id="small island goes"),
            pytest.param("##.. ##.. ..#.", 4, "##.. ##.. ..#.", False, id="corners connect"),
            pytest.param("##... ....# .....", 3, "##... ..... .....", True, id="largest of the small stays"),
            pytest.param("##... ..... .....", 3, "##... ..... .....", True, id="only island, small, is reported"),
            pytest.param("#### ###. ####", 2, "#### #### ####", True, id="notch at the border is a hole"),
            pytest.param(".... .... ....", 5, ".... .... ....", False, id="empty"),
            pytest.param("#### #### ####", 5, "#### #### ####", False, id="full"),
        ],
    )
    def test_cases(self, rows, min_area, cleaned, found):
        result, flags = masks.remove_small_regions(draw(rows)[None], min_area)
        assert torch.equal(result[0], draw(cleaned))
        assert flags.tolist() == [found]

    def test_single_equals_batched(self):
        cleaned, found = masks.remove_small_regions(BLOBS, 30)
        for index in range(len(BLOBS)):
            one, one_found = masks.remove_small_regions(BLOBS[index : index + 1], 30)
            assert torch.equal(one[0], cleaned[index])
            assert one_found[0] == found[index]

    @pytest.mark.parametrize("size", [(90, 120), (6, 300), (300, 6), (40, 41)], ids=str)
    @pytest.mark.parametrize("min_area", [1, 4, 40, 400])
    def test_the_part_around_a_mask_is_enough(self, monkeypatch, size, min_area):
        height, width = size
        random = np.random.default_rng(height + min_area)
        speckles = np.zeros((20, height, width), bool)
        for mask in speckles:
            y, x = random.integers(height), random.integers(width)
            part = mask[max(y - 9, 0) : y + 9, max(x - 12, 0) : x + 12]
            part |= random.random(part.shape) < random.uniform(0.3, 0.8)
        cleaned, found = masks.remove_small_regions(torch.from_numpy(speckles), min_area)
        monkeypatch.setattr(masks, "_surroundings", lambda *_: (slice(None), slice(None)))
        expected, expected_found = masks.remove_small_regions(torch.from_numpy(speckles), min_area)
        assert torch.equal(cleaned, expected)
        assert torch.equal(found, expected_found)

    def test_nothing(self):
        cleaned, found = masks.remove_small_regions(BLOBS[:0], 30)
        assert cleaned.shape == (0, 37, 53)
        assert found.shape == (0,)
