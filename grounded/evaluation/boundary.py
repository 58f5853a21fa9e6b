"""How well two masks agree along their boundaries."""

import math

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

# Share of the image diagonal by which boundaries may lie apart, as in the evaluation of DAVIS (Perazzi et al., 2016).
TOLERANCE = 0.008


def boundary_f_score(
    answer: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = TOLERANCE
) -> float:
    """Return the harmonic mean of boundary precision and boundary recall (Csurka et al., 2013; Perazzi et al., 2016).

    Precision is the share of the answer's boundary pixels that lie near the true boundary, recall the share of the
    true boundary pixels that lie near the answer's. Near is at most `tolerance` of the image diagonal, rounded up to
    whole pixels, between pixel centres. 1 where neither mask has a boundary, 0 where one alone has.

    Args:
        answer: the mask to judge.
        truth: of the same picture.
        tolerance: as a share of the diagonal.

    Raises:
        ValueError: the masks differ in size, or the tolerance is negative.
    """
    if answer.shape != truth.shape:
        raise ValueError(f"masks must be of one size, got {answer.shape} and {truth.shape}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    reach = math.ceil(tolerance * math.hypot(*truth.shape))
    window = _window(answer | truth)
    first, second = boundary(answer[window]), boundary(truth[window])
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    precision = float((_distances(second)[first] <= reach).mean())
    recall = float((_distances(first)[second] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask that have a neighbour outside it, out of four.

    The border of the picture is no boundary: what is cut off there has none.
    """
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def _window(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """The part of a picture that a mask lies in, with a rim of one pixel where the picture goes on."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - 1), int(rows[-1]) + 2),
        slice(max(0, int(columns[0]) - 1), int(columns[-1]) + 2),
    )


def _distances(edge: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Distance of each pixel to the nearest one of `edge`, in pixels."""
    return np.asarray(ndimage.distance_transform_edt(~edge), dtype=np.float64)
