"""Masks from text, measured: the mean IoU by kind of prompt, over all objects and image by image.

Works on stored values. The measure beside Segment Anything's section 7.5, which shows examples and gives no figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grounded.evaluation.points import Mean, mean_with_interval

TEXT, CORRECTED = "text", "text + point"  # kinds of prompts that the figure compares


@dataclass(frozen=True)
class PromptedObject:
    """One object, and the IoU of its mask for each kind of prompt ("text", "box + text")."""

    file: str
    phrase: str
    ious: Mapping[str, float]
    number: int = 0  # of the object in its image


def prompt_means(objects: Sequence[PromptedObject]) -> dict[str, Mean]:
    """Return the mean IoU of each kind of prompt, over one object or more."""
    return {kind: mean_with_interval([one.ious[kind] for one in objects]) for kind in objects[0].ious}


def choose_examples(objects: Sequence[PromptedObject], count: int) -> list[PromptedObject]:
    """Return objects for a figure, of different images as far as there are: those that text alone finds best, then
    those that the point corrects most, one half each.
    """
    chosen: dict[str, PromptedObject] = {}
    by_text = sorted(objects, key=lambda one: -one.ious[TEXT])
    by_gain = sorted(objects, key=lambda one: one.ious[TEXT] - one.ious[CORRECTED])
    for ranked, most in ((by_text, (count + 1) // 2), (by_gain, count)):
        for one in ranked:
            if len(chosen) < most:
                chosen.setdefault(one.file, one)
    return list(chosen.values())


def to_dict(settings: Mapping[str, Any], objects: Sequence[PromptedObject], notes: Sequence[str]) -> dict[str, Any]:
    """Return all means as plain dicts, lists and scalars, from 0 to 1, and the objects of each image."""
    images: dict[str, list[dict[str, Any]]] = {}
    for one in objects:
        images.setdefault(one.file, []).append({"phrase": one.phrase, "iou": dict(one.ious)})
    return {
        "settings": dict(settings),
        "objects": len(objects),
        "mean_iou": {
            kind: {"mean": mean.value, "interval_95": mean.interval and list(mean.interval)}
            for kind, mean in prompt_means(objects).items()
        },
        "images": [{"file": file, "objects": own} for file, own in images.items()],
        "notes": list(notes),
    }


def to_text(objects: Sequence[PromptedObject]) -> str:
    """Return the mean IoU in percent with its 95% interval, and the share of masks of an IoU of 0.5 or more."""
    lines = [f"{'prompt':14}{'mean IoU':>14}{'IoU >= 0.5':>12}"]
    for kind, mean in prompt_means(objects).items():
        margin = "" if mean.interval is None else f" ± {100 * (mean.interval[1] - mean.value):.1f}"
        share = sum(one.ious[kind] >= 0.5 for one in objects) / len(objects)
        lines.append(f"{kind:14}{f'{100 * mean.value:.1f}{margin}':>14}{100 * share:12.1f}")
    images = len({one.file for one in objects})
    lines.append(f"of the best-scored mask, in percent, over {len(objects)} objects in {images} images")
    return "\n".join(lines)
