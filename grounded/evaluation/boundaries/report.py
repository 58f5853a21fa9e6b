"""Boundary scores as plain data for JSON, as a table for a terminal, and as a precision-recall curve."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from grounded.evaluation.boundaries.evaluate import BoundaryProtocol, MeasuredImage
from grounded.evaluation.boundaries.scores import BoundaryScores, best_point, f_measure
from grounded.evaluation.report.curves import Axis, Curve, draw_curves

# Published ODS, OIS, AP and R50 on the 200 test images of BSDS500 (Kirillov et al., 2023, table 3).
PUBLISHED: Mapping[str, tuple[float | None, ...]] = {
    "Sobel, published": (0.539, None, None, None),
    "Canny, published": (0.600, 0.640, 0.580, None),
    "HED, published": (0.788, 0.808, 0.840, 0.923),
    "Segment Anything, published": (0.768, 0.786, 0.794, 0.928),
}
_HEAD = ("", "ODS", "OIS", "AP", "R50")


def to_dict(
    name: str,
    protocol: BoundaryProtocol,
    images: Sequence[MeasuredImage],
    scores: BoundaryScores,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all measures as plain dicts, lists and scalars, from 0 to 1, with None for what is not defined."""
    return {
        "edges": name,
        "protocol": asdict(protocol),
        "ods": scores.ods,
        "ois": scores.ois,
        "ap": scores.average_precision,
        "r50": scores.recall_at_half_precision,
        "threshold": scores.threshold,
        "precision": scores.ods_precision,
        "recall": scores.ods_recall,
        "published": {key: dict(zip(("ods", "ois", "ap", "r50"), row, strict=True)) for key, row in PUBLISHED.items()},
        "curve": {
            "thresholds": scores.thresholds.tolist(),
            "precision": scores.precision.tolist(),
            "recall": scores.recall.tolist(),
        },
        "images": [_image_to_dict(image, scores) for image in images],
        "notes": list(notes),
    }


def _image_to_dict(image: MeasuredImage, scores: BoundaryScores) -> dict[str, Any]:
    threshold, precision, recall = best_point(scores.thresholds, image.counts.precision, image.counts.recall)
    f = float(f_measure(precision, recall))
    own = {"f": f, "threshold": threshold, "precision": precision, "recall": recall}
    return {"name": image.name, "annotators": image.annotators, "best": own}


def to_text(name: str, protocol: BoundaryProtocol, images: Sequence[MeasuredImage], scores: BoundaryScores) -> str:
    """Return the measures beside the published ones, and what they were measured on."""
    own = (scores.ods, scores.ois, scores.average_precision, scores.recall_at_half_precision)
    rows = [_HEAD, *((label, *map(_decimal, row)) for label, row in {name: own, **PUBLISHED}.items())]
    width = max(len(row[0]) for row in rows)
    lines = [f"{label:{width}}" + "".join(f"{cell:>7}" for cell in cells) for label, *cells in rows]
    annotations = sum(image.annotators for image in images)
    lines.append(
        f"{len(images)} images, {annotations} annotations, {protocol.thresholds} thresholds, pairs within "
        f"{protocol.tolerance:g} of the diagonal; best threshold {scores.threshold:.2f} "
        f"(precision {_decimal(scores.ods_precision)}, recall {_decimal(scores.ods_recall)})"
    )
    return "\n".join(lines)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def draw_precision_recall(name: str, images: int, scores: BoundaryScores) -> Image.Image:
    """Draw the curve over all images, with its best point, among curves of equal F."""
    line = list(zip(scores.recall.tolist(), scores.precision.tolist(), strict=True))
    best = [(scores.ods_recall, scores.ods_precision)]
    curves = [*_lines_of_equal_f(), Curve(name, line), Curve(f"ODS {_decimal(scores.ods)}", best)]
    ticks = [tenth / 5 for tenth in range(6)]
    title = f"Boundaries in {images} images"
    return draw_curves(title, curves, Axis("recall", 0.0, 1.0, ticks), Axis("precision", 0.0, 1.0, ticks))


def _lines_of_equal_f() -> list[Curve]:
    """Return the points at which F is 0.1, 0.2, ..., 0.9: recall r and precision F r / (2 r - F)."""
    lines = []
    for f in np.arange(1, 10) / 10:
        recalls = np.linspace(f / (2 - f), 1, 50)
        lines.append(
            Curve(
                "", list(zip(recalls.tolist(), (f * recalls / (2 * recalls - f)).tolist(), strict=True)), is_guide=True
            )
        )
    return lines
