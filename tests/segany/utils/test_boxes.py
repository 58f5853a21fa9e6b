import pytest
import torch

from segany.utils import boxes

XYXY = torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 10.0, 1.0]])
CXCYWH = torch.tensor([[2.5, 5.0, 3.0, 6.0], [5.0, 0.5, 10.0, 1.0]])


@pytest.mark.parametrize("index", [slice(None), 0, None, slice(0, 0)], ids=["two", "one", "more axes", "none"])
def test_cxcywh_to_xyxy(index):
    assert torch.equal(boxes.cxcywh_to_xyxy(CXCYWH[index]), XYXY[index])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([1, 2, 3, 4], [1, 2, 3, 4], id="inside"),
        pytest.param([-5, -1, 30, 40], [0, 0, 20, 10], id="around"),
        pytest.param([25, 12, 30, 15], [20, 10, 20, 10], id="outside"),
    ],
)
def test_clip_boxes(box, expected):
    clipped = boxes.clip_boxes(torch.tensor([box], dtype=torch.float32), image_size=(10, 20))
    assert clipped.tolist() == [expected]


@pytest.mark.parametrize(
    ("box", "area"),
    [
        pytest.param([1, 2, 4, 8], 18, id="plain"),
        pytest.param([3, 3, 3, 9], 0, id="no width"),
        pytest.param([4, 8, 1, 2], 0, id="corners out of order"),
    ],
)
def test_box_area(box, area):
    assert boxes.box_area(torch.tensor(box, dtype=torch.float32)).item() == area


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        pytest.param([0, 0, 2, 2], [0, 0, 2, 2], 1.0, id="same"),
        pytest.param([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, id="half"),
        pytest.param([0, 0, 4, 4], [1, 1, 3, 3], 0.25, id="inside"),
        pytest.param([0, 0, 1, 1], [1, 1, 2, 2], 0.0, id="touching"),
        pytest.param([0, 0, 1, 1], [5, 5, 6, 6], 0.0, id="apart"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0.0, id="no area"),
    ],
)
def test_box_iou(a, b, iou):
    a, b = torch.tensor([a, a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    assert boxes.box_iou(a, b).flatten().tolist() == pytest.approx([iou, iou])


def test_box_iou_of_nothing():
    assert boxes.box_iou(torch.zeros(0, 4), XYXY).shape == (0, 2)
    assert boxes.box_iou(XYXY, torch.zeros(0, 4)).shape == (2, 0)


# The second overlaps the first with IoU 0.8, the third overlaps neither.
CLUSTER = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [20.0, 20.0, 30.0, 30.0]])


@pytest.mark.parametrize(
    ("scores", "threshold", "kept"),
    [
        pytest.param([0.9, 0.8, 0.7], 0.5, [0, 2], id="first of the cluster scores higher"),
        pytest.param([0.8, 0.9, 0.7], 0.5, [1, 2], id="second of the cluster scores higher"),
        pytest.param([0.7, 0.8, 0.9], 0.85, [2, 1, 0], id="threshold above the overlap"),
        pytest.param([0.5, 0.5, 0.5], 0.5, [0, 2], id="equal scores keep their order"),
    ],
)
def test_nms(scores, threshold, kept):
    assert boxes.nms(CLUSTER, torch.tensor(scores), threshold).tolist() == kept


@pytest.mark.parametrize(
    ("class_ids", "kept"),
    [
        pytest.param([0, 0, 0], [0, 2], id="one class"),
        pytest.param([0, 1, 0], [0, 1, 2], id="the overlapping box is of another class"),
        pytest.param([5, 5, 1], [0, 2], id="class ids need not be dense"),
    ],
)
def test_batched_nms(class_ids, kept):
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert boxes.batched_nms(CLUSTER, scores, torch.tensor(class_ids), 0.5).tolist() == kept


def test_nms_of_as_many_boxes_as_a_fine_grid_of_points_gives():
    corners = torch.rand(12_288, 2, generator=torch.Generator().manual_seed(0)) * 1000
    many = torch.cat([corners, corners + 5], dim=1)
    scores = torch.linspace(0, 1, len(many))
    assert boxes.nms(many, scores, 1.0).tolist() == list(range(len(many)))[::-1]
    assert 1000 < len(boxes.nms(many, scores, 0.5)) < len(many)


def test_nms_of_nothing():
    assert boxes.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert boxes.batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)


@pytest.mark.parametrize(
    ("other", "iou", "giou"),
    [
        pytest.param((0, 0, 2, 2), 1.0, 1.0, id="the same"),
        pytest.param((1, 0, 3, 2), 1 / 3, 1 / 3, id="half"),
        pytest.param((2, 0, 4, 2), 0.0, 0.0, id="side by side"),
        pytest.param((4, 0, 6, 2), 0.0, -1 / 3, id="apart"),
    ],
)
def test_generalised_iou(other: tuple[float, ...], iou: float, giou: float):
    found = boxes.generalised_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor(other, dtype=torch.float32))
    assert [float(one) for one in found] == pytest.approx([iou, giou], abs=1e-5)
