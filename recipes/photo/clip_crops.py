"""Crops of named objects and of backgrounds, on which the CLIP of `photo` learns and is measured.

Objects are cut out as `grounded.models.clip_scorer` cuts out masks, with random margins and what lies beyond the mask
kept, blurred or grey, so that any of its settings suits what was learnt.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from grounded.config import ScoringConfig
from grounded.labelling.formats.annotations import LeftOut, Notes
from grounded.labelling.formats.coco_file import CocoFile, CocoImage, read_coco
from grounded.models.clip_scorer import square_crop
from recipes.photo.data import read_sources
from segany.utils.rle import RLE, rle_area, rle_from_polygons, rle_intersection, rle_union

BACKGROUND = ""  # the name of a crop that shows nothing in particular
SMALLEST = 14 * 14  # pixels of a mask's area
EVEN = 16.0  # of a name with n boxes in a source at most EVEN * sqrt(n) are shown: a few names have most of the boxes
SHARES = {"ccp": 0.4, "endangered-animals": 0.7}  # times that, for sources with many boxes of few kinds
LEAST = 100  # a rarer name gets about this many crops, by cutting each box several times
VARIANTS = 3  # of a box, at most
_MARGINS = 0.05, 0.3
_BACKGROUNDS = "keep", "keep", "blur", "grey"
_COVERED = 0.08  # share of a background's window that objects may cover


@dataclass(frozen=True)
class Crop:
    """What to cut out of which image, and what it shows."""

    file: Path
    rle: RLE
    name: str
    source: str
    config: ScoringConfig
    seed: int | None = None  # of flips and colours; None: the pixels as they are
    is_held_out: bool = False  # from a training image that only chooses settings

    def draw(self) -> Image.Image:
        """The square of pixels."""
        crop = square_crop(_open(self.file), self.rle, self.config)
        return crop if self.seed is None else _vary(crop, np.random.default_rng(self.seed))


def list_boxes(folder: Path, split: str, smallest: float = SMALLEST, config: ScoringConfig | None = None) -> list[Crop]:
    """One crop of each named object with a mask, as a pipeline with `config` cuts it out.

    Args:
        folder: of photographs in COCO format.
        split: which of them.
        smallest: area of a mask in pixels that is too small to be shown.
        config: None: all pixels around the object kept, margin 0.15.

    Raises:
        ResultError: the file cannot be read.
    """
    coco, sources = read_coco(folder / f"{split}.json"), read_sources(folder / f"{split}.json")
    config = config or ScoringConfig(background="keep", margin=0.15)
    return [
        Crop(folder / split / str(image.file_name), rle, name, sources.get(image.file_name, split), config)
        for image in coco.images
        for rle, name, area in _objects(coco, image)
        if area > smallest
    ]


def plan_crops(folder: Path, split: str, seed: int = 0, held_out: float = 0.1) -> list[Crop]:
    """The crops to learn from, in random order, with backgrounds. Frequent names are thinned out.

    Args:
        folder: of photographs in COCO format.
        split: which of them.
        seed: of what is random.
        held_out: share of the images whose crops only choose settings.

    Raises:
        ResultError: the file cannot be read.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[Crop]] = defaultdict(list)
    for crop in list_boxes(folder, split):
        groups[crop.source, crop.name].append(crop)
    chosen = []
    for source, name in sorted(groups):
        own, share = groups[source, name], SHARES.get(source, 1.0)
        boxes = [own[row] for row in rng.permutation(len(own))[: round(EVEN * share * math.sqrt(len(own)))]]
        chosen += boxes * min(VARIANTS, math.ceil(LEAST * share / len(boxes)))
    chosen += _list_backgrounds(folder, split, rng)
    files = sorted({crop.file for crop in chosen})
    held = {files[row] for row in rng.permutation(len(files))[: round(held_out * len(files))]}
    return [_randomise(chosen[row], rng, chosen[row].file in held) for row in rng.permutation(len(chosen))]


def _randomise(crop: Crop, rng: np.random.Generator, is_held_out: bool) -> Crop:
    background = "keep" if crop.name == BACKGROUND else _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]
    config = ScoringConfig(background=background, margin=float(rng.uniform(*_MARGINS)))  # type: ignore[arg-type]
    return Crop(crop.file, crop.rle, crop.name, crop.source, config, int(rng.integers(2**31)), is_held_out)


def _objects(coco: CocoFile, image: CocoImage) -> list[tuple[RLE, str, float]]:
    """Mask, name and area of each object of an image whose size the file states."""
    if image.image_size is None:
        return []
    objects = coco.objects(image, image.image_size, LeftOut(Notes(), str(image.file_name)))
    return [(one.mask, one.label, one.area) for one in objects if one.mask is not None and not one.is_crowd]


def _list_backgrounds(folder: Path, split: str, rng: np.random.Generator, share: float = 0.3) -> list[Crop]:
    """Windows of some images, in which there is little of any object."""
    coco, sources = read_coco(folder / f"{split}.json"), read_sources(folder / f"{split}.json")
    found = []
    for image in coco.images:
        objects = _objects(coco, image)
        if not objects or image.image_size is None or rng.random() > share:
            continue
        covered = rle_union([rle for rle, _, _ in objects])
        window = _find_window(covered, image.image_size, rng)
        if window is not None:
            file, source = folder / split / str(image.file_name), sources.get(image.file_name, split)
            found.append(Crop(file, window, BACKGROUND, source, ScoringConfig(background="keep")))
    return found


def _find_window(covered: RLE, size: tuple[int, int], rng: np.random.Generator, tries: int = 8) -> RLE | None:
    """A window as a mask, in which little is covered; None where there is none to be found."""
    height, width = size
    for _ in range(tries):
        side = rng.uniform(0.2, 0.5) * min(size)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        window = rle_from_polygons([[x, y, x + side, y, x + side, y + side, x, y + side]], size)
        if rle_area([rle_intersection([window, covered])])[0] < _COVERED * rle_area([window])[0]:
            return window
    return None


def _vary(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.5:
        crop = ImageOps.mirror(crop)
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = kind(crop).enhance(rng.uniform(0.75, 1.3))
    return crop


@lru_cache(maxsize=8)
def _open(file: Path) -> Image.Image:
    with Image.open(file) as stored:
        return stored.convert("RGB")
