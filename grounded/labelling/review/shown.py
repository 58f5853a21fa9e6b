"""What a page shows of instances, fit for JSON."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from pycocotools import mask as coco_mask

from grounded.labelling.records import Record
from grounded.labelling.review.apply import Verdict
from grounded.labelling.review.log import Key
from grounded.output.draw import phrase_colour
from grounded.output.polygons import TOLERANCE, mask_to_polygons
from segany.utils.rle import RLE

_OUTLINE_STEPS = 1500  # along the longer side: as fine as a screen shows


def instances(record: Record, verdicts: Mapping[Key, Verdict]) -> list[dict[str, Any]]:
    """The instances of a record and what was said of them, rejected ones too; those that a person added come last."""
    found, listed = record.instances, list[dict[str, Any]]()
    for row in range(len(found)):
        verdict = verdicts.get(row, Verdict("undo"))
        label = str(found.labels[row])
        listed.append(
            {
                **_entry(row, verdict, verdict.phrase or label, verdict.mask or found.rles[row]),
                "asked": label,
                "score": _finite(float(found.scores[row])),
                "source": str(found.sources[row]),
            }
        )
    for key, verdict in verdicts.items():
        if isinstance(key, str) and verdict.phrase and verdict.mask:
            listed.append({**_entry(key, verdict, verdict.phrase, verdict.mask), "score": None, "source": "added"})
    return listed


def _entry(key: Key, verdict: Verdict, phrase: str, mask: RLE) -> dict[str, Any]:
    red, green, blue = phrase_colour(phrase)
    return {
        "key": key,
        "phrase": phrase,
        "state": None if verdict.action == "undo" else verdict.action,
        "redrawn": verdict.mask is not None,
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
        "area": int(coco_mask.area(mask)),
        "path": outline(mask),
    }


def mask(rle: RLE, iou: float) -> dict[str, Any]:
    """A mask that nobody has accepted yet."""
    return {"mask": dict(rle), "path": outline(rle), "iou": _finite(iou)}


def outline(rle: RLE) -> str:
    """A mask as the path of an SVG in pixels of the picture, by the even-odd rule."""
    parts = []
    for polygon in mask_to_polygons(rle, max(TOLERANCE, max(rle["size"]) / _OUTLINE_STEPS)):
        for ring in polygon.rings:
            parts.append("M" + "L".join(f"{x:.6g},{y:.6g}" for x, y in ring.round(1)) + "Z")
    return "".join(parts)


def _finite(number: float) -> float | None:
    return round(number, 4) if isfinite(number) else None
