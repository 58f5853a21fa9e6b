"""What a user says of a clip's objects: masks of frames as PNGs, and JSON with points, boxes and masks."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image
from pydantic import Field, Strict

from grounded.data.clicks import validate_points
from grounded.errors import ConfigError, ImageError, MaskError, PromptError, one_line
from grounded.utils.validation import checked_dataclass, read_as
from grounded.video.output.mask_folder import LABELS, VOID, davis_palette
from segany.utils.images import MAX_PIXELS
from segany.utils.rle import RLE, check_rle, encode_rle, rle_from_polygons

_LARGEST = 500_000_000  # bytes of a JSON file
_MOST_IDS = 1000  # in one PNG; more are noise, not objects
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP")
_WHITE = (255, 255, 255)

Position = Annotated[int, Field(ge=0)]
TrackId = Annotated[int, Field(ge=1, le=1_000_000)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
Rows = Annotated[tuple[Numbers, ...], Strict(False)]


# ---- Masks as PNGs ----


def read_masks(
    path: str | PathLike[str], image_size: tuple[int, int], frame: int = 0
) -> tuple[dict[int, dict[int, RLE]], dict[int, str]]:
    """Read `--masks`: one PNG of the objects in a frame, or a folder of PNGs named by the numbers of their frames.

    Args:
        path: of a PNG as `read_mask` takes it, or of a folder of them, such as `mask_folder` writes and DAVIS has.
        image_size: (height, width) of the frames.
        frame: which one a single PNG belongs to.

    Returns:
        masks by frame number and track id, and the labels of tracks, as far as a folder's labels.json states them.

    Raises:
        PromptError: a file is missing, no mask, of another size than the frames, or there is no object in any.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        masks = {frame: read_mask(path, image_size)}
        if not masks[frame]:
            raise PromptError(f"{path} marks no object: all of it is background")
        return masks, {}
    masks = {number: read_mask(file, image_size) for number, file in _numbered_files(path)}
    if not any(masks.values()):
        raise PromptError(f"{path} marks no object: its {len(masks)} masks are background alone")
    return masks, _read_labels(path / LABELS)


def read_mask(path: Path, image_size: tuple[int, int]) -> dict[int, RLE]:
    """Return the objects that a mask image marks, by their ids: none for one that is background alone.

    An indexed PNG has ids as its values, as has one in grey; 0 is background, and 255 void: no object. An image in
    black and white, 0 and 255, marks object 1. An RGB image in the colours of DAVIS has the ids of these colours.

    Args:
        path: of an image without loss; JPEGs would change ids.
        image_size: (height, width) that it must have.

    Raises:
        PromptError: it cannot be read, is of another size or kind, or holds ids as no program writes them.
    """
    ids = _read_ids(path)
    if ids.shape != tuple(image_size):
        raise PromptError(
            f"{path} must be of the size of the frames, {image_size[1]}x{image_size[0]}, "
            f"got {ids.shape[1]}x{ids.shape[0]}"
        )
    marked = [value for value in np.unique(ids).tolist() if value != 0]
    if len(marked) > _MOST_IDS:
        raise PromptError(f"{path} must hold an id per object, got {len(marked)} different values: it is no mask")
    return {value: encode_rle((ids == value)[None])[0] for value in marked}


def _read_ids(path: Path) -> Int64[np.ndarray, "h w"]:
    """The id of each pixel, 0 for background and void."""
    try:
        with Image.open(path) as image:
            if image.format not in _LOSSLESS:
                raise PromptError(f"{path} must be a PNG, got {image.format}, which may change the ids of objects")
            if image.width * image.height > MAX_PIXELS:
                raise PromptError(f"{path} must have up to {MAX_PIXELS} pixels, got {image.width}x{image.height}")
            if image.mode in ("RGB", "RGBA"):
                return _ids_of_colours(np.asarray(image), path)
            if image.mode not in ("1", "L", "P", "I", "I;16", "I;16L", "I;16B"):
                raise PromptError(f"{path} must be indexed, grey or in the colours of DAVIS, got mode {image.mode}")
            white = image.mode != "P" or (image.getpalette() or [])[3 * VOID : 3 * VOID + 3] == list(_WHITE)
            ids = np.asarray(image).astype(np.int64)
            highest = 1 if image.mode == "1" else 255 if image.mode in ("L", "P") else 65535
    except PromptError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise PromptError(f"cannot read the mask {path}: {reason}") from error
    if ids.min() < 0 or ids.max() > 65535:
        raise PromptError(f"{path} must hold ids from 0 to 65535, got {ids.min()} to {ids.max()}")
    is_black_and_white = white and set(np.unique(ids).tolist()) <= {0, max(highest, 1)}
    if is_black_and_white:
        return (ids > 0).astype(np.int64)
    return np.where(ids == highest, 0, ids) if highest > 1 else ids


def _ids_of_colours(pixels: UInt8[np.ndarray, "h w c"], path: Path) -> Int64[np.ndarray, "h w"]:
    """The ids whose colours in the palette of DAVIS these are; white alone is object 1."""
    if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
        raise PromptError(f"{path} must be a mask without transparency, got an alpha channel")
    codes = pixels[..., 0].astype(np.int64) << 16 | pixels[..., 1].astype(np.int64) << 8 | pixels[..., 2]
    found = set(np.unique(codes).tolist())
    if found <= {0, 0xFFFFFF}:
        return (codes > 0).astype(np.int64)
    palette = davis_palette().astype(np.int64)
    known = palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2]
    unknown = found - set(known.tolist())
    if unknown:
        raise PromptError(
            f"{path} must be indexed, grey or in the colours of DAVIS, got the colour #{min(unknown):06x}"
        )
    order = np.argsort(known)
    ids = order[np.searchsorted(known[order], codes)]
    return np.where(ids == VOID, 0, ids)


def _numbered_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The PNGs of a folder by the numbers that are their names, in order."""
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".png" and not file.name.startswith(".")]
    numbers: dict[int, Path] = {}
    for file in sorted(files):
        if not re.fullmatch("[0-9]{1,9}", file.stem):
            raise PromptError(f"masks must be named by the numbers of their frames, as 00000.png, got {file}")
        if int(file.stem) in numbers:
            raise PromptError(f"{file} and {numbers[int(file.stem)].name} are masks of one frame")
        numbers[int(file.stem)] = file
    if not numbers:
        raise PromptError(f"{folder} holds no PNG")
    yield from sorted(numbers.items())


def _read_labels(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    labels = _read_json(path)
    if not isinstance(labels, dict) or not all(
        re.fullmatch("[0-9]{1,9}", key) and isinstance(label, str) for key, label in labels.items()
    ):
        raise PromptError(f'{path} must state the label of each id, as {{"1": "a dog"}}')
    return {int(key): label for key, label in labels.items()}


# ---- Points, boxes and masks as JSON ----


@dataclass(frozen=True)
class ObjectPrompt:
    """What a user says of one object on one frame: a mask, or a box, points, or both.

    frame         number of the frame, from 0
    track_id      of the object, from 1
    label         its phrase; None where none was given
    rle           its mask; empty: it is not in sight
    box           xyxy in pixels
    points        (x, y) in pixels
    point_labels  of the points, 1 foreground and 0 background
    """

    frame: int
    track_id: int
    label: str | None = None
    rle: RLE | None = None
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    point_labels: tuple[int, ...] = ()

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise PromptError if it holds a mask that is not of (height, width) pixels."""
        if self.rle is not None:
            try:
                check_rle(self.rle, size)
            except MaskError as error:
                raise PromptError(f"object {self.track_id} in frame {self.frame}: {error}") from error


@checked_dataclass
class _Entry:
    frame: Position
    id: TrackId
    label: str = ""
    points: Rows = ()
    point_labels: Annotated[tuple[int, ...], Strict(False)] = ()
    box: Numbers = ()
    mask: dict[str, Any] | None = None  # {"size": [height, width], "counts": …}, COCO's RLE in any form
    polygons: Rows = ()  # [x0, y0, x1, y1, …] each; the mask is their union


@checked_dataclass
class _File:
    prompts: Annotated[tuple[_Entry, ...], Strict(False)]


def read_prompts(path: str | PathLike[str], image_size: tuple[int, int]) -> tuple[ObjectPrompt, ...]:
    """Read `--prompts`: {"prompts": [{"frame": 0, "id": 1, "label": "a dog", "box": [x0, y0, x1, y1]}, …]}.

    Besides the box, or instead of it, an entry may have "points": [[x, y], …] and "point_labels": [1, 0, …], all
    foreground by default; or else "mask", COCO's RLE, or "polygons": [[x0, y0, x1, y1, …], …].

    Args:
        path: of the file.
        image_size: (height, width) of the frames.

    Returns:
        the prompts by frame and track id.

    Raises:
        PromptError: the file cannot be read, or an entry, which the message names, is wrong.
    """
    path = Path(path).expanduser()
    try:
        entries = read_as(_File, _read_json(path), str(path)).prompts
    except ConfigError as error:
        raise PromptError(str(error)) from error
    if not entries:
        raise PromptError(f"{path} holds no prompt")
    prompts: dict[tuple[int, int], ObjectPrompt] = {}
    labels: dict[int, str] = {}
    for i, entry in enumerate(entries):
        try:
            prompt = _checked(entry, image_size)
            known = labels.setdefault(prompt.track_id, entry.label) if entry.label else entry.label
            if known != entry.label:
                raise PromptError(f"label must be {known!r} as before for id {entry.id}, got {entry.label!r}")
            if (entry.frame, entry.id) in prompts:
                raise PromptError(f"there must be one prompt for id {entry.id} on frame {entry.frame}, got another")
        except (PromptError, MaskError, ImageError) as error:
            raise PromptError(f"{path}: prompts[{i}]: {error}") from error
        prompts[entry.frame, entry.id] = prompt
    return tuple(prompts[key] for key in sorted(prompts))


def _checked(entry: _Entry, image_size: tuple[int, int]) -> ObjectPrompt:
    """The prompt that an entry is. Raises PromptError and MaskError, which do not name the entry."""
    has_mask = entry.mask is not None or bool(entry.polygons)
    if (entry.mask is not None) + bool(entry.polygons) + bool(entry.points or entry.box) != 1:
        raise PromptError("expected either mask, or polygons, or points and a box or one of them, got several or none")
    rle = None
    if has_mask:
        rle = rle_from_polygons([list(p) for p in entry.polygons], image_size) if entry.polygons else None
        rle = check_rle(entry.mask, image_size) if rle is None else rle
    if entry.point_labels and not entry.points:
        raise PromptError("point_labels need points, got none")
    labels = entry.point_labels or (1,) * len(entry.points)
    points: tuple[tuple[float, float], ...] = ()
    if entry.points:
        validate_points([list(point) for point in entry.points], list(labels), image_size)
        points = tuple((point[0], point[1]) for point in entry.points)
    return ObjectPrompt(
        frame=entry.frame,
        track_id=entry.id,
        label=entry.label or None,
        rle=rle,
        box=_checked_box(entry.box, image_size) if entry.box else None,
        points=points,
        point_labels=labels if points else (),
    )


def _checked_box(box: tuple[float, ...], image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = image_size
    if len(box) != 4:
        raise PromptError(f"box must be [x0, y0, x1, y1], got {len(box)} numbers")
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise PromptError(f"box must lie in the frame of {width}x{height} pixels, and have an area, got {list(box)}")
    return x0, y0, x1, y1


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise PromptError(f"{path} must have up to {_LARGEST} bytes, got {path.stat().st_size}")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(f"{path} is not JSON: {one_line(error)}") from error
