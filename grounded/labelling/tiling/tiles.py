"""Segments large images tile by tile, so that objects which are a dot in the whole image are seen at full size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.tiling.merge import merge_views
from segany.utils.rle import decode_rle, encode_columns

SegmentBatch = Callable[[Sequence[SourceImage]], Sequence[Instances]]


@dataclass(frozen=True)
class Tiles:
    """Squares of `size` pixels, which share at least `overlap` of their side with the next one.

    An object no longer than the overlap is seen uncut by at least one tile.

    Raises:
        ConfigError: the size or the overlap is out of range.
    """

    size: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        # In smaller tiles nothing can be recognised, and a typo could create millions of them.
        if self.size < 32:
            raise ConfigError(f"the size of tiles must be at least 32 pixels, got {self.size}")
        # Without overlap nothing tells which pieces are of one object; beyond a half, most is looked at nine times.
        if not 0.05 <= self.overlap <= 0.5:
            raise ConfigError(
                f"the overlap of tiles must lie in [0.05, 0.5], a share of their size, got {self.overlap}"
            )

    @classmethod
    def parse(cls, text: str) -> "Tiles":
        """Read "640" or "640:0.25": the size in pixels and the overlap as a share of it.

        Raises:
            ConfigError: the text has another form, or a number is out of range.
        """
        size, colon, overlap = text.partition(":")
        try:
            return cls(int(size), float(overlap)) if colon else cls(int(size))
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(f"tiles must be SIZE or SIZE:OVERLAP, such as 640:0.25, got {text!r}") from None

    def __str__(self) -> str:
        return f"{self.size}:{self.overlap:g}"

    def boxes(self, image_size: tuple[int, int]) -> Int64[np.ndarray, "t 4"]:
        """Return the tiles of an image of (height, width) pixels, row by row: xyxy, whole pixels.

        They cover the image and nothing beyond it, and are of one size: the last of a row or column are moved
        inwards, and where the image is less wide or high than a tile, so are all tiles.
        """
        height, width = image_size
        tile_height, tile_width = min(self.size, height), min(self.size, width)
        corners = [(x, y) for y in self._starts(height) for x in self._starts(width)]
        return np.array([(x, y, x + tile_width, y + tile_height) for x, y in corners], dtype=np.int64)

    def _starts(self, length: int) -> list[int]:
        step = self.size - int(np.ceil(self.size * self.overlap))
        return [*range(0, length - self.size, step), max(0, length - self.size)]


def segment_tiled(
    segment: SegmentBatch,
    image: SourceImage,
    tiles: Tiles,
    groups: Sequence[int] | None = None,
    tiles_at_once: int = 8,
) -> Instances:
    """Segment an image as a whole, for large objects, and each of its tiles, for small ones.

    `grounded.labelling.tiling.merge` describes how the instances are merged. An image no larger than a tile is
    segmented once, and its instances are returned as they are. Masks are held run-length encoded, and decoded one by
    one in the frame of their tile, so that memory does not grow with their number times the size of the image.

    Args:
        segment: segments a batch; called with the whole image, then with up to `tiles_at_once` tiles at a time, which
            are of one size. Its exceptions are passed on.
        image: the image.
        tiles: how to cut it.
        groups: for each phrase a number that it shares with those that mean the same, such as `Vocabulary.groups`:
            pieces of an object are then merged across these phrases. By default all differ.
        tiles_at_once: most tiles that are cut out at a time.

    Returns:
        instances in the frame of the whole image, best first.
    """
    boxes = tiles.boxes(image.size)
    parts = list(segment([image]))
    if len(boxes) == 1:
        return parts[0]
    for i in range(0, len(boxes), tiles_at_once):
        batch = boxes[i : i + tiles_at_once]
        found = segment([SourceImage(image.pixels.crop(tuple(box))) for box in batch.tolist()])
        parts += [place_in_image(one, box, image.size) for one, box in zip(found, batch, strict=True)]
    height, width = image.size
    views = np.concatenate([np.array([[0, 0, width, height]]), boxes])
    return merge_views(parts, views, groups)


def place_in_image(instances: Instances, box: Int64[np.ndarray, "4"], image_size: tuple[int, int]) -> Instances:
    """Move instances from the frame of the tile at `box` to that of an image of (height, width) pixels."""
    x, y = int(box[0]), int(box[1])
    columns = (decode_rle([rle]).transpose(1, 2).contiguous() for rle in instances.rles)
    return replace(
        instances,
        image_size=image_size,
        boxes=instances.boxes + np.array([x, y, x, y], dtype=np.float32),
        rles=tuple(encode_columns(mask, (x, y), image_size)[0] for mask in columns),
    )
