import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.formats import label_studio_rle
from tests.grounded.output.test_polygons import MASKS, blob

LONG = {"longer than the longest run": np.repeat([[False, True, False]], 30_000, axis=1), "blob": blob(1, 256)}
CASES = MASKS | LONG


@pytest.mark.parametrize("mask", CASES.values(), ids=CASES)
def test_there_and_back(mask: np.ndarray):
    data = label_studio_rle.encode(mask)
    assert all(isinstance(byte, int) and 0 <= byte <= 255 for byte in data)
    np.testing.assert_array_equal(label_studio_rle.decode(data, mask.shape), mask)


def bytes_of(*numbers: tuple[int, int]) -> list[int]:
    """(value, bits) one after the other, filled up with zeros."""
    text = "".join(f"{value:0{bits}b}" for value, bits in numbers)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


HEAD = [(7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]


def test_two_pixels_written_out_by_hand():
    runs = [(1, 1), (0, 2), (3, 3), (0, 8), (1, 1), (0, 2), (3, 3), (255, 8)]
    assert label_studio_rle.encode(np.array([[False, True]])) == bytes_of((8, 32), *HEAD, *runs)


def test_values_one_by_one_and_smooth_edges():
    values = [1, 2, 3, 255, 9, 9, 9, 128, 9, 9, 9, 127]
    data = bytes_of((12, 32), *HEAD, (0, 1), (1, 2), (11, 4), *[(value, 8) for value in values])
    assert label_studio_rle.decode(data, (1, 3)).tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param([], "cut off after 0 bytes", id="nothing"),
        pytest.param(label_studio_rle.encode(np.eye(4, dtype=bool))[:-3], "cut off", id="cut off"),
        pytest.param(
            label_studio_rle.encode(np.eye(5, dtype=bool)),
            "must have 64 values, four for each pixel, got 100",
            id="size",
        ),
        pytest.param([256], "a list of bytes", id="no bytes"),
        pytest.param(["a"], "a list of bytes", id="texts"),
        pytest.param(bytes_of((64, 32), (15, 5), *HEAD[1:]), "values of 8 bits, got 16", id="width"),
    ],
)
def test_what_is_no_mask(data: list, message: str):
    with pytest.raises(ResultError, match=message):
        label_studio_rle.decode(data, (4, 4))
