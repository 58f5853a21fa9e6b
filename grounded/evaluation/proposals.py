"""Average recall (AR) of mask proposals, which have no class: how many objects a model finds at all.

The measure of Segment Anything's section 7.3: an object counts as found where one of the first k proposals of its image
has at least some IoU with it, each proposal standing for one object. AR is the mean over IoU thresholds of 0.5 to 0.95,
over all objects of all images. By size as COCO has it, objects of other sizes being ignored; by class frequency against
the objects of those classes alone. The same numbers as pycocotools with `useCats=0`, in less memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from grounded.evaluation.dataset import GroundTruthObject
from grounded.evaluation.matching import UNMATCHED, match_with_ignored
from segany.utils.rle import RLE, rle_iou

LIMITS = (10, 100, 1000)  # proposals of an image that count
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # pixels
FREQUENCIES = ("rare", "common", "frequent")
# Segment Anything, table 4: mask AR@1000 on LVIS v1, in percent.
PUBLISHED = {
    "ViTDet-H": {"all": 63.0, "small": 51.7, "medium": 80.8, "large": 87.0}
    | {"frequent": 63.1, "common": 63.3, "rare": 58.3},
    "SAM, single output": {"all": 54.9, "small": 42.8, "medium": 76.7, "large": 74.4}
    | {"frequent": 54.7, "common": 59.8, "rare": 62.0},
    "SAM": {"all": 59.3, "small": 45.5, "medium": 81.6, "large": 86.9}
    | {"frequent": 59.1, "common": 63.9, "rare": 65.8},
}


@dataclass(frozen=True)
class FoundObjects:
    """The objects of a group in one image or several, and how many of them were found."""

    objects: int
    found: Int64[np.ndarray, "k t"]  # within the first LIMITS proposals, at each of IOU_THRESHOLDS

    @property
    def average_recall(self) -> tuple[float, ...] | None:
        """AR for each of LIMITS; None without objects."""
        return tuple((self.found.mean(axis=1) / self.objects).tolist()) if self.objects else None


def count_found(
    proposals: Sequence[RLE], targets: Sequence[GroundTruthObject], frequencies: Mapping[str, str] | None = None
) -> dict[str, FoundObjects]:
    """Count the objects of one image that proposals find, in all, by size, and by class frequency.

    Args:
        proposals: masks of the image, best first; those beyond the last of LIMITS do not count.
        targets: objects with a mask; crowds are ignored, and so are their proposals.
        frequencies: "rare", "common" or "frequent" by class; None for no such groups.
    """
    proposals = proposals[: LIMITS[-1]]
    crowds = np.array([target.is_crowd for target in targets], dtype=bool)
    areas = np.array([target.area for target in targets], dtype=np.float64)
    ious = rle_iou(proposals, [target.require_mask() for target in targets], crowds.tolist())
    groups = {}
    for name, (low, high) in AREAS.items():
        groups[name] = _count_group(ious, crowds | (areas < low) | (areas > high), crowds)
    for name in FREQUENCIES if frequencies is not None else ():
        own = np.array([(frequencies or {}).get(target.label) == name for target in targets], dtype=bool)
        groups[name] = _count_group(ious[:, own], crowds[own], crowds[own])
    return groups


def _count_group(
    ious: Float64[np.ndarray, "n m"], ignored: Bool[np.ndarray, "m"], crowds: Bool[np.ndarray, "m"]
) -> FoundObjects:
    found = np.zeros((len(LIMITS), len(IOU_THRESHOLDS)), np.int64)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        matched = match_with_ignored(ious, ignored, crowds, threshold)
        is_found = matched != UNMATCHED
        is_found[is_found] = ~ignored[matched[is_found]]
        # A better proposal never depends on worse ones, so that the first k may be counted afterwards.
        found[:, column] = [is_found[:limit].sum() for limit in LIMITS]
    return FoundObjects(int((~ignored).sum()), found)


def sum_found(images: Iterable[Mapping[str, FoundObjects]]) -> dict[str, FoundObjects]:
    """Add up the groups of images."""
    total: dict[str, FoundObjects] = {}
    for image in images:
        for name, one in image.items():
            so_far = total.get(name)
            total[name] = (
                one if so_far is None else FoundObjects(so_far.objects + one.objects, so_far.found + one.found)
            )
    return total


def found_to_dict(groups: Mapping[str, FoundObjects]) -> dict[str, Any]:
    """Return the counts of an image as plain dicts, lists and scalars."""
    return {name: {"objects": one.objects, "found": one.found.tolist()} for name, one in groups.items()}


def found_from_dict(data: Mapping[str, Any]) -> dict[str, FoundObjects]:
    """Return what `found_to_dict` was given."""
    return {name: FoundObjects(one["objects"], np.array(one["found"], np.int64)) for name, one in data.items()}


def to_dict(
    settings: Mapping[str, Any], groups: Mapping[str, FoundObjects], proposals: Sequence[int], notes: Sequence[str]
) -> dict[str, Any]:
    """Return AR from 0 to 1 as plain dicts, lists and scalars.

    Args:
        settings: of the evaluation.
        groups: of all images together.
        proposals: the number of each image.
        notes: on what was left out.
    """
    recalls = {}
    for name, one in groups.items():
        values = one.average_recall or (None,) * len(LIMITS)
        recalls[name] = {f"AR@{limit}": value for limit, value in zip(LIMITS, values, strict=True)}
        recalls[name]["objects"] = one.objects
    return {
        "settings": dict(settings),
        "images": len(proposals),
        "proposals_per_image": float(np.mean(proposals)) if proposals else None,
        "average_recall": recalls,
        "notes": list(notes),
    }


def to_text(groups: Mapping[str, FoundObjects], proposals: Sequence[int]) -> str:
    """Return AR in percent as a table, with published figures below it where there are groups by frequency."""
    names = list(groups)
    lines = [" " * 20 + "".join(f"{name:>9}" for name in names)]
    for number, limit in enumerate(LIMITS):
        values = [None if (recall := one.average_recall) is None else 100 * recall[number] for one in groups.values()]
        lines.append(f"{f'AR@{limit}':20}" + "".join(map(_cell, values)))
    lines.append(f"{'objects':20}" + "".join(f"{one.objects:9}" for one in groups.values()))
    if set(FREQUENCIES) <= set(names):
        lines.append("published for LVIS v1, AR@1000:")
        lines += [f"{name:20}" + "".join(_cell(row[group]) for group in names) for name, row in PUBLISHED.items()]
    lines.append(
        f"mask AR in percent over {len(proposals)} images with {np.mean(proposals):.0f} proposals each on average"
    )
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.1f}"
