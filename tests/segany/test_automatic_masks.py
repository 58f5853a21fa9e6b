import pytest
import torch

from segany.automatic_masks import AutomaticMasks
from segany.utils.masks import mask_area, masks_to_boxes
from segany.utils.rle import encode_rle


def build(count: int, height: int = 6, width: int = 8) -> AutomaticMasks:
    """Rectangles that grow from mask to mask."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for index in range(count):
        masks[index, : index + 1, : index + 2] = True
    return AutomaticMasks(
        rles=tuple(encode_rle(masks)),
        boxes=masks_to_boxes(masks),
        areas=mask_area(masks),
        predicted_iou=torch.arange(count) / 10,
        stability_score=torch.ones(count),
        points=torch.zeros(count, 2),
        crop_boxes=torch.tensor([0.0, 0.0, width, height]).expand(count, 4),
        image_size=(height, width),
    )


FOUR = build(4)


@pytest.mark.parametrize(
    ("index", "areas"),
    [
        pytest.param(1, [6], id="integer"),
        pytest.param(-1, [20], id="negative integer"),
        pytest.param(slice(1, 3), [6, 12], id="slice"),
        pytest.param([3, 0], [20, 2], id="list of integers"),
        pytest.param(torch.tensor([2, 2]), [12, 12], id="integer tensor"),
        pytest.param(torch.tensor(2), [12], id="scalar tensor"),
        pytest.param(FOUR.areas > 5, [6, 12, 20], id="boolean tensor"),
        pytest.param((FOUR.areas > 50).numpy(), [], id="boolean array, nothing"),
        pytest.param([], [], id="empty list"),
    ],
)
def test_indexing(index, areas):
    chosen = FOUR[index]
    assert len(chosen) == len(areas)
    assert chosen.areas.tolist() == areas
    assert mask_area(chosen.masks).tolist() == areas
    assert torch.equal(masks_to_boxes(chosen.masks), chosen.boxes)
    assert chosen.image_size == (6, 8)


def test_iteration_ends():
    assert [len(one) for one in FOUR] == [1, 1, 1, 1]


def test_nothing():
    empty = build(0)
    assert len(empty) == 0
    assert empty.masks.shape == (0, 6, 8)


def test_concatenate_is_the_inverse_of_slicing():
    joined = AutomaticMasks.concatenate([FOUR[:1], FOUR[1:1], FOUR[1:]])
    assert joined.rles == FOUR.rles
    assert torch.equal(joined.boxes, FOUR.boxes)
    assert torch.equal(joined.predicted_iou, FOUR.predicted_iou)


def test_parts_must_be_of_one_image_size():
    with pytest.raises(ValueError, match=r"one image size, got \[\(6, 8\), \(7, 8\)\]"):
        AutomaticMasks.concatenate([FOUR, build(2, height=7)])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"one length, got .*'rles': 3"):
        AutomaticMasks(**{**vars(FOUR), "rles": FOUR.rles[:3]})
