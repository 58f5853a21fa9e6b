"""Colours for many masks side by side, none of which has a meaning of its own."""

import colorsys

_GOLDEN = 0.618033988749895  # of the circle of hues: each next hue falls into the largest gap that is left
_LIGHTNESS = (0.5, 0.62, 0.4)  # in turn, so that hues that come near one another still differ


def own_colours(count: int) -> list[str]:
    """Different colours as #rrggbb, neighbours in the list far from one another."""
    return [_colour(number * _GOLDEN % 1.0, _LIGHTNESS[number % len(_LIGHTNESS)]) for number in range(count)]


def _colour(hue: float, lightness: float) -> str:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.85))
    return f"#{red:02x}{green:02x}{blue:02x}"
