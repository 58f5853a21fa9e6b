"""A record's instances in the numbers of a format's classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.records import Record
from segany.utils.rle import rle_area


def numbered(classes: Sequence[str]) -> dict[str, int]:
    """Return the number of each class, from 0 in their order."""
    return {label: number for number, label in enumerate(classes)}


def of_classes(record: Record, numbers: Mapping[str, int]) -> Instances:
    """Return the instances with the classes for phrases, so that `phrase_ids` are the numbers; the matrix is nan.

    Raises:
        ResultError: an instance is of none of the classes.
    """
    instances = record.instances
    for label in instances.labels.tolist():
        if label not in numbers:
            raise ResultError(f"{record.image.file}: {label!r} is not among the {len(numbers)} classes")
    return replace(
        instances,
        phrases=tuple(numbers),
        phrase_ids=np.array([numbers[label] for label in instances.labels.tolist()], dtype=np.int64),
        phrase_scores=np.full((len(instances), len(numbers)), np.nan, np.float32),
    )


def with_pixels(instances: Instances, lost: Counter[str]) -> Instances:
    """Return the instances whose masks are not empty, and count the others among what is lost."""
    areas = rle_area(instances.rles)
    rows = np.flatnonzero(areas)
    lost["instances left out, as their masks are empty"] += len(areas) - len(rows)
    return instances[rows]
