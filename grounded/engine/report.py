"""What each round of a data engine has brought: figures, as a table, JSON and a plot."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from grounded.engine.accepted import accepted_masks
from grounded.engine.automatic import read_masks
from grounded.engine.images import ChosenImages, read_list
from grounded.engine.proposals import sa1b_folder
from grounded.engine.rounds import Engine, Stage
from grounded.engine.training import RoundOutcome
from grounded.evaluation.report.curves import Axis, Curve, draw_curves
from grounded.labelling.records import Record
from grounded.labelling.review.apply import is_outdated
from grounded.labelling.review.log import group_by_file, read_reviews
from grounded.labelling.sources import open_source
from grounded.labelling.store import read_records
from grounded.utils.files import atomic_files, image_bytes, json_bytes
from segany.utils.rle import RLE, rle_iou

REPORT = "report"  # its files: .json, .md, .png

Truths = Mapping[str, Sequence[RLE]]
"""The true masks of images, by name."""


@dataclass(frozen=True, kw_only=True)
class RoundFigures:
    """Figures of a round; nan where there is nothing to compute them from.

    In the automatic stage the masks are those of the model, and seconds are the model's; else they are a person's.
    """

    number: int
    stage: Stage
    images: int  # that a person has annotated; of the automatic stage, in which masks were looked for
    shown_per_image: float  # masks that the person was shown at first
    masks: int
    masks_per_image: float
    seconds_per_mask: float
    clicks_per_mask: float
    compared: int  # accepted masks
    automatic_iou: float  # mean over these of the best IoU with a mask that the round's model finds by itself
    automatic_above_90: float  # the share of them with an IoU above 0.9
    truth_iou: float  # mean over the true masks of the best IoU with such a mask; where the true ones are known
    accepted_truth_iou: float  # mean over the accepted masks of the best IoU with a true one
    trained_on: int  # masks
    before: float  # IoU by boxes, on held-out masks, before the training after the round
    after: float


def measure_rounds(engine: Engine, truths: Truths | None = None) -> list[RoundFigures]:
    """Return the figures of the rounds that have been begun.

    Args:
        engine: with its rounds.
        truths: true masks of the images, where they are known.

    Raises:
        ResultError: a round cannot be read.
    """
    begun = engine.number - (engine.phase == "prepare")
    return [measure_round(engine, number, truths) for number in range(1, begun + 1)]


def measure_round(engine: Engine, number: int, truths: Truths | None = None) -> RoundFigures:
    """Return the figures of one round. Raises ResultError."""
    folder = engine.round_folder(number)
    stage = engine.plan.rounds[number - 1].stage
    records = {record.image.file: record for record in read_records(folder)}
    accepted = accepted_masks(folder)
    automatic = _automatic_masks(engine, number)
    if stage == "auto":
        looked_at, masks = list(records), sum(len(record.instances) for record in records.values())
        seconds, clicks = math.fsum(second for record in records.values() for second in record.seconds.values()), 0.0
    else:
        looked_at, masks = list(accepted), sum(map(len, accepted.values()))
        seconds, clicks = _human_effort(folder, records)
    ious = [iou for file, own in accepted.items() if file in automatic for iou in best_ious(own, automatic[file])]
    known = truths or {}
    outcome = RoundOutcome.read(engine.training_folder(number))
    return RoundFigures(
        number=number,
        stage=stage,
        images=len(looked_at),
        shown_per_image=_mean(len(records[file].instances) for file in looked_at if file in records),
        masks=masks,
        masks_per_image=_ratio(masks, len(looked_at)),
        seconds_per_mask=_ratio(seconds, masks),
        clicks_per_mask=_ratio(clicks, masks),
        compared=len(ious),
        automatic_iou=_mean(ious),
        automatic_above_90=_mean(float(iou > 0.9) for iou in ious),
        truth_iou=_mean(iou for file, own in automatic.items() for iou in best_ious(known.get(file, ()), own)),
        accepted_truth_iou=_mean(
            iou for file, own in accepted.items() if file in known for iou in best_ious(own, known[file])
        ),
        trained_on=0 if outcome is None else outcome.objects,
        before=math.nan if outcome is None else outcome.before,
        after=math.nan if outcome is None else outcome.after,
    )


def _automatic_masks(engine: Engine, number: int) -> dict[str, list[RLE]]:
    """The masks that the model of a round found by itself, by image, where they were looked for."""
    folder = engine.round_folder(number)
    files = ChosenImages(open_source(engine.plan.source), read_list(folder)).annotation_files
    found = read_masks(sa1b_folder(engine, number), [name for _, name in files.values()])
    return {file: found[name] for file, (_, name) in files.items() if name in found}


def _human_effort(folder: Path, records: Mapping[str, Record]) -> tuple[float, float]:
    """Seconds and clicks in all reviews of a round, also those that were taken back; nan where none was measured."""
    seconds, clicks = list[float](), list[int]()
    for file, own in group_by_file(read_reviews(folder)).items():
        current = [one for one in own if file in records and not is_outdated(one, records[file])]
        seconds += [one.seconds for one in current if one.seconds is not None]
        clicks += [one.clicks for one in current if one.clicks is not None]
    return (math.fsum(seconds) if seconds else math.nan), (float(sum(clicks)) if seconds else math.nan)


def best_ious(masks: Sequence[RLE], others: Sequence[RLE]) -> list[float]:
    """Return the IoU of each mask with the one of the others that it overlaps most; 0 where there are none."""
    if not masks or not others:
        return [0.0] * len(masks)
    return [float(row.max()) for row in rle_iou(list(masks), list(others))]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan


def _ratio(total: int | float, count: int) -> float:
    return total / count if count else math.nan


# ---- Table, JSON and plot ----

_COLUMNS: tuple[tuple[str, str, str], ...] = (  # heading, field, format
    ("round", "number", "d"),
    ("stage", "stage", "s"),
    ("images", "images", "d"),
    ("shown per image", "shown_per_image", ".1f"),
    ("masks per image", "masks_per_image", ".1f"),
    ("seconds per mask", "seconds_per_mask", ".1f"),
    ("clicks per mask", "clicks_per_mask", ".1f"),
    ("IoU automatic/accepted", "automatic_iou", ".3f"),
    ("above 0.9", "automatic_above_90", ".0%"),
    ("IoU automatic/true", "truth_iou", ".3f"),
    ("IoU accepted/true", "accepted_truth_iou", ".3f"),
    ("trained on masks", "trained_on", "d"),
    ("held-out IoU before", "before", ".3f"),
    ("after", "after", ".3f"),
)


def to_table(figures: Sequence[RoundFigures]) -> str:
    """Return the figures as a table of Markdown; columns in which nothing is known are left out."""
    columns = [(name, key, form) for name, key, form in _COLUMNS if any(_is_known(getattr(o, key)) for o in figures)]
    rows = [[name for name, _, _ in columns]]
    rows += [[_cell(getattr(one, key), form) for _, key, form in columns] for one in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    cells = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _is_known(value: int | float | str) -> bool:
    return isinstance(value, str) or math.isfinite(value)


def _cell(value: int | float | str, form: str) -> str:
    return format(value, form) if _is_known(value) else ""


def draw_report(figures: Sequence[RoundFigures]) -> Image.Image:
    """Draw four diagrams over the rounds: masks per image, seconds and clicks per mask, IoU."""
    panels = (
        ("Masks per image", {"accepted": "masks_per_image", "shown at first": "shown_per_image"}),
        ("Seconds per mask", {"seconds per mask": "seconds_per_mask"}),
        ("Clicks per mask", {"clicks per mask": "clicks_per_mask"}),
        ("IoU", {"automatic with accepted": "automatic_iou", "automatic with true": "truth_iou", "held out": "after"}),
    )
    images = [_draw_panel(title, lines, figures) for title, lines in panels]
    width, height = images[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height), (255, 255, 255))
    for place, image in enumerate(images):
        sheet.paste(image, (place % 2 * width, place // 2 * height))
    return sheet


def _draw_panel(title: str, lines: Mapping[str, str], figures: Sequence[RoundFigures]) -> Image.Image:
    curves = []
    for name, key in lines.items():
        points = [(float(one.number), float(getattr(one, key))) for one in figures]
        if known := [point for point in points if math.isfinite(point[1])]:
            curves.append(Curve(name, known))
    rounds = [float(one.number) for one in figures]
    x_axis = Axis("round", min(rounds) - 0.5, max(rounds) + 0.5, rounds, "{:.0f}")
    if title == "IoU":
        y_axis = Axis(title, 0.0, 1.0, [step / 5 for step in range(6)])
    else:
        y_axis = _axis_to(title, max((y for curve in curves for _, y in curve.points), default=1.0))
    return draw_curves(title, curves, x_axis, y_axis)


def _axis_to(name: str, most: float) -> Axis:
    """An axis from 0 to a round number of at least `most`, with five steps."""
    power = 10 ** math.floor(math.log10(max(most, 1e-3) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= most)
    return Axis(name, 0.0, float(5 * step), [float(step * i) for i in range(6)], "{:.0f}" if step >= 1 else "{:.1f}")


def write_report(engine: Engine, figures: Sequence[RoundFigures]) -> None:
    """Write table, JSON and plot into the folder of a data engine, together. Raises OutputError."""
    values = [{key: None if not _is_known(value) else value for key, value in asdict(one).items()} for one in figures]
    with atomic_files() as write:
        write(engine.folder / f"{REPORT}.json", json_bytes({"rounds": values}))
        write(engine.folder / f"{REPORT}.md", f"{to_table(figures)}\n".encode())
        write(engine.folder / f"{REPORT}.png", image_bytes(draw_report(figures)))
