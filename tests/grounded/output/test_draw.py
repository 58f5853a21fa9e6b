import numpy as np
import pytest
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ImageError
from grounded.output.draw import draw, phrase_colour
from segany.utils.rle import encode_rle
from tests.data import disk


def instances_of(masks: np.ndarray, labels: list[str], boxes: list | None = None) -> Instances:
    phrases, n = tuple(dict.fromkeys(labels)), len(labels)
    scores = np.linspace(0.9, 0.5, n, dtype=np.float32)
    tight = [[np.nonzero(m)[1].min(), np.nonzero(m)[0].min(), *(np.argwhere(m).max(0)[::-1] + 1)] for m in masks]
    return Instances(
        phrases=phrases,
        image_size=masks.shape[1:],
        phrase_ids=np.array([phrases.index(label) for label in labels]),
        boxes=np.array(tight if boxes is None else boxes, np.float32).reshape(n, 4),
        rles=tuple(encode_rle(masks)),
        scores=scores,
        detector_scores=scores,
        clip_scores=np.full(n, np.nan, np.float32),
        predicted_iou=scores,
        phrase_scores=np.zeros((n, len(phrases)), np.float32),
        sources=np.array(["detector"] * n),
    )


GREY = np.full((200, 300, 3), 128, np.uint8)


def changed(overlay: Image.Image) -> np.ndarray:
    return (np.asarray(overlay) != GREY).any(axis=2)


def test_paints_the_mask_and_leaves_the_rest():
    mask = disk(200, 300, 150, 130, 50)
    difference = changed(draw(GREY, instances_of(mask[None], ["dog"])))
    assert difference[mask].all()
    far_away = np.ones_like(mask)
    far_away[50:190, 90:210] = False  # the disk with its outline, and the label above its box
    assert not difference[far_away].any()


def test_inside_is_a_blend_of_image_and_colour():
    mask = disk(200, 300, 150, 130, 50)
    overlay = np.asarray(draw(GREY, instances_of(mask[None], ["dog"]), opacity=0.25))
    np.testing.assert_allclose(overlay[130, 150], 0.75 * 128 + 0.25 * np.array(phrase_colour("dog")), atol=1)


def test_no_instances():
    empty = Instances.empty(("dog",), (200, 300))
    np.testing.assert_array_equal(np.asarray(draw(GREY, empty)), GREY)


def test_small_masks_lie_above_large_ones():
    large, small = disk(200, 300, 150, 100, 90), disk(200, 300, 150, 100, 30)
    one = np.asarray(
        draw(GREY, instances_of(np.stack([large, small]), ["dog", "pizza"]), opacity=1.0, show_scores=False)
    )
    np.testing.assert_allclose(one[100, 150], phrase_colour("pizza"), atol=1)


def test_the_image_given_is_not_changed():
    image = Image.fromarray(GREY)
    draw(image, instances_of(disk(200, 300, 150, 130, 50)[None], ["dog"]))
    np.testing.assert_array_equal(np.asarray(image), GREY)


@pytest.mark.parametrize(
    ("size", "box", "label"),
    [
        pytest.param((200, 300), [0, 0, 300, 200], "dog", id="whole image"),
        pytest.param((200, 300), [290, 190, 300, 200], "a rather long phrase", id="lower right corner"),
        pytest.param((200, 300), [-20, -20, 5, 5], "dog", id="box beyond the border"),
        pytest.param((200, 300), [10, 10, 20, 20], "a phrase that goes on and on " * 5, id="wider than the image"),
        pytest.param((8, 8), [0, 0, 8, 8], "dog", id="smaller than a label"),
        pytest.param((1, 1), [0, 0, 1, 1], "dog", id="one pixel"),
        pytest.param((4, 900), [0, 0, 900, 4], "dog", id="a strip"),
        pytest.param((200, 300), [10, 10, 90, 90], "猫\n", id="letters that the font lacks"),
    ],
)
def test_labels_of_every_place_and_size(size: tuple[int, int], box: list[float], label: str):
    mask = np.ones((1, *size), bool)
    image = np.full((*size, 3), 128, np.uint8)
    assert draw(image, instances_of(mask, [label], [box])).size == size[::-1]


def test_labels_are_seen_whole_at_the_border():
    """The plate of a label in the corner covers as many pixels as that of one amid the image."""
    mask = np.zeros((1, 200, 300), bool)
    mask[0, 100, 150] = True
    plates = [
        changed(draw(GREY, instances_of(mask, ["dog"], [box]))).sum()
        for box in ([150, 150, 160, 160], [298, 0, 300, 2], [0, 198, 3, 200])
    ]
    assert max(plates) - min(plates) <= 0.05 * max(plates)


def test_labels_do_not_cover_each_other():
    masks = np.zeros((3, 200, 300), bool)
    masks[:, 100, 150] = True
    box = [100, 80, 200, 150]
    single = changed(draw(GREY, instances_of(masks[:1], ["dog"], [box]), show_scores=False)).sum()
    triple = changed(draw(GREY, instances_of(masks, ["dog"] * 3, [box] * 3), show_scores=False)).sum()
    assert triple > 2.7 * single


def test_colours_are_those_of_the_phrase():
    assert phrase_colour("dog") == (188, 18, 226)  # in every process
    assert len({phrase_colour(phrase) for phrase in ("dog", "cat", "pizza", "a dog", "red mug")}) == 5


def test_image_of_another_size():
    with pytest.raises(ImageError, match=r"must be of \(height, width\) \(100, 90\), got \(200, 300\)"):
        draw(GREY, Instances.empty(("dog",), (100, 90)))
