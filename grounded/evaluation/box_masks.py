"""Masks from boxes, measured: AP by COCO's or LVIS's protocol, and beside true boxes the IoU with their own objects.

The measure of Segment Anything's section 7.4. Works on stored values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from grounded.evaluation.average_precision import ClassPrecision, average_precision
from grounded.evaluation.dataset import ImagePair
from grounded.evaluation.federated_precision import federated_precision
from grounded.evaluation.points import Mean, mean_with_interval
from grounded.labelling.formats.lvis import Federation

_COLUMNS = {"mean": "AP", "at_50": "AP50", "at_75": "AP75", "small": "small", "medium": "medium", "large": "large"}
# Segment Anything, table 5: mask AP from the boxes of ViTDet-H, in percent.
PUBLISHED = {
    "COCO": {
        "ViTDet-H, own masks": {"mean": 51.0, "small": 32.0, "medium": 54.3, "large": 68.9},
        "SAM, its boxes": {"mean": 46.5, "small": 30.8, "medium": 51.0, "large": 61.7},
    },
    "LVIS": {
        "ViTDet-H, own masks": {"mean": 46.6, "small": 35.0, "medium": 58.0, "large": 66.3},
        "SAM, its boxes": {"mean": 44.7, "small": 32.5, "medium": 57.6, "large": 65.5},
    },
}


@dataclass(frozen=True)
class BoxMaskEvaluation:
    """How good masks from boxes are."""

    protocol: str  # "COCO" or "LVIS"
    precision: ClassPrecision
    mean_iou: Mean | None  # of the masks of true boxes with their objects; None for boxes of a detector
    frequencies: Mapping[str, float | None] = field(default_factory=dict)  # AP by class frequency, for LVIS


def evaluate_box_masks(
    pairs: Sequence[ImagePair], federation: Federation | None, ious: Sequence[float] = ()
) -> BoxMaskEvaluation:
    """Measure the masks of all images, by LVIS's protocol where there is a federation.

    Args:
        pairs: of all images, whose prompt is every class.
        federation: of an LVIS file.
        ious: of the masks of true boxes with their own objects.
    """
    mean = mean_with_interval(ious) if len(ious) else None
    if federation is None:
        return BoxMaskEvaluation("COCO", average_precision([pair.ignoring_boxes() for pair in pairs], "mask"), mean)
    found = federated_precision([pair.ignoring_boxes() for pair in pairs], federation)
    return BoxMaskEvaluation("LVIS", found.by_class, mean, found.frequencies)


def to_dict(
    settings: Mapping[str, Any], evaluation: BoxMaskEvaluation, images: int, masks: int, notes: Sequence[str]
) -> dict[str, Any]:
    """Return all measures from 0 to 1 as plain dicts, lists and scalars, None for what is not defined."""
    iou = evaluation.mean_iou
    return {
        "settings": dict(settings),
        "images": images,
        "masks": masks,
        "protocol": evaluation.protocol,
        "average_precision": {**asdict(evaluation.precision.overall), **evaluation.frequencies},
        "classes": {label: one.mean for label, one in evaluation.precision.classes.items()},
        "mean_iou": iou and {"mean": iou.value, "interval_95": iou.interval and list(iou.interval)},
        "notes": list(notes),
    }


def to_text(evaluation: BoxMaskEvaluation, images: int, masks: int) -> str:
    """Return mask AP in percent as a table, with the published figures below it."""
    columns = {**_COLUMNS, **{name: name for name in evaluation.frequencies}}
    measured = asdict(evaluation.precision.overall) | dict(evaluation.frequencies)
    rows = {"measured": {name: None if value is None else 100 * value for name, value in measured.items()}}
    rows |= {f"{name}, published": dict(row) for name, row in PUBLISHED[evaluation.protocol].items()}
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>9}" for name in columns.values())]
    lines += [f"{name:{width}}" + "".join(_cell(row.get(column)) for column in columns) for name, row in rows.items()]
    lines.append(f"mask AP in percent by the protocol of {evaluation.protocol}, {masks} masks in {images} images")
    if evaluation.mean_iou is not None:
        lines.append(f"mean IoU of the masks with the objects of their boxes: {100 * evaluation.mean_iou.value:.1f}")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.1f}"
