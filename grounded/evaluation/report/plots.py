"""Diagrams of an evaluation, drawn with Pillow."""

from PIL import Image, ImageDraw

from grounded.data.phrases import shortened
from grounded.evaluation.calibration import Calibration
from grounded.evaluation.confusion import ConfusionMatrix
from grounded.output.fonts import TextLine

_WHITE, _INK, _GREY, _GRID = (255, 255, 255), (30, 30, 36), (120, 120, 128), (226, 226, 230)
_BLUE, _RED = (43, 108, 176), (214, 92, 60)

_MAX_CLASSES = 40  # of the confusion matrix: more cannot be read


def draw_reliability_diagram(calibration: Calibration) -> Image.Image:
    """Draw the accuracy in each bin of scores beside the diagonal of perfect calibration, and the counts."""
    side, left, top, counts_height = 560, 84, 64, 120
    image = Image.new("RGB", (left + side + 30, top + side + counts_height + 110), _WHITE)
    canvas = ImageDraw.Draw(image)
    error = "no scores" if calibration.error is None else f"expected calibration error {calibration.error:.3f}"
    TextLine.of(f"Reliability of the scores: {error}", 20).draw(canvas, (left, 18), _INK)

    def x_of(score: float) -> float:
        return left + score * side

    def y_of(share: float) -> float:
        return top + (1 - share) * side

    for step in range(6):
        value = step / 5
        canvas.line((left, y_of(value), left + side, y_of(value)), fill=_GRID)
        tick = TextLine.of(f"{value:.1f}", 16)
        tick.draw(canvas, (left - 10, y_of(value)), _GREY, "rm")
        tick.draw(canvas, (x_of(value), top + side + 8), _GREY, "mt")
    base = top + side + 50 + counts_height
    max_count = max((one.count for one in calibration.bins), default=0)
    for one in calibration.bins:
        x0, x1 = x_of(one.low) + 2, x_of(one.high) - 2
        if one.accuracy is not None and one.mean_score is not None:
            canvas.rectangle((x0, y_of(one.accuracy), x1, y_of(0.0)), fill=_BLUE)
            canvas.line((x0, y_of(one.mean_score), x1, y_of(one.mean_score)), fill=_RED, width=3)
        if one.count:
            canvas.rectangle((x0, base - counts_height * one.count / max_count, x1, base), fill=_GREY)
            text, size = _short_count(one.count), min(14, max(8, int((x1 - x0) / 3)))
            TextLine.of(text, size).draw(canvas, ((x0 + x1) / 2, base + 4), _GREY, "mt")
    canvas.line((x_of(0.0), y_of(0.0), x_of(1.0), y_of(1.0)), fill=_INK, width=2)
    canvas.rectangle((left, top, left + side, top + side), outline=_INK)
    canvas.line((left, base, left + side, base), fill=_INK)
    TextLine.of("blue: share of right answers; red: mean score", 16).draw(canvas, (left + 14, top + 12), _INK)
    TextLine.of("score; grey: number of answers", 18).draw(canvas, (left + side / 2, base + 30), _INK, "mt")
    draw_upwards(image, TextLine.of("share that is right", 18), (16, top + side // 2))
    return image


def draw_confusion_matrix(confusion: ConfusionMatrix) -> Image.Image:
    """Draw the confusion matrix, a row for each class and a column for each phrase, coloured by its share of the row.

    Of many classes the most frequent are drawn, and the title says so.
    """
    classes, phrases = _most_frequent(confusion)
    rows, columns = [*classes, None], [*phrases, None]
    cell = 44 if max(len(rows), len(columns)) <= 16 else 30
    row_names = [_caption(label, "(nothing there)") for label in rows]
    column_names = [_caption(phrase, "(no answer)") for phrase in columns]
    left = round(max(name.width for name in row_names)) + 50
    top = round(max(name.width for name in column_names)) + 92
    text = "What lies there (rows) and what was answered (columns)"
    if len(classes) < len(confusion.classes):
        text += f": {len(classes)} of {len(confusion.classes)} classes, the most frequent"
    title = TextLine.of(text, 18)
    width = max(left + cell * len(columns) + 20, round(title.width) + 40)
    image = Image.new("RGB", (width, top + cell * len(rows) + 20), _WHITE)
    canvas = ImageDraw.Draw(image)
    title.draw(canvas, (20, 16), _INK)
    for x, name in enumerate(column_names):
        draw_upwards(image, name, (left + x * cell + cell // 2 - 9, top - 8), from_below=True)
    for y, (label, name) in enumerate(zip(rows, row_names, strict=True)):
        name.draw(canvas, (left - 10, top + y * cell + cell / 2), _INK, "rm")
        row_total = sum(count for (of, _), count in confusion.counts.items() if of == label)
        for x, phrase in enumerate(columns):
            box = (left + x * cell, top + y * cell, left + (x + 1) * cell, top + (y + 1) * cell)
            _draw_cell(canvas, box, confusion.count(label, phrase), row_total)
    return image


def _draw_cell(canvas: ImageDraw.ImageDraw, box: tuple[int, int, int, int], count: int, row_total: int) -> None:
    share = count / row_total if row_total else 0.0
    strength = 0.08 + 0.92 * share if count else 0.0
    fill = tuple(round(p + strength * (c - p)) for p, c in zip(_WHITE, _BLUE, strict=True))
    canvas.rectangle(box, fill=fill, outline=_GRID)
    if count:
        x0, y0, x1, y1 = box
        line = TextLine.of(_short_count(count), 15 if x1 - x0 > 36 else 11)
        line.draw(canvas, ((x0 + x1) / 2, (y0 + y1) / 2), _WHITE if strength > 0.5 else _INK, "mm")


def _most_frequent(confusion: ConfusionMatrix) -> tuple[list[str], list[str]]:
    """Return the classes with most objects and predictions, as many as fit, and their phrases in the same order."""
    totals = dict.fromkeys(confusion.classes, 0)
    for (label, phrase), count in confusion.counts.items():
        for name in {label, confusion.phrase_classes.get(phrase or "")}:
            if name is not None:
                totals[name] += count
    frequent = set(sorted(totals, key=lambda name: -totals[name])[:_MAX_CLASSES])
    classes = [label for label in confusion.classes if label in frequent]
    return classes, [phrase for label in classes for phrase, own in confusion.phrase_classes.items() if own == label]


def _caption(text: str | None, otherwise: str) -> TextLine:
    return TextLine.of(otherwise if text is None else shortened(text, 28), 15)


def _short_count(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def draw_upwards(image: Image.Image, text: TextLine, position: tuple[int, int], from_below: bool = False) -> None:
    """Draw a line turned by 90 degrees, its left edge at x and its middle, or its beginning, at y."""
    x, y = position
    line = Image.new("L", (max(1, round(text.width)), text.ascent + text.descent), 0)
    text.draw(ImageDraw.Draw(line), (0, 0), 255)
    turned = line.rotate(90, expand=True)
    image.paste(_INK, (x, y - turned.height if from_below else y - turned.height // 2), turned)
