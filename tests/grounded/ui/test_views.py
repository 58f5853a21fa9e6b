import colorsys
import io
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageColor

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.query import QuerySettings
from grounded.ui import views
from grounded.ui.state import AppState, Click, EditState
from grounded.ui.views import GREEN, RED, distinct_colours, read_strokes
from segany.utils.rle import encode_rle
from tests.data import disk

SIZE = (120, 160)
PHRASES = ("a dog", "a cat", "a mug")


def found(size: tuple[int, int] = SIZE, radii: tuple[float, ...] = (30, 12)) -> Instances:
    """Disks beside one another: the first a dog, all others cats, and no mug."""
    height, width = size
    n = len(radii)
    masks = [disk(height, width, width * (i + 1) / (n + 1), height / 2, radius) for i, radius in enumerate(radii)]
    scores = np.linspace(0.9, 0.5, n, dtype=np.float32)
    return Instances(
        phrases=PHRASES,
        image_size=size,
        phrase_ids=np.minimum(np.arange(n), 1).astype(np.int64),
        boxes=np.tile(np.array([10, 20, 60, 80], np.float32), (n, 1)),
        rles=tuple(encode_rle(np.array(masks, bool).reshape(n, height, width))),
        scores=scores,
        detector_scores=scores,
        clip_scores=np.full(n, np.nan, np.float32),
        predicted_iou=np.ones(n, np.float32),
        phrase_scores=np.zeros((n, len(PHRASES)), np.float32),
        sources=np.full(n, "detector"),
    )


def state(instances: Instances | None = None, hidden: frozenset[str] = frozenset(), **edits: object) -> AppState:
    instances = found() if instances is None else instances
    height, width = instances.image_size
    image = SourceImage(Image.new("RGB", (width, height), (120, 130, 140)))
    return AppState(image=image, edits=EditState(instances, **edits), hidden=hidden)


def differing(a: Image.Image, b: Image.Image) -> np.ndarray:
    """(h, w) bool: where two images of one size differ."""
    return (np.asarray(a).astype(int) != np.asarray(b)).any(axis=-1)


@pytest.mark.parametrize(
    ("size", "screen"),
    [((120, 160), (160, 120)), ((1500, 3000), (1024, 512)), ((3000, 20), (7, 1024)), ((4000, 1), (1, 1024))],
    ids=["small enough", "wide", "narrow", "a line"],
)
def test_screen_is_no_larger_than_is_seen(size: tuple[int, int], screen: tuple[int, int]):
    assert views.ScreenImage.from_source(SourceImage(Image.new("RGB", size[::-1]))).pixels.size == screen


@pytest.mark.parametrize("scale", [1, 3], ids=["as it is", "scaled"])
def test_what_is_pressed_lies_in_the_mask_that_is_shown_there(scale: int):
    instances = found((700 * scale, 1000 * scale), (90.0 * scale, 40.0 * scale))
    source = state(instances).require_image()
    screen = views.ScreenImage.from_source(source)
    masks = instances.masks
    shown = screen.masks(instances)
    assert shown.shape[1:] == screen.pixels.size[::-1]
    for y, x in np.random.default_rng(0).integers(0, (700, 1000), (200, 2)).tolist():
        place = views.screen_to_image(source, float(x), float(y))
        for row in range(len(instances)):
            assert shown[row, y, x] == masks[row, int(place[1]), int(place[0])]


@pytest.mark.parametrize("n", [0, 1, 3], ids=["none", "one", "several"])
def test_instances_on_the_screen_keep_their_number_and_place(n: int):
    large = found((1600, 2048), (200.0, 150.0, 0.6)[:n])
    small = views.ScreenImage.from_source(state(large).require_image()).instances(large)
    assert small.image_size == (800, 1024) and len(small) == n
    np.testing.assert_allclose(small.boxes, large.boxes / 2)
    # Also the mask of a single pixel is still there.
    assert all(mask.any() for mask in small.masks)


def test_one_mask_is_shown_as_it_is_among_others():
    large = found((1600, 2048), (200.0, 150.0, 90.0))
    screen = views.ScreenImage.from_source(state(large).require_image())
    together = screen.masks(large)
    for row in range(len(large)):
        np.testing.assert_array_equal(screen.masks(large[row])[0], together[row])


class TestAnnotated:
    def test_masks_are_translucent_with_an_opaque_outline(self):
        _, sections = views.annotated_image(state())
        for (shown, _), mask in zip(sections, found().masks, strict=True):
            np.testing.assert_array_equal(shown > 0, mask)
            values, counts = np.unique(shown[mask], return_counts=True)
            assert values.tolist() == pytest.approx([0.45, 1.0]) and counts[0] > counts[1] > 0

    def test_the_border_of_the_image_is_no_outline(self):
        instances = replace(found(radii=(30,)), rles=tuple(encode_rle(np.ones((1, *SIZE), bool))))
        (shown, _), *_ = views.annotated_image(state(instances))[1]
        assert shown.max() < 0.5 and shown.min() > 0.4

    @pytest.mark.parametrize(
        ("hidden", "labels"),
        [
            ((), ["1 a dog", "2 a cat", "3 a cat"]),
            (("a dog",), ["2 a cat", "3 a cat"]),
            (("a cat", "a dog"), []),
            (("a bird",), ["1 a dog", "2 a cat", "3 a cat"]),
        ],
        ids=["all", "one hidden", "all hidden", "another hidden"],
    )
    def test_labels_keep_their_numbers(self, hidden: tuple[str, ...], labels: list[str]):
        one = state(found(radii=(9, 8, 7)), hidden=frozenset(hidden))
        _, sections = views.annotated_image(one)
        assert [label for _, label in sections] == labels
        colours = views.label_colours(one.instances)
        assert set(labels) <= set(colours)
        assert colours["2 a cat"] == colours["3 a cat"] != colours["1 a dog"]

    def test_nothing_found(self):
        image, sections = views.annotated_image(state(Instances.empty(PHRASES, SIZE)))
        assert image.size == SIZE[::-1] and sections == []


class TestCanvas:
    def test_the_image_alone_before_a_query(self):
        fresh = replace(state(), edits=None)
        assert views.canvas_image(fresh) is fresh.require_image().pixels

    def test_the_selected_instance_is_clearer_than_the_others(self):
        plain = state().require_image().pixels
        tint = [
            np.abs(np.asarray(views.canvas_image(state(selected=row))).astype(int) - np.asarray(plain))[60, x].sum()
            for row, x in ((0, 53), (1, 53))
        ]
        assert tint[0] > 2 * tint[1] > 0

    def test_a_hidden_phrase_is_not_drawn_unless_it_is_selected(self):
        plain, hidden = state().require_image().pixels, frozenset({"a dog", "a cat"})
        assert not differing(views.canvas_image(state(hidden=hidden)), plain).any()
        assert differing(views.canvas_image(state(hidden=hidden, selected=0)), plain)[60, 53]

    def test_points_are_told_apart_by_more_than_their_colour(self):
        marks = []
        for foreground in (True, False):
            image = views.canvas_image(state(clicks=(Click(130.0, 20.0, foreground),)))
            marks.append(np.asarray(image)[10:31, 120:141])
        # The plus is white above its middle, the minus is not.
        assert marks[0][7, 10].min() > 200 > marks[1][7, 10].min()
        assert marks[0][10, 10].min() > 200 and marks[1][10, 10].min() > 200

    def test_the_first_corner_of_a_box_is_marked(self):
        changed = differing(views.canvas_image(state(corner=(140.0, 20.0))), views.canvas_image(state()))
        rows, columns = np.nonzero(changed)
        assert abs(rows.mean() - 20) < 2 and abs(columns.mean() - 140) < 2

    def test_nothing_is_drawn_into_the_image_of_the_state(self):
        one = state(selected=0, clicks=(Click(20.0, 20.0, True),))
        before = one.require_image().pixels.tobytes()
        views.canvas_image(one)
        assert one.require_image().pixels.tobytes() == before

    def test_it_can_be_sent_as_a_small_file(self):
        file = io.BytesIO()
        views.canvas_image(state(selected=0)).save(file, "JPEG")
        assert 0 < file.tell() < 100_000


def test_alternatives_are_small_and_say_what_the_segmenter_thinks():
    choices = found((1600, 2048), (200.0, 150.0, 90.0))
    images = views.alternative_images(state(choices, alternatives=choices))
    assert [caption for _, caption in images] == ["predicted IoU 1.00"] * 3
    assert {image.size for image, _ in images} == {(512, 400)}
    assert views.alternative_images(state()) == []


def test_table_has_a_row_for_each_instance():
    rows = views.instance_table(found())
    assert {len(row) for row in rows} == {len(views.COLUMNS)}
    area = int(found().masks[0].sum())
    assert rows[0] == [1, "a dog", "0.900", "0.900", "–", "1.000", area, "detector"]
    assert views.instance_table(Instances.empty(PHRASES, SIZE)) == []


def test_phrases_and_instances_to_choose_from():
    three = found(radii=(9, 8, 7))
    assert views.phrase_choices(three) == [("a dog (1)", "a dog"), ("a cat (2)", "a cat"), ("a mug (0)", "a mug")]
    assert views.instance_choices(three) == [("1 a dog", 0), ("2 a cat", 1), ("3 a cat", 2)]


NOTE = "scaled down from 4000 x 3000 to 2048 x 1536 pixels"


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        (AppState(), ["Add an image"]),
        (replace(state(), edits=None), ["Image of 160 × 120 pixels"]),
        (state(), ["2 instances: a dog (1), a cat (1). None of: a mug."]),
        (state(Instances.empty(PHRASES, SIZE)), ["Nothing was found. None of: a dog, a cat, a mug."]),
        (
            replace(state(), last_query=('"a dog" | a cat?', QuerySettings())),
            ["2 instances", "Phrases: “a dog”, “a cat”."],
        ),
        (state(selected=1), ["2 instances", "Selected: 2 a cat."]),
        (state(selected=1, clicks=(Click(1.0, 2.0, True),)), ["2 instances", "Selected: 2 a cat, 1 point set."]),
        (state(corner=(1.0, 2.0)), ["2 instances", "Now press on the opposite corner"]),
        (
            replace(state(), image=SourceImage(Image.new("RGB", SIZE[::-1]), notes=(NOTE,))),
            ["2 instances", f"The image was {NOTE}."],
        ),
        (
            state(replace(Instances.empty(PHRASES, SIZE), notes=("the detector cannot read 'a mug'",))),
            ["Nothing was found.", "The detector cannot read 'a mug'."],
        ),
    ],
    ids=[
        "no image",
        "no query",
        "found",
        "nothing found",
        "understood",
        "selected",
        "points",
        "a corner",
        "a note",
        "unread",
    ],
)
def test_status_says_what_there_is(one: AppState, lines: list[str]):
    shown = views.status_lines(one)
    assert len(shown) == len(lines)
    for line, start in zip(shown, lines, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("seconds", "ran", "line"),
    [
        ({}, (), ""),
        ({"open": 0.1, "detect": 0.25}, (), "Ran: detect 250 ms."),
        ({"detect": 0.25}, ("encode", "open", "detect"), "Ran: detect 250 ms. Kept from before: encode."),
        ({}, ("encode",), "Kept from before: encode."),
    ],
    ids=["nothing", "ran", "ran and kept", "kept"],
)
def test_times(seconds: dict[str, float], ran: tuple[str, ...], line: str):
    assert views.seconds_line(AppState(seconds=seconds, stages_run=frozenset(ran))) == line


@pytest.mark.parametrize("count", [0, 1, 300])
def test_every_mask_has_a_colour_of_its_own(count: int):
    colours = distinct_colours(count)
    assert len(set(colours)) == count
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


def test_more_masks_leave_the_colours_of_the_others():
    assert distinct_colours(30)[:10] == distinct_colours(10)


def test_neighbours_are_far_apart():
    hues = [colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0] for c in distinct_colours(100)]
    assert min(min(abs(a - b), 1 - abs(a - b)) for a, b in pairwise(hues)) > 0.3


DRAWING_SIZE = (40, 60)


def layer(*boxes: tuple[str, int, int, int, int], size: tuple[int, int] = DRAWING_SIZE, alpha: int = 255) -> np.ndarray:
    """RGBA with boxes of (colour, x0, y0, x1, y1) painted on it one after the other."""
    image = np.zeros((*size, 4), np.uint8)
    for colour, x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = (*ImageColor.getrgb(colour), alpha)
    return image


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(DRAWING_SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("layers", "brush", "eraser"),
    [
        ([], None, None),
        ([layer()], None, None),
        ([layer((GREEN, 2, 4, 10, 12))], box(2, 4, 10, 12), None),
        ([layer((RED, 2, 4, 10, 12))], None, box(2, 4, 10, 12)),
        ([layer((GREEN, 2, 4, 10, 12), (RED, 20, 4, 30, 12))], box(2, 4, 10, 12), box(20, 4, 30, 12)),
        ([layer((GREEN, 0, 0, 10, 10)), layer((RED, 5, 0, 15, 10))], box(0, 0, 5, 10), box(5, 0, 15, 10)),
        ([layer((GREEN, 1, 2, 5, 6), size=(20, 30))], box(2, 4, 10, 12), None),
        ([layer((GREEN, 2, 4, 10, 12), alpha=20)], None, None),
    ],
    ids=["no layer", "empty", "brush", "eraser", "both", "the later one lies above", "scaled up", "too faint"],
)
def test_strokes(layers: list[np.ndarray], brush: np.ndarray | None, eraser: np.ndarray | None):
    for mask, expected in zip(read_strokes(layers, DRAWING_SIZE), (brush, eraser), strict=True):
        if expected is None:
            assert mask is None
        else:
            np.testing.assert_array_equal(mask, expected)
