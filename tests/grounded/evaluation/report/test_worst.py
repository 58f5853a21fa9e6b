import io

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ImageError
from grounded.evaluation.evaluate import ImageResult
from grounded.evaluation.matching import Counts
from grounded.evaluation.report.worst import draw_worst
from tests.grounded.evaluation.made import block, image_pair, predicted, target

GREEN = (20, 120, 20)
SIZE = (60, 80)


def read_image(file: str) -> bytes:
    if "/" in file:
        raise ImageError(f"no such image: {file}")
    buffer = io.BytesIO()
    Image.new("RGB", SIZE[::-1], GREEN).save(buffer, "PNG")
    return buffer.getvalue()


def result(file: str = "a.png", predictions: int = 1, prompt: dict | None = None) -> ImageResult:
    mask, crowd = block(10, 10, 30, 30, SIZE), block(50, 30, 25, 25, SIZE)
    found = [predicted("dog", mask, phrase="a dog")] * predictions
    targets = [target("dog", mask), target("dog", crowd, is_crowd=True), target("cat", mask)]
    pair = image_pair(targets, found, prompt or {"a dog": "dog"}, file, SIZE)
    return ImageResult(pair, Counts(1, predictions, predictions, 1.0, 1.0))


def sides(sheet: Image.Image, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth and the predictions of the first pair."""
    left, top, height = 12, 12 + 30, round(side * SIZE[0] / SIZE[1])
    pixels = np.asarray(sheet)[top : top + height]
    return pixels[:, left : left + side], pixels[:, left + side + 6 : left + 2 * side + 6]


def test_ground_truth_beside_predictions():
    truth, found = sides(draw_worst([result(predictions=0)], read_image, 80), 80)
    assert not np.array_equal(truth, found)
    assert (found == GREEN).all(), "nothing was predicted"
    assert tuple(truth[25, 30]) != GREEN and tuple(truth[5, 75]) == GREEN


def test_both_have_the_colours_of_the_phrase():
    truth, found = sides(draw_worst([result()], read_image, 80), 80)
    np.testing.assert_array_equal(truth[32:38, 15:35], found[32:38, 15:35])  # below the label


@pytest.mark.parametrize("file", ["a.png", "folder/a.png"])
def test_images_are_found_without_their_folders(file: str):
    _, found = sides(draw_worst([result(file)], read_image, 80), 80)
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
        pytest.param(lambda file: b"no image", id="damaged"),
        pytest.param(of_another_size, id="of another size"),
    ],
)
def test_without_images_there_are_overlays(unreadable):
    truth, found = sides(draw_worst([result(predictions=0)], unreadable, 80), 80)
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 2
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (2, 1), (5, 3)])
def test_the_sheet_grows(count: int, rows: int):
    sheet = draw_worst([result()] * count, read_image, 80)
    assert sheet.height == (12 + rows * (30 + 60 + 12) if count else 90)
    assert sheet.width >= 2 * 80
