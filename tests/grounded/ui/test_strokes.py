import numpy as np
import pytest
from PIL import ImageColor

from grounded.ui.strokes import GREEN, RED, strokes

SIZE = (40, 60)


def layer(*boxes: tuple[str, int, int, int, int], size: tuple[int, int] = SIZE, alpha: int = 255) -> np.ndarray:
    """RGBA with boxes of (colour, x0, y0, x1, y1) painted on it one after the other."""
    picture = np.zeros((*size, 4), np.uint8)
    for colour, x0, y0, x1, y1 in boxes:
        picture[y0:y1, x0:x1] = (*ImageColor.getrgb(colour), alpha)
    return picture


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
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
    for mask, expected in zip(strokes(layers, SIZE), (brush, eraser), strict=True):
        if expected is None:
            assert mask is None
        else:
            np.testing.assert_array_equal(mask, expected)
