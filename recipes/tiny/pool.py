"""Scenes drawn ahead of training and kept on disk, so that the trainings share them and do not wait for drawing.

`python -m recipes.tiny.pool --out runs/pool --scenes 16000` writes shards of 500 scenes; shards that exist are left as
they are, so an interrupted run goes on. Every image is kept twice: stretched to a square for the detector, and framed
(longer side resized, padded at the right and bottom) for segany, with the masks of part, object and whole in that frame
as bits. With `--side 384` both are larger, for the end of segany's training.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from recipes.tiny.scenes import Recipe, Scene, SceneObject, draw_scene

SIDE = 256  # unless a pool is drawn larger
SHARD = 500
COLLAGES_FROM = 500  # number of the first shard over collages
LEVELS = ("part", "object", "whole")


@dataclass(frozen=True)
class PoolObject:
    """One object of a pooled scene: its name, its box (xyxy as a fraction of the image) and the rows of its masks."""

    noun: str
    color: str | None
    box: tuple[float, float, float, float]
    masks: dict[str, int]  # level -> row in the shard's mask array


@dataclass(frozen=True)
class PoolScene:
    """One pooled scene; the arrays are read from disk when asked for."""

    shard: "Shard"
    row: int
    objects: tuple[PoolObject, ...]
    framed_size: tuple[int, int]  # (height, width) of the image inside the frame

    @property
    def side(self) -> int:
        """Pixels along a side of the arrays."""
        return self.shard.framed.shape[1]

    @property
    def square(self) -> np.ndarray:
        """(side, side, 3) uint8, stretched."""
        return np.asarray(self.shard.square[self.row])

    @property
    def framed(self) -> np.ndarray:
        """(side, side, 3) uint8, black beyond `framed_size`."""
        return np.asarray(self.shard.framed[self.row])

    def mask(self, thing: PoolObject, level: str = "object") -> np.ndarray:
        """(side, side) bool in the frame."""
        return np.unpackbits(self.shard.masks[thing.masks[level]], axis=-1).view(bool)


@dataclass(frozen=True)
class Shard:
    square: np.ndarray  # (n, side, side, 3) uint8
    framed: np.ndarray  # (n, side, side, 3) uint8
    masks: np.ndarray  # (m, side, side / 8) uint8, packed bits


def framed_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The size of an image whose longer side is resized to `side`."""
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def relit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uint8 image with other contrast and brightness, drawn from `rng`: what every training varies."""
    curve = (np.arange(256) - 128) * rng.uniform(0.75, 1.15) + 128 + rng.uniform(-15, 15)
    return curve.clip(0, 255).round().astype(np.uint8)[image]


def mirrored(frame: np.ndarray, scene: PoolScene) -> np.ndarray:
    """An image or mask of the scene's frame, mirrored inside the image's own part of it."""
    width = scene.framed_size[1]
    result = frame.copy()
    result[:, :width] = frame[:, :width][:, ::-1]
    return result


def _framed_mask(mask: np.ndarray, side: int) -> np.ndarray:
    height, width = framed_size(*mask.shape, side)
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
    frame = np.zeros((side, side), bool)
    frame[:height, :width] = np.asarray(small) > 127
    return np.packbits(frame, axis=-1)


def _describe(thing: SceneObject, size: tuple[int, int], side: int, rows: list[np.ndarray]) -> dict:
    height, width = size
    x0, y0, x1, y1 = thing.box
    levels = {}
    for level, mask in zip(LEVELS, (thing.part, thing.mask, thing.whole), strict=True):
        if mask is not None:
            levels[level] = len(rows)
            rows.append(_framed_mask(mask, side))
    box = (x0 / width, y0 / height, x1 / width, y1 / height)
    return {"noun": thing.noun, "color": thing.color, "box": box, "masks": levels}


def _images(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    image = Image.fromarray(scene.image)
    height, width = framed_size(*scene.image.shape[:2], side)
    framed = np.zeros((side, side, 3), np.uint8)
    framed[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), framed


def write_shard(folder: Path, split: str, index: int, recipe: Recipe, side: int = SIDE) -> Path:
    """Draw one shard and move it into place when it is whole."""
    target = folder / f"{split}-{index:03d}"
    if target.exists():
        return target
    square, framed = (np.empty((SHARD, side, side, 3), np.uint8) for _ in range(2))
    rows: list[np.ndarray] = []
    scenes = []
    for row in range(SHARD):
        scene = draw_scene(split, index * SHARD + row, recipe)
        square[row], framed[row] = _images(scene, side)
        size = scene.image.shape[:2]
        things = [_describe(thing, size, side, rows) for thing in scene.objects]
        scenes.append({"framed_size": framed_size(*size, side), "objects": things})
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    partial.mkdir(parents=True)
    for name, array in (("square", square), ("framed", framed), ("masks", np.stack(rows))):
        np.save(partial / f"{name}.npy", array)
    (partial / "scenes.json").write_text(json.dumps(scenes))
    if target.exists():
        shutil.rmtree(partial)
    else:
        partial.rename(target)
    return target


def open_pool(
    folder: Path,
    split: str = "train",
    limit: int | None = None,
    in_memory: Collection[str] = (),
    part: tuple[int, int] = (0, 1),
) -> Sequence[PoolScene]:
    """All pooled scenes of a split, in the order of their numbers.

    `in_memory` names arrays of `Shard` to read at once and keep, where a machine has the memory for them but its disk
    is slow; `part` (i, n) opens the i-th of n parts of the shards.
    """
    scenes: list[PoolScene] = []
    for path in sorted(folder.glob(f"{split}-[0-9][0-9][0-9]"))[part[0] :: part[1]]:
        modes = {name: None if name in in_memory else "r" for name in ("square", "framed", "masks")}
        shard = Shard(**{name: np.load(path / f"{name}.npy", mmap_mode=mode) for name, mode in modes.items()})
        for row, scene in enumerate(json.loads((path / "scenes.json").read_text())):
            objects = tuple(PoolObject(o["noun"], o["color"], tuple(o["box"]), o["masks"]) for o in scene["objects"])
            scenes.append(PoolScene(shard, row, objects, tuple(scene["framed_size"])))
    if not scenes:
        raise FileNotFoundError(
            f"no {split} scenes in {folder}: draw them with python -m recipes.tiny.pool --out {folder}"
        )
    return scenes[:limit]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/pool"), show_default=True)
@click.option("--scenes", default=16000, show_default=True, help="How many training scenes.")
@click.option("--collages", is_flag=True, help="Over collages as backgrounds, and numbered after the plain scenes.")
@click.option("--side", default=SIDE, show_default=True, help="Pixels along a side of what is kept.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True)
def main(out: Path, scenes: int, collages: bool, side: int, workers: int) -> None:
    """Draw the training pool."""
    out.mkdir(parents=True, exist_ok=True)
    shards = -(-scenes // SHARD)
    first, recipe = (COLLAGES_FROM, Recipe(collages=True)) if collages else (0, Recipe())
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(write_shard, out, "train", first + index, recipe, side) for index in range(shards)]
        for future in tqdm(futures, desc="shards"):
            future.result()


if __name__ == "__main__":
    main()
