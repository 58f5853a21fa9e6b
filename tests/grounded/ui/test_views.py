import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.ui import views
from grounded.ui.session import Click, Session, Work
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


def session(instances: Instances | None = None, **work: object) -> Session:
    instances = found() if instances is None else instances
    height, width = instances.image_size
    picture = SourceImage(Image.new("RGB", (width, height), (120, 130, 140)))
    return Session(picture=picture, work=Work(instances, **work))


def differing(a: Image.Image, b: Image.Image) -> np.ndarray:
    """(h, w) bool: where two pictures of one size differ."""
    return (np.asarray(a).astype(int) != np.asarray(b)).any(axis=-1)


@pytest.mark.parametrize(
    ("size", "screen"),
    [((120, 160), (160, 120)), ((1500, 3000), (1024, 512)), ((3000, 20), (7, 1024)), ((4000, 1), (1, 1024))],
    ids=["small enough", "wide", "narrow", "a line"],
)
def test_screen_is_no_larger_than_is_seen(size: tuple[int, int], screen: tuple[int, int]):
    assert views.Screen.of(SourceImage(Image.new("RGB", size[::-1]))).picture.size == screen


@pytest.mark.parametrize("scale", [1, 3], ids=["as it is", "scaled"])
def test_what_is_pressed_lies_in_the_mask_that_is_shown_there(scale: int):
    instances = found((700 * scale, 1000 * scale), (90.0 * scale, 40.0 * scale))
    source = session(instances).opened
    screen = views.Screen.of(source)
    masks = instances.masks
    shown = screen.masks(instances)
    assert shown.shape[1:] == screen.picture.size[::-1]
    for y, x in np.random.default_rng(0).integers(0, (700, 1000), (200, 2)).tolist():
        place = views.to_picture(source, float(x), float(y))
        for row in range(len(instances)):
            assert shown[row, y, x] == masks[row, int(place[1]), int(place[0])]


@pytest.mark.parametrize("n", [0, 1, 3], ids=["none", "one", "several"])
def test_instances_on_the_screen_keep_their_number_and_place(n: int):
    large = found((1600, 2048), (200.0, 150.0, 0.6)[:n])
    small = views.Screen.of(session(large).opened).instances(large)
    assert small.image_size == (800, 1024) and len(small) == n
    np.testing.assert_allclose(small.boxes, large.boxes / 2)
    # Also the mask of a single pixel is still there.
    assert all(mask.any() for mask in small.masks)


def test_one_mask_is_shown_as_it_is_among_others():
    large = found((1600, 2048), (200.0, 150.0, 90.0))
    screen = views.Screen.of(session(large).opened)
    together = screen.masks(large)
    for row in range(len(large)):
        np.testing.assert_array_equal(screen.masks(large[row])[0], together[row])


class TestAnnotated:
    def test_masks_are_translucent_with_an_opaque_outline(self):
        _, sections = views.annotated(session())
        for (shown, _), mask in zip(sections, found().masks, strict=True):
            np.testing.assert_array_equal(shown > 0, mask)
            values, counts = np.unique(shown[mask], return_counts=True)
            assert values.tolist() == pytest.approx([0.45, 1.0]) and counts[0] > counts[1] > 0

    def test_the_border_of_the_picture_is_no_outline(self):
        instances = replace(found(radii=(30,)), rles=tuple(encode_rle(np.ones((1, *SIZE), bool))))
        (shown, _), *_ = views.annotated(session(instances))[1]
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
        one = session(found(radii=(9, 8, 7)))
        _, sections = views.annotated(one, frozenset(hidden))
        assert [label for _, label in sections] == labels
        colours = views.colours(one.instances)
        assert set(labels) <= set(colours)
        assert colours["2 a cat"] == colours["3 a cat"] != colours["1 a dog"]

    def test_nothing_found(self):
        picture, sections = views.annotated(session(Instances.empty(PHRASES, SIZE)))
        assert picture.size == SIZE[::-1] and sections == []


class TestCanvas:
    def test_the_picture_alone_where_nothing_was_asked(self):
        fresh = replace(session(), work=None)
        assert views.canvas(fresh) is fresh.opened.pixels

    def test_the_selected_instance_is_clearer_than_the_others(self):
        plain = session().opened.pixels
        tint = [
            np.abs(np.asarray(views.canvas(session(selected=row))).astype(int) - np.asarray(plain))[60, x].sum()
            for row, x in ((0, 53), (1, 53))
        ]
        assert tint[0] > 2 * tint[1] > 0

    def test_a_hidden_phrase_is_not_drawn_unless_it_is_selected(self):
        plain, hidden = session().opened.pixels, frozenset({"a dog", "a cat"})
        assert not differing(views.canvas(session(), hidden), plain).any()
        assert differing(views.canvas(session(selected=0), hidden), plain)[60, 53]

    def test_points_are_told_apart_by_more_than_their_colour(self):
        marks = []
        for foreground in (True, False):
            picture = views.canvas(session(clicks=(Click(130.0, 20.0, foreground),)))
            marks.append(np.asarray(picture)[10:31, 120:141])
        # The plus is white above its middle, the minus is not.
        assert marks[0][7, 10].min() > 200 > marks[1][7, 10].min()
        assert marks[0][10, 10].min() > 200 and marks[1][10, 10].min() > 200

    def test_the_first_corner_of_a_box_is_marked(self):
        changed = differing(views.canvas(session(corner=(140.0, 20.0))), views.canvas(session()))
        rows, columns = np.nonzero(changed)
        assert abs(rows.mean() - 20) < 2 and abs(columns.mean() - 140) < 2

    def test_nothing_is_drawn_into_the_picture_of_the_session(self):
        one = session(selected=0, clicks=(Click(20.0, 20.0, True),))
        before = one.opened.pixels.tobytes()
        views.canvas(one)
        assert one.opened.pixels.tobytes() == before

    def test_it_can_be_sent_as_a_small_file(self):
        file = io.BytesIO()
        views.canvas(session(selected=0)).save(file, "JPEG")
        assert 0 < file.tell() < 100_000


def test_alternatives_are_small_and_say_what_the_segmenter_thinks():
    choices = found((1600, 2048), (200.0, 150.0, 90.0))
    pictures = views.alternatives(session(choices, alternatives=choices))
    assert [caption for _, caption in pictures] == ["predicted IoU 1.00"] * 3
    assert {picture.size for picture, _ in pictures} == {(512, 400)}
    assert views.alternatives(session()) == []


def test_table_has_a_row_for_each_instance():
    rows = views.table(found())
    assert {len(row) for row in rows} == {len(views.COLUMNS)}
    area = int(found().masks[0].sum())
    assert rows[0] == [1, "a dog", "0.900", "0.900", "–", "1.000", area, "detector"]
    assert views.table(Instances.empty(PHRASES, SIZE)) == []


def test_phrases_and_instances_to_choose_from():
    three = found(radii=(9, 8, 7))
    assert views.counts(three) == [("a dog (1)", "a dog"), ("a cat (2)", "a cat"), ("a mug (0)", "a mug")]
    assert views.names(three) == [("1 a dog", 0), ("2 a cat", 1), ("3 a cat", 2)]


NOTE = "scaled down from 4000 x 3000 to 2048 x 1536 pixels"


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        (Session(), ["Add a picture"]),
        (replace(session(), work=None), ["Picture of 160 × 120 pixels"]),
        (session(), ["2 instances: a dog (1), a cat (1). None of: a mug."]),
        (session(Instances.empty(PHRASES, SIZE)), ["Nothing was found. None of: a dog, a cat, a mug."]),
        (session(selected=1), ["2 instances", "Selected: 2 a cat."]),
        (session(selected=1, clicks=(Click(1.0, 2.0, True),)), ["2 instances", "Selected: 2 a cat, 1 point set."]),
        (session(corner=(1.0, 2.0)), ["2 instances", "Now press on the opposite corner"]),
        (
            replace(session(), picture=SourceImage(Image.new("RGB", SIZE[::-1]), notes=(NOTE,))),
            ["2 instances", f"The picture was {NOTE}."],
        ),
    ],
    ids=["no picture", "nothing asked", "found", "nothing found", "selected", "points", "a corner", "a note"],
)
def test_status_says_what_there_is(one: Session, lines: list[str]):
    told = views.status(one)
    assert len(told) == len(lines)
    for line, start in zip(told, lines, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("seconds", "ran", "line"),
    [
        ({}, (), ""),
        ({"open": 0.1, "detect": 0.25}, (), "Ran: detect 250 ms."),
        ({"detect": 0.25}, ("encode", "open", "detect"), "Ran: detect 250 ms. StageCache from before: encode."),
        ({}, ("encode",), "StageCache from before: encode."),
    ],
    ids=["nothing", "ran", "ran and kept", "kept"],
)
def test_times(seconds: dict[str, float], ran: tuple[str, ...], line: str):
    assert views.times(Session(seconds=seconds, ran=frozenset(ran))) == line
