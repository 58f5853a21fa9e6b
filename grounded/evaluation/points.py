"""The IoU of masks from clicks: means with their intervals, over all masks and by group. Works on stored values."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image

from grounded.errors import ResultError
from grounded.evaluation.report.curves import Axis, Curve, draw_curves

_NORMAL_95 = 1.959964  # standard errors on either side of a mean
GROUP_CLICKS = (1, 3)  # of the paper's table of groups
_GROUP_HEAD = ("group", "masks", *(f"{clicks} point{'s' * (clicks > 1)}" for clicks in GROUP_CLICKS))


@dataclass(frozen=True)
class ClickedMask:
    """The IoU of one mask after each click, by the first click ("centre", "random")."""

    id: str  # of the annotation, as text
    label: str
    best_scored: Mapping[str, Sequence[float]]
    oracle: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Mean:
    """A mean over masks and its 95% interval; None for the interval of a single mask."""

    value: float
    interval: tuple[float, float] | None
    count: int


def mean_with_interval(values: Sequence[float] | Float64[np.ndarray, "n"]) -> Mean:
    """Return the mean and its 95% interval by the normal distribution: 1.96 standard errors on either side.

    Raises:
        ValueError: there are no values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        raise ValueError("a mean needs at least one value, got none")
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Mean(mean, None, 1)
    margin = _NORMAL_95 * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Mean(mean, (mean - margin, mean + margin), len(numbers))


def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each annotation: a CSV file with the columns annotation_id and group, in any order.

    Raises:
        ResultError: the file cannot be read, lacks a column, or gives one annotation two groups.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"annotation_id", "group"} - set(reader.fieldnames or ())
            if missing:
                raise ResultError(f"{path} must have the columns annotation_id and group, got {reader.fieldnames}")
            rows = [((row["annotation_id"] or "").strip(), (row["group"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultError(f"cannot read {path}: {error}") from error
    groups: dict[str, str] = {}
    for id, group in rows:
        if groups.setdefault(id, group) != group:
            raise ResultError(f"{path}: annotation {id} must have one group, got {groups[id]!r} and {group!r}")
    return {id: group for id, group in groups.items() if id and group}


def group_means(masks: Sequence[ClickedMask], groups: Mapping[str, str]) -> dict[str, dict[int, Mean]]:
    """Return, for each group, the mean IoU after 1 and 3 clicks from the centre, of the best-scored mask."""
    found: dict[str, list[ClickedMask]] = {}
    for mask in masks:
        if mask.id in groups:
            found.setdefault(groups[mask.id], []).append(mask)
    return {
        group: {
            clicks: mean_with_interval([mask.best_scored["centre"][clicks - 1] for mask in own])
            for clicks in GROUP_CLICKS
            if all(len(mask.best_scored["centre"]) >= clicks for mask in own)
        }
        for group, own in sorted(found.items())
    }


def click_means(masks: Sequence[ClickedMask]) -> dict[str, list[Mean]]:
    """Return the mean after each click, by a name such as "centre" or "random, oracle"."""
    means = {}
    for first in masks[0].best_scored:
        for name, kind in ((first, "best_scored"), (f"{first}, oracle", "oracle")):
            curves = np.array([getattr(mask, kind)[first] for mask in masks], dtype=np.float64)
            means[name] = [mean_with_interval(column) for column in curves.T]
    return means


def to_dict(
    settings: Mapping[str, Any], masks: Sequence[ClickedMask], groups: Mapping[str, str], notes: Sequence[str]
) -> dict[str, Any]:
    """Return all means as plain dicts, lists and scalars, from 0 to 1."""
    return {
        "settings": dict(settings),
        "masks": len(masks),
        "mean_iou": {name: [_mean_to_dict(mean) for mean in means] for name, means in click_means(masks).items()},
        "groups": {
            group: {str(clicks): _mean_to_dict(mean) for clicks, mean in means.items()}
            for group, means in group_means(masks, groups).items()
        },
        "notes": list(notes),
    }


def _mean_to_dict(mean: Mean) -> dict[str, Any]:
    return {"mean": mean.value, "interval_95": mean.interval and list(mean.interval), "masks": mean.count}


def to_text(masks: Sequence[ClickedMask], groups: Mapping[str, str]) -> str:
    """Return the mean IoU after each click, and by group, in percent."""
    means = click_means(masks)
    width = max(map(len, means))
    lines = [" " * width + "".join(f"{clicks:>7}" for clicks in range(1, 1 + len(next(iter(means.values())))))]
    lines += [f"{name:{width}}" + "".join(f"{100 * mean.value:7.1f}" for mean in row) for name, row in means.items()]
    lines.append(f"mean IoU in percent after so many clicks, over {len(masks)} masks")
    by_group = group_means(masks, groups)
    if by_group:
        rows = [_GROUP_HEAD]
        for group, found in by_group.items():
            count = next(iter(found.values())).count
            rows.append((group, str(count), *(_with_margin(found.get(clicks)) for clicks in GROUP_CLICKS)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_GROUP_HEAD))]
        lines += ["", *("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)]
    return "\n".join(lines)


def _with_margin(mean: Mean | None) -> str:
    if mean is None:
        return "-"
    margin = "" if mean.interval is None else f" ± {100 * (mean.interval[1] - mean.value):.1f}"
    return f"{100 * mean.value:.1f}{margin}"


def draw_click_curves(masks: Sequence[ClickedMask]) -> Image.Image:
    """Draw the mean IoU against the number of clicks, with bars for the 95% intervals."""
    curves = []
    for name, means in click_means(masks).items():
        points = [(float(clicks), mean.value) for clicks, mean in enumerate(means, 1)]
        curves.append(Curve(name, points, [mean.interval or (mean.value, mean.value) for mean in means]))
    clicks = len(curves[0].points)
    x_axis = Axis("clicks", 0.5, clicks + 0.5, [float(number) for number in range(1, clicks + 1)], "{:.0f}")
    y_axis = Axis("mean IoU", 0.0, 1.0, [step / 5 for step in range(6)])
    return draw_curves(f"Masks from clicks: {len(masks)} masks", curves, x_axis, y_axis)
