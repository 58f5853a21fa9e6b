"""How instances show themselves: one line of text, and in notebooks a table with small cut-outs."""

import base64
import html
import io
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage, open_image
from grounded.data.phrases import shortened
from segany.utils.rle import decode_rle, rle_area, rle_boxes

if TYPE_CHECKING:
    from grounded.data.instances import Instances

# A table is kept in the notebook's file: with these it has some 60 KB at most.
_ROWS_SHOWN, _SIDE = 30, 64
_LISTED = 5
_COLUMNS = ("", "#", "phrase", "score", "predicted IoU", "box (x0, y0, x1, y1)", "area, px")


@dataclass(frozen=True)
class ImageReference:
    """Where the image of instances can be had again. It keeps no image in memory, and loads nothing from the network.

    `held` returns the image that the caller has given, or None once the caller has dropped it.
    """

    held: Callable[[], Any]
    path: Path | None

    @classmethod
    def of(cls, given: Any, source: SourceImage) -> "ImageReference":
        """Refer to an image as the caller has given it, which was opened as `source`."""
        # Bytes and open files are not referred to: the former cannot be, and the latter may have been read on.
        can_be_opened_again = isinstance(given, Image.Image) or hasattr(given, "__array__")
        held = weakref.ref(given if can_be_opened_again else source.pixels)
        return cls(held, None if source.path is None else source.path.absolute())

    def open(self, image_size: tuple[int, int]) -> SourceImage | None:
        """Open the image again; None where it is gone, or is not of (height, width) `image_size` any more."""
        for place in (self.held(), self.path):
            # Whatever has become of the file or the object since, what is shown of instances is no place to fail.
            with suppress(Exception):
                if place is not None and (source := open_image(place)).size == image_size:
                    return source
        return None


def describe(instances: "Instances") -> str:
    """Return instances in one line: "Instances(2: a dog 0.91, a pizza 0.45; 640×480)"."""
    height, width = instances.image_size
    pairs = zip(instances.labels[:_LISTED].tolist(), instances.scores[:_LISTED], strict=True)
    parts = [
        f"{shortened(label, 30)} {score:.2f}" if np.isfinite(score) else shortened(label, 30) for label, score in pairs
    ]
    if len(instances) > _LISTED:
        parts.append(f"{len(instances) - _LISTED} more")
    found = f": {', '.join(parts)}" if parts else f" of {shortened(', '.join(instances.phrases))}"
    return f"Instances({len(instances)}{found}; {width}×{height})"


def html_table(instances: "Instances") -> str:
    """Return instances as a table for notebooks, with cut-outs where the image is known; the first of many."""
    reference = instances.image_source
    source = None if reference is None or not len(instances) else reference.open(instances.image_size)
    first = instances[:_ROWS_SHOWN]
    areas = rle_area(first.rles)
    rows = []
    for i, label in enumerate(first.labels.tolist()):
        cutout = "" if source is None else f'<img src="data:image/jpeg;base64,{_cutout(source.pixels, first, i)}">'
        box = ", ".join(f"{side:.0f}" for side in first.boxes[i])
        numbers = _number(first.scores[i]), _number(first.predicted_iou[i]), box, f"{areas[i]:,}"
        cells = "".join(f"<td>{cell}</td>" for cell in (i, html.escape(shortened(label, 200)), *numbers))
        rows.append(f"<tr><td>{cutout}</td>{cells}</tr>")
    more = f"<p>{len(instances) - len(first)} more</p>" if len(instances) > len(first) else ""
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    return f"<div><p>{html.escape(describe(instances))}</p>{table}{more}</div>"


def _cutout(image: Image.Image, instances: "Instances", row: int) -> str:
    """Return the image within a mask and pale around it, cropped to the mask, as base64 of a small JPEG file."""
    x0, y0, x1, y1 = (int(side) for side in rle_boxes(instances.rles[row : row + 1])[0])
    if x1 <= x0 or y1 <= y0:
        x0, y0, x1, y1 = 0, 0, 1, 1  # an empty mask
    scale = min(1.0, _SIDE / max(x1 - x0, y1 - y0))
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    mask = decode_rle(instances.rles[row : row + 1])[0, y0:y1, x0:x1].numpy()
    opacity = Image.fromarray(np.where(mask, 255, 40).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    small = image.crop((x0, y0, x1, y1)).resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    Image.composite(small, Image.new("RGB", size, "white"), opacity).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def _number(value: np.float32) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"
