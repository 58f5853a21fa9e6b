"""Large pictures in tiles: objects that are a dot in the whole picture are asked for at full size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.tiling.merge import join
from segany.utils.rle import RLE, decode_rle, encode_columns

Segment = Callable[[Sequence[SourceImage]], Sequence[Instances]]


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
        # In smaller tiles nothing can be recognised, and a slip of the pen would ask for millions of them.
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
        """Return the tiles of a picture of (height, width) pixels, row by row: xyxy, whole pixels.

        They cover the picture and nothing beyond it, and are of one size: the last of a row or column are moved
        inwards, and where the picture is less wide or high than a tile, so are all tiles.
        """
        height, width = image_size
        tall, wide = min(self.size, height), min(self.size, width)
        corners = [(x, y) for y in self._starts(height) for x in self._starts(width)]
        return np.array([(x, y, x + wide, y + tall) for x, y in corners], dtype=np.int64)

    def _starts(self, length: int) -> list[int]:
        step = self.size - int(np.ceil(self.size * self.overlap))
        return [*range(0, length - self.size, step), max(0, length - self.size)]


def segment_tiled(
    segment: Segment,
    picture: SourceImage,
    tiles: Tiles,
    groups: Sequence[int] | None = None,
    tiles_at_once: int = 8,
) -> Instances:
    """Ask for what is in a picture as a whole, for large objects, and in each of its tiles, for small ones.

    How the answers become one is told in `grounded.labelling.tiling.merge`. A picture no larger than a tile is asked once,
    and the answer is returned as it is. Masks are held run-length encoded, and decoded one by one in the frame of their
    tile, so that memory does not grow with their number times the size of the picture.

    Args:
        segment: answers for pictures; here for the whole, then for up to `tiles_at_once` tiles at a time, which are of
            one size. What it raises is passed on.
        picture: what to look at.
        tiles: how to cut it.
        groups: for each phrase a number that it shares with those that mean the same, such as `Vocabulary.groups`:
            pieces of an object are then joined though they answer different ones. By default all differ.
        tiles_at_once: most tiles that are cut out at a time.

    Returns:
        instances in the frame of the whole picture, best first.
    """
    boxes = tiles.boxes(picture.size)
    answers = list(segment([picture]))
    if len(boxes) == 1:
        return answers[0]
    for i in range(0, len(boxes), tiles_at_once):
        some = boxes[i : i + tiles_at_once]
        found = segment([SourceImage(picture.pixels.crop(tuple(box))) for box in some.tolist()])
        answers += [placed(one, box, picture.size) for one, box in zip(found, some, strict=True)]
    height, width = picture.size
    views = np.concatenate([np.array([[0, 0, width, height]]), boxes])
    return join(answers, views, groups)


def placed(instances: Instances, box: Int64[np.ndarray, "4"], image_size: tuple[int, int]) -> Instances:
    """Move instances from the frame of the tile at `box` to that of a picture of (height, width) pixels."""
    x, y = int(box[0]), int(box[1])
    return replace(
        instances,
        image_size=image_size,
        boxes=instances.boxes + np.array([x, y, x, y], dtype=np.float32),
        rles=tuple(_placed(rle, (x, y), image_size) for rle in instances.rles),
    )


def _placed(rle: RLE, corner: tuple[int, int], image_size: tuple[int, int]) -> RLE:
    columns = decode_rle([rle]).transpose(1, 2).contiguous()
    return encode_columns(columns, corner, image_size)[0]
