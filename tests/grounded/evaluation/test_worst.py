import io

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ImageError
from grounded.evaluation.counts import Counts
from grounded.evaluation.labels import Picture
from grounded.evaluation.worst import worst_sheet
from tests.grounded.evaluation.made import answer, block, case, true

GREEN = (20, 120, 20)
SIZE = (60, 80)


def images(file: str) -> bytes:
    if "/" in file:
        raise ImageError(f"no such picture: {file}")
    buffer = io.BytesIO()
    Image.new("RGB", SIZE[::-1], GREEN).save(buffer, "PNG")
    return buffer.getvalue()


def picture(file: str = "a.png", answers: int = 1, asked: dict | None = None) -> Picture:
    mask, crowd = block(10, 10, 30, 30, SIZE), block(50, 30, 25, 25, SIZE)
    found = [answer("dog", mask, phrase="a dog")] * answers
    truths = [true("dog", mask), true("dog", crowd, is_crowd=True), true("cat", mask)]
    return Picture(case(truths, found, asked or {"a dog": "dog"}, file, SIZE), Counts(1, answers, answers, 1.0, 1.0))


def sides(sheet: Image.Image, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The truth and the answer of the first pair."""
    left, top, height = 12, 12 + 30, round(side * SIZE[0] / SIZE[1])
    pixels = np.asarray(sheet)[top : top + height]
    return pixels[:, left : left + side], pixels[:, left + side + 6 : left + 2 * side + 6]


def test_truth_beside_answer():
    truth, found = sides(worst_sheet([picture(answers=0)], images, 80), 80)
    assert not np.array_equal(truth, found)
    assert (found == GREEN).all(), "nothing was answered"
    assert tuple(truth[25, 30]) != GREEN and tuple(truth[5, 75]) == GREEN


def test_both_have_the_colours_of_the_phrase():
    truth, found = sides(worst_sheet([picture()], images, 80), 80)
    np.testing.assert_array_equal(truth[32:38, 15:35], found[32:38, 15:35])  # below the label


@pytest.mark.parametrize("file", ["a.png", "folder/a.png"])
def test_pictures_are_found_without_their_folders(file: str):
    _, found = sides(worst_sheet([picture(file)], images, 80), 80)
    assert tuple(found[5, 75]) == GREEN


def missing(file: str) -> bytes:
    raise FileNotFoundError(file)


def of_another_size(file: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50), GREEN).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "unreadable",
    [
        pytest.param(missing, id="missing"),
        pytest.param(lambda file: b"no picture", id="damaged"),
        pytest.param(of_another_size, id="of another size"),
    ],
)
def test_without_pictures_there_are_overlays(unreadable):
    truth, found = sides(worst_sheet([picture(answers=0)], unreadable, 80), 80)
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 2
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (2, 1), (5, 3)])
def test_the_sheet_grows(count: int, rows: int):
    sheet = worst_sheet([picture()] * count, images, 80)
    assert sheet.height == (12 + rows * (30 + 60 + 12) if count else 90)
    assert sheet.width >= 2 * 80
