"""Line charts with a legend, drawn with Pillow. For curves of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from grounded.evaluation.report.plots import draw_upwards
from grounded.output.fonts import TextLine

_WHITE, _INK, _GREY, _GRID = (255, 255, 255), (30, 30, 36), (120, 120, 128), (226, 226, 230)
_COLOURS = ((43, 108, 176), (214, 92, 60), (56, 142, 90), (142, 84, 160), (196, 150, 30), (90, 96, 110))
_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 560, 84, 64, 84, 30


@dataclass(frozen=True)
class Curve:
    """Points of a line, or with one point a mark alone, under a name in the legend."""

    name: str
    points: Sequence[tuple[float, float]]  # (x, y)
    band: Sequence[tuple[float, float]] = ()  # (low, high) in y at each point, drawn as bars
    is_guide: bool = False  # a thin grey line without a name in the legend


@dataclass(frozen=True)
class Axis:
    """One axis: its name, its range and its ticks."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    format: str = "{:.1f}"


def draw_curves(title: str, curves: Sequence[Curve], x_axis: Axis, y_axis: Axis) -> Image.Image:
    """Draw curves over a grid; points outside the axes are drawn at their ends."""
    image = Image.new("RGB", (_LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM), _WHITE)
    canvas = ImageDraw.Draw(image)
    TextLine.of(title, 20, _SIDE + _LEFT).draw(canvas, (24, 18), _INK)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = (_share(value, axis) for value, axis in zip(point, (x_axis, y_axis), strict=True))
        return _LEFT + x * _SIDE, _TOP + (1 - y) * _SIDE

    for tick in y_axis.ticks:
        canvas.line((place((x_axis.low, tick)), place((x_axis.high, tick))), fill=_GRID)
        TextLine.of(y_axis.format.format(tick), 16).draw(
            canvas, (_LEFT - 10, place((x_axis.low, tick))[1]), _GREY, "rm"
        )
    for tick in x_axis.ticks:
        x = place((tick, y_axis.low))[0]
        TextLine.of(x_axis.format.format(tick), 16).draw(canvas, (x, _TOP + _SIDE + 8), _GREY, "mt")
    named = [curve for curve in curves if not curve.is_guide]
    for curve in curves:
        colour = _GREY if curve.is_guide else _COLOURS[named.index(curve) % len(_COLOURS)]
        _draw_curve(canvas, [place(point) for point in curve.points], colour, curve.is_guide)
        for (x_value, _), ends in zip(curve.points, curve.band, strict=False):
            canvas.line([place((x_value, end)) for end in ends], fill=colour, width=1)
    canvas.rectangle((_LEFT, _TOP, _LEFT + _SIDE, _TOP + _SIDE), outline=_INK)
    _draw_legend(canvas, [curve.name for curve in named])
    TextLine.of(x_axis.name, 18).draw(canvas, (_LEFT + _SIDE / 2, _TOP + _SIDE + 40), _INK, "mt")
    draw_upwards(image, TextLine.of(y_axis.name, 18), (16, _TOP + _SIDE // 2))
    return image


def _share(value: float, axis: Axis) -> float:
    return min(1.0, max(0.0, (value - axis.low) / (axis.high - axis.low)))


def _draw_curve(
    canvas: ImageDraw.ImageDraw, places: list[tuple[float, float]], colour: tuple[int, int, int], is_guide: bool
) -> None:
    if len(places) > 1:
        canvas.line(places, fill=colour, width=1 if is_guide else 3, joint="curve")
    if not is_guide and len(places) <= 20:
        for x, y in places:
            canvas.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)


def _draw_legend(canvas: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    """List the names in the lower left corner, where curves of quality rarely are."""
    y = _TOP + _SIDE - 14 - 24 * len(names)
    for number, name in enumerate(names):
        canvas.line((_LEFT + 14, y + 10, _LEFT + 38, y + 10), fill=_COLOURS[number % len(_COLOURS)], width=4)
        TextLine.of(name, 16, _SIDE - 70).draw(canvas, (_LEFT + 46, y), _INK)
        y += 24
