"""Diagrams of an evaluation, drawn with Pillow."""

from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from grounded.data.phrases import shortened
from grounded.evaluation.calibration import Reliability
from grounded.evaluation.confusion import Confusion

Colour: TypeAlias = tuple[int, int, int]

_PAPER, _INK, _GREY, _GRID = (255, 255, 255), (30, 30, 36), (120, 120, 128), (226, 226, 230)
_RIGHT, _WRONG = (43, 108, 176), (214, 92, 60)

_MOST_ROWS = 40  # of the confusion table: more cannot be read


def reliability_diagram(reliability: Reliability) -> Image.Image:
    """Draw the share of right answers for each bin of scores, beside the diagonal of honest scores, and the counts."""
    side, left, top, counts_height = 560, 84, 64, 120
    image = Image.new("RGB", (left + side + 30, top + side + counts_height + 110), _PAPER)
    pen = ImageDraw.Draw(image)
    error = "no scores" if reliability.error is None else f"expected calibration error {reliability.error:.3f}"
    pen.text((left, 18), f"Reliability of the scores: {error}", font=_font(20), fill=_INK)

    def across(score: float) -> float:
        return left + score * side

    def up(share: float) -> float:
        return top + (1 - share) * side

    for step in range(6):
        value = step / 5
        pen.line((left, up(value), left + side, up(value)), fill=_GRID)
        pen.text((left - 10, up(value)), f"{value:.1f}", font=_font(16), fill=_GREY, anchor="rm")
        pen.text((across(value), top + side + 8), f"{value:.1f}", font=_font(16), fill=_GREY, anchor="mt")
    base = top + side + 50 + counts_height
    most = max((one.count for one in reliability.bins), default=0)
    for one in reliability.bins:
        x0, x1 = across(one.low) + 2, across(one.high) - 2
        if one.share_right is not None and one.mean_score is not None:
            pen.rectangle((x0, up(one.share_right), x1, up(0.0)), fill=_RIGHT)
            pen.line((x0, up(one.mean_score), x1, up(one.mean_score)), fill=_WRONG, width=3)
        if one.count:
            pen.rectangle((x0, base - counts_height * one.count / most, x1, base), fill=_GREY)
            text, size = _thousands(one.count), min(14, max(8, int((x1 - x0) / 3)))
            pen.text(((x0 + x1) / 2, base + 4), text, font=_font(size), fill=_GREY, anchor="mt")
    pen.line((across(0.0), up(0.0), across(1.0), up(1.0)), fill=_INK, width=2)
    pen.rectangle((left, top, left + side, top + side), outline=_INK)
    pen.line((left, base, left + side, base), fill=_INK)
    pen.text((left + 14, top + 12), "blue: share of right answers; red: mean score", font=_font(16), fill=_INK)
    pen.text((left + side / 2, base + 30), "score; grey: number of answers", font=_font(18), fill=_INK, anchor="mt")
    _write_upwards(image, "share that is right", (16, top + side // 2), _font(18))
    return image


def confusion_table(confusion: Confusion) -> Image.Image:
    """Draw the confusion table, classes down and phrases across, each row coloured by its shares.

    Of many classes the most frequent are drawn, and the title says so.
    """
    classes, phrases = _shown(confusion)
    rows, columns = [*classes, None], [*phrases, None]
    cell = 44 if max(len(rows), len(columns)) <= 16 else 30
    font = _font(15)
    row_names = [_name(label, "(nothing there)") for label in rows]
    column_names = [_name(phrase, "(no answer)") for phrase in columns]
    left = round(max(font.getlength(name) for name in row_names)) + 50
    top = round(max(font.getlength(name) for name in column_names)) + 92
    title = "What lies there (rows) and what was answered (columns)"
    if len(classes) < len(confusion.classes):
        title += f": {len(classes)} of {len(confusion.classes)} classes, the most frequent"
    width = max(left + cell * len(columns) + 20, round(_font(18).getlength(title)) + 40)
    image = Image.new("RGB", (width, top + cell * len(rows) + 20), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((20, 16), title, font=_font(18), fill=_INK)
    for x, name in enumerate(column_names):
        _write_upwards(image, name, (left + x * cell + cell // 2 - 9, top - 8), font, from_below=True)
    for y, (label, name) in enumerate(zip(rows, row_names, strict=True)):
        pen.text((left - 10, top + y * cell + cell / 2), name, font=font, fill=_INK, anchor="rm")
        whole = sum(count for (of, _), count in confusion.counts.items() if of == label)
        for x, phrase in enumerate(columns):
            box = (left + x * cell, top + y * cell, left + (x + 1) * cell, top + (y + 1) * cell)
            _draw_cell(pen, box, confusion.count(label, phrase), whole)
    return image


def _draw_cell(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], count: int, whole: int) -> None:
    share = count / whole if whole else 0.0
    strength = 0.08 + 0.92 * share if count else 0.0
    fill = tuple(round(p + strength * (c - p)) for p, c in zip(_PAPER, _RIGHT, strict=True))
    pen.rectangle(box, fill=fill, outline=_GRID)
    if count:
        x0, y0, x1, y1 = box
        font = _font(15 if x1 - x0 > 36 else 11)
        colour = _PAPER if strength > 0.5 else _INK
        pen.text(((x0 + x1) / 2, (y0 + y1) / 2), _thousands(count), font=font, fill=colour, anchor="mm")


def _shown(confusion: Confusion) -> tuple[list[str], list[str]]:
    """The classes that fit, those that are most often there or answered, and their phrases in the same order."""
    totals = dict.fromkeys(confusion.classes, 0)
    for (label, phrase), count in confusion.counts.items():
        for name in {label, confusion.asked.get(phrase or "")}:
            if name is not None:
                totals[name] += count
    most = set(sorted(totals, key=lambda name: -totals[name])[:_MOST_ROWS])
    classes = [label for label in confusion.classes if label in most]
    return classes, [phrase for label in classes for phrase, asked in confusion.asked.items() if asked == label]


def _name(text: str | None, otherwise: str) -> str:
    return otherwise if text is None else shortened(text, 28)


def _thousands(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _write_upwards(
    image: Image.Image, text: str, place: tuple[int, int], font: ImageFont.FreeTypeFont, from_below: bool = False
) -> None:
    """Write text turned by a quarter, its left edge at x and its middle, or its beginning, at y."""
    x, y = place
    line = Image.new("L", (max(1, round(font.getlength(text))), round(font.size * 1.4)), 0)
    ImageDraw.Draw(line).text((0, 0), text, font=font, fill=255)
    turned = line.rotate(90, expand=True)
    image.paste(_INK, (x, y - turned.height if from_below else y - turned.height // 2), turned)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
