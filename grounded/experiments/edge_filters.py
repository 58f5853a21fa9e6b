"""Edge detectors without a model, Sobel's and Canny's, and what they share with others: gradients and thin ridges.

Maps are (height, width); a gradient is its (row, column) components. Image borders are continued by their outermost
pixels, so that a border is no edge.
"""

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from scipy import ndimage

# Pixels, of the Gaussian that removes texture. BSDS500's published baselines do not state theirs: with these, ODS is
# within 0.02 of them. More smoothing helps Sobel's detector too, which is then Canny's without its hysteresis.
SOBEL_SIGMA, CANNY_SIGMA = 1.0, 2.0
_LOW_SHARE = 0.4  # of Canny's higher threshold, as MATLAB has it
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def detect_edges(image: Image.Image, method: str) -> Float64[np.ndarray, "h w"]:
    """Return the edge map of an image by Sobel's or Canny's detector, from 0 to 1.

    Raises:
        ValueError: the method is neither "sobel" nor "canny".
    """
    if method not in ("sobel", "canny"):
        raise ValueError(f"method must be sobel or canny, got {method!r}")
    grey = np.asarray(image.convert("L"))
    return sobel_edges(grey) if method == "sobel" else canny_edges(grey)


def sobel_gradient(values: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "2 h w"]:
    """Return the gradient by Sobel's 3 x 3 kernels, scaled to differences per pixel."""
    return np.stack([ndimage.sobel(values, axis=axis, mode="nearest") / 8 for axis in (0, 1)])


def suppress_non_maxima(
    strength: Float64[np.ndarray, "h w"], gradient: Float64[np.ndarray, "2 h w"]
) -> Float64[np.ndarray, "h w"]:
    """Keep the strengths that are not below their two neighbours along the gradient (Canny, 1986); 0 elsewhere.

    The neighbours lie one pixel away; their strengths are interpolated bilinearly.
    """
    rows, columns = np.nonzero(strength > 0)
    own, normals = strength[rows, columns], gradient[:, rows, columns]
    normals = normals / np.maximum(np.hypot(*normals), np.finfo(np.float64).tiny)
    is_ridge = np.ones(len(own), bool)
    for sign in (-1, 1):
        places = np.stack([rows, columns]) + sign * normals
        is_ridge &= own >= ndimage.map_coordinates(strength, places, order=1, mode="nearest") * (1 - 1e-9)
    thin = np.zeros_like(strength)
    thin[rows[is_ridge], columns[is_ridge]] = own[is_ridge]
    return thin


def sobel_edges(grey: UInt8[np.ndarray, "h w"], sigma: float = SOBEL_SIGMA) -> Float64[np.ndarray, "h w"]:
    """Return the thinned strength of Sobel's gradient of a smoothed image, from 0 to 1."""
    return _gradient_ridges(grey, sigma)


def canny_edges(
    grey: UInt8[np.ndarray, "h w"], sigma: float = CANNY_SIGMA, levels: int = 99
) -> Float64[np.ndarray, "h w"]:
    """Return, for each pixel, the highest of evenly spaced thresholds at which Canny's detector finds an edge there.

    At a threshold t it finds the ridges of the gradient of at least 0.4 t that are connected to one of at least t.
    """
    ridges = _gradient_ridges(grey, sigma)
    edges = np.zeros_like(ridges)
    for threshold in np.linspace(1 / (levels + 1), 1 - 1 / (levels + 1), levels):  # those of BSDS500
        regions, count = ndimage.label(ridges >= _LOW_SHARE * threshold, structure=_EIGHT_NEIGHBOURS)
        is_strong = np.zeros(count + 1, bool)
        is_strong[regions[ridges >= threshold]] = True
        edges[is_strong[regions] & (regions > 0)] = threshold
    return edges


def _gradient_ridges(grey: UInt8[np.ndarray, "h w"], sigma: float) -> Float64[np.ndarray, "h w"]:
    """Return the thinned strength of the gradient of a smoothed image, as a share of the greatest one."""
    smooth = ndimage.gaussian_filter(grey.astype(np.float64), sigma, mode="nearest")
    gradient = sobel_gradient(smooth)
    strength = np.hypot(*gradient)
    return suppress_non_maxima(strength / max(float(strength.max()), 1e-6), gradient)
