"""Windows around instances, and the masks that improve in them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.data.instances import Instances
from grounded.stages.prompt import PromptGroup
from grounded.stages.segment import segment
from grounded.stages.zoom import Window, window_around, zoom
from segany import Prompts
from segany.utils.rle import decode_rle, encode_rle
from tests.data import PICNIC, disk, picnic_truth

SIZE = (480, 640)


@pytest.mark.parametrize(
    ("box", "scale", "expected"),
    [
        pytest.param((300, 200, 340, 220), 3.0, (256, 144, 384, 272), id="in the middle"),
        pytest.param((0, 0, 40, 40), 3.0, (0, 0, 128, 128), id="moved inwards from the corner"),
        pytest.param((600, 440, 640, 480), 3.0, (512, 352, 640, 480), id="from the other corner"),
        pytest.param((10, 100, 12, 102), 3.0, (0, 68, 64, 132), id="a dot"),
        pytest.param((300, 100, 460, 110), 3.0, (128, 0, 640, 480), id="as high as the image"),
        pytest.param((300.5, 200.5, 340.5, 220.5), 3.0, (256, 144, 384, 272), id="between pixels"),
        pytest.param((300, 200, 300, 200), 3.0, (268, 168, 332, 232), id="without area"),
        pytest.param((0, 0, 300, 300), 3.0, None, id="nearly the whole image"),
        pytest.param((np.nan,) * 4, 3.0, None, id="no numbers"),
    ],
)
def test_window_around(box: tuple[float, ...], scale: float, expected: tuple[int, ...] | None):
    window = window_around(np.array(box, dtype=np.float32), SIZE, scale)
    assert window == (None if expected is None else Window(*expected, image_size=SIZE))


def test_a_box_found_a_little_elsewhere_mostly_gets_the_same_window():
    rng = np.random.default_rng(0)
    first = np.concatenate([corner := rng.uniform(50, 350, (300, 2)), corner + rng.uniform(30, 90, (300, 2))], 1)
    again = first + rng.normal(0, 0.5, first.shape)
    windows = [[window_around(box.astype(np.float32), SIZE, 3.0) for box in boxes] for boxes in (first, again)]
    same = np.mean([one == other for one, other in zip(*windows, strict=True)])
    assert same > 0.75
    for (x0, y0, x1, y1), window in zip(first, windows[0], strict=True):
        assert window is not None
        assert window.x0 <= x0 and window.y0 <= y0 and x1 <= window.x1 and y1 <= window.y1
        assert max(window.size) <= 2**0.25 * 3 * max(x1 - x0, y1 - y0) + 2


@pytest.mark.parametrize("size", [(1, 1), (60, 70)], ids=str)
def test_a_small_image_has_no_windows(size: tuple[int, int]):
    assert window_around(np.array([0.0, 0.0, 1.0, 1.0]), size, 3.0) is None


class TestWindow:
    window = Window(100, 50, 300, 150, image_size=SIZE)

    def test_places_go_in(self):
        assert self.window.points_from_image(torch.tensor([[100.0, 50.0], [120.0, 60.0]])).tolist() == [
            [0, 0],
            [20, 10],
        ]
        box = np.array([90.0, 60.0, 350.0, 140.0], dtype=np.float32)
        assert self.window.box_from_image(box).tolist() == [0, 10, 200, 90]

    def test_masks_go_in_and_out(self):
        inside = disk(*SIZE, 200, 100, 30)
        cut = self.window.crop_mask(inside)
        assert cut.shape == self.window.size == (100, 200)
        (rle,) = self.window.masks_to_image(torch.from_numpy(cut)[None])
        np.testing.assert_array_equal(decode_rle([rle])[0].numpy(), inside)

    def test_images_go_in(self):
        image = Image.open(PICNIC).convert("RGB")
        expected = np.asarray(image)[50:150, 100:300]
        np.testing.assert_array_equal(np.asarray(image.crop(self.window.corners)), expected)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.open(PICNIC).convert("RGB")


def zoomed(predictor, image: Image.Image, prompts: Prompts, scale: float = 3.0) -> list[tuple[np.ndarray, float]]:
    """The mask and predicted IoU of each prompt, before and after in one: all instances are distinct phrases."""
    first = segmented(predictor, predictor.encode(image), prompts)
    found = zoom(
        predictor, first, prompts, scale, 0.8, None, encode=lambda window: predictor.encode(image.crop(window.corners))
    )
    rows = np.argsort(found.phrase_ids)
    return [(found.masks[row], float(found.predicted_iou[row])) for row in rows]


def segmented(predictor, embedding, prompts: Prompts) -> Instances:
    """One instance per prompt, each of a phrase of its own, without the zoom."""
    count = len(prompts)
    phrases = tuple(f"phrase {i}" for i in range(count))
    return segment(predictor, embedding, PromptGroup("text", prompts, np.arange(count)), phrases)


def small_things() -> tuple[list[np.ndarray], Prompts]:
    """True masks of the example whose boxes are small, and the boxes."""
    masks = [mask for several in picnic_truth().values() for mask in several]
    boxes = []
    for mask in masks:
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1.0, ys.max() + 1.0])
    sides = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
    rows = [row for row, side in enumerate(sides) if side * 3 <= 0.8 * 640]
    return [masks[row] for row in rows], Prompts(boxes=torch.tensor(boxes)[rows].float())


def test_small_things_gain(predictor, embedding, image: Image.Image):
    truths, prompts = small_things()
    assert len(truths) >= 3
    first = predictor.predict(embedding, prompts, multimask_output=False).masks[:, 0].numpy()
    closer = zoomed(predictor, image, prompts)
    assert len(closer) == len(truths)

    def mean_iou(masks: list[np.ndarray]) -> float:
        return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(masks, truths, strict=True)]))

    assert mean_iou([mask for mask, _ in closer]) > mean_iou(list(first)) + 0.01


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param(Prompts(boxes=torch.tensor([[0.0, 0.0, 600.0, 400.0]])), id="large"),
        pytest.param(Prompts(boxes=torch.zeros(0, 4)), id="none"),
        pytest.param(Prompts(points=torch.tensor([[[470.0, 270.0]]]), point_labels=torch.tensor([[1]])), id="no boxes"),
    ],
)
def test_others_stay_as_they_are(predictor, embedding, prompts: Prompts):
    first = segmented(predictor, embedding, prompts)
    found = zoom(predictor, first, prompts, 3.0, 0.8, None, encode=pytest.fail)
    assert found.to_dict() == first.to_dict()


def test_duplicates_and_empty_masks_go_first(predictor, embedding, image: Image.Image):
    _, prompts = small_things()
    first = segmented(predictor, embedding, prompts[[0, 0, 1]])
    none = encode_rle(np.zeros((1, 480, 640), bool))[0]
    first = replace(first, rles=(*first.rles[:2], none), phrase_ids=np.zeros(3, np.int64))
    found = zoom(
        predictor,
        first,
        prompts[[0, 0, 1]],
        3.0,
        0.8,
        None,
        encode=lambda window: predictor.encode(image.crop(window.corners)),
    )
    assert len(found) == 1


def test_points_outside_the_window_do_not_count(predictor, image: Image.Image):
    _, prompts = small_things()
    one = prompts[[0]]
    box = one.boxes
    assert box is not None
    middle = (box[:, :2] + box[:, 2:])[:, None] / 2
    far = torch.tensor([[[639.0, 479.0]]]) if middle[0, 0, 0] < 320 else torch.tensor([[[1.0, 1.0]]])

    def asked(*points: torch.Tensor) -> np.ndarray:
        labels = torch.ones(1, len(points), dtype=torch.int64)
        given = Prompts(boxes=box, points=torch.cat(points, 1), point_labels=labels)
        return zoomed(predictor, image, given)[0][0]

    np.testing.assert_array_equal(asked(middle, far), asked(middle))


def test_each_instance_alone_equals_all(predictor, image: Image.Image):
    _, prompts = small_things()
    together = zoomed(predictor, image, prompts)
    for row in range(len(prompts)):
        np.testing.assert_array_equal(zoomed(predictor, image, prompts[[row]])[0][0], together[row][0])
