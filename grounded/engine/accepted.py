"""What counts as accepted: masks that a person has added, redrawn or confirmed. As masks, and as training data."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from grounded.engine.rounds import Engine
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.review.apply import corrected_records
from grounded.labelling.review.log import REVIEWS
from grounded.training.check import read_training_data
from grounded.training.data import TrainingData
from segany.utils.rle import RLE, rle_area


def accepted_masks(folder: Path) -> dict[str, list[RLE]]:
    """Return the accepted masks of a round by image, also of images that were confirmed to hold nothing.

    Raises:
        ResultError: a record or a review cannot be read.
    """
    if not (folder / REVIEWS).is_file():
        return {}
    found = {}
    for record in corrected_records(folder, accepted_only=True):
        rles = record.instances.rles
        found[record.image.file] = [rle for rle, area in zip(rles, rle_area(rles), strict=True) if area]
    return found


def accepted_data(
    engine: Engine,
    notes: Notes,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda listed: listed,
) -> TrainingData | None:
    """Return what was accepted in all rounds up to the current one; None where that is nothing.

    The same in COCO's format is what `grounded export --format coco --accepted-only` writes of a round.

    Args:
        engine: with the rounds.
        notes: what is left out is added, by kind.
        progress: passes on the images while they are decoded, as a bar does.

    Raises:
        ResultError: a round cannot be read.
    """
    parts = []
    for number in range(1, engine.number + 1):
        folder = engine.round_folder(number)
        if any(accepted_masks(folder).values()):
            parts.append(read_training_data(folder, notes, needed="mask", accepted_only=True, progress=progress))
    if not parts:
        return None
    images = {image.file: image for part in parts for image in part.images if image.objects}
    classes = dict.fromkeys(name for part in parts for name in part.classes)
    return replace(parts[0], images=tuple(images.values()), classes=tuple(classes))
