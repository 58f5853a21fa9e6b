"""Values of more than 8 bits as 8 bits: stretched by the part of the range that an image uses. For `read_image`.

A camera of 12 bits fills a sixteenth of a 16-bit file, a thermal camera a few hundred values in its middle, and an
elevation model marks what it does not know with -9999. Shown by the whole range they are black, grey or white.
The used range is that between the 0.1 and the 99.9 percentile of all values that count.
"""

import numpy as np

# From this part of 65536 on, an image of 16 bits counts as one that uses the whole range.
_WIDE_16 = 1 << 14
# Values that stand for "unknown" in rasters without saying so.
_UNKNOWN = (-9999.0, -99999.0, -32767.0, -32768.0)
_FLOAT_LIMIT = 3.4e38  # the largest floats are used for "unknown" as well
_SAMPLE = 4_000_000


def used_range(values: np.ndarray) -> tuple[float, float]:
    """Return the 0.1 and the 99.9 percentile; the lowest and the highest value where the two are one; (0, 0) if none.

    Both are values that occur. Of large images a part of the values is looked at, in even steps.
    """
    if values.size == 0:
        return 0.0, 0.0
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLE)]
    low = float(np.percentile(sample, 0.1, method="lower"))
    high = float(np.percentile(sample, 99.9, method="higher"))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def from_16_bits(values: np.ndarray, nodata: float | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return uint16 values, grey or colours of one range, as uint8, and a note on how.

    Of a range that is used by a quarter or more the upper 8 bits are taken, as everywhere; else it is stretched.
    """
    valid = values if nodata is None else values[values != nodata]
    low, high = used_range(valid)
    if high - low >= _WIDE_16 or high == low:
        return (values >> 8).astype(np.uint8), ("16 bits per channel: the upper 8 are used",)
    scaled = _stretched(values, low, high)
    if nodata is not None:
        scaled[values == nodata] = 0
    return scaled, (f"16 bits per channel: {_stretching(low, high)}",)


def from_raster(values: np.ndarray, nodata: float | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return floats or 32-bit integers, which have no defined range, as uint8, and notes on how.

    Values in 0 to 255 are kept, floats in 0 to 1 are multiplied by 255, and others stretched. NaN, the
    value `nodata` and the usual markers of unknown values do not count for the range, and are shown black.
    """
    with np.errstate(invalid="ignore"):
        unknown = np.isnan(values) | (np.abs(values) >= _FLOAT_LIMIT) & np.isfinite(values)
        for marker in (*_UNKNOWN, *(() if nodata is None else (nodata,))):
            unknown |= values == np.asarray(marker).astype(values.dtype)
    low, high = used_range(values[~unknown & np.isfinite(values)])
    notes: tuple[str, ...] = ()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    else:
        notes = (_stretching(low, high),)
    if unknown.any():
        notes += (f"{int(unknown.sum())} of {unknown.size} pixels hold no value, and are black",)
    return _stretched(np.where(unknown, -np.inf, values.astype(np.float32)), low, high), notes


def stretch_upper_bits(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the upper 8 of 16 bits as an image of its own, stretched where they use less than a quarter."""
    low, high = used_range(values)
    if high - low >= _WIDE_16 >> 8 or high == low:
        return values, ("16 bits per channel: the upper 8 are used",)
    stretching = _stretching(low, high)
    return _stretched(values, low, high), (
        f"16 bits per channel, of which only the upper 8 could be read: {stretching}",
    )


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low) if high > low else 0)
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)


def _stretching(low: float, high: float) -> str:
    return f"values from {low:g} to {high:g} are stretched to 0..255"
