"""How an instance is known again when an annotation tool hands it back."""

import hashlib

from grounded.data.instances import Instances
from segany.utils.rle import RLE

LENGTH = 12  # hexadecimal digits


def mark(rle: RLE, label: str) -> str:
    """Return digits that tell this mask under this label from others: rows may move, and the contents do not.

    Formats with a place for it carry it along, so that an instance whose mask or label was changed since is known.
    """
    return hashlib.sha256(f"{rle['size']} {rle['counts']} {label}".encode()).hexdigest()[:LENGTH]


def marks(instances: Instances) -> list[str]:
    """Return the mark of each instance. Files that hold them tell what was removed since, and what never was there."""
    return [mark(rle, label) for rle, label in zip(instances.rles, instances.labels.tolist(), strict=True)]
