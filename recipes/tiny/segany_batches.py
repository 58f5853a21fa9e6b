"""What a step of segany's training sees: images of the pool, and prompts of every kind with their truths."""

from dataclasses import dataclass

import numpy as np
import torch

from recipes.tiny import train_clip
from recipes.tiny.crops import grey_background, square_crop
from recipes.tiny.pool import PoolObject, PoolScene, mirrored, relit
from recipes.tiny.segany_dense import stack_maps
from recipes.tiny.training import rank_and_size
from recipes.tiny.vocabulary import noun_phrase

BATCH = 6
ENCODER_BATCH = 12  # images a step while the image encoder learns alone
# How many prompts of each kind a step trains, spread over the batch's images.
KINDS = {"point": 20, "box": 18, "text": 10, "text + point": 8, "text + box": 8}
CLICKED = {"point": 8, "box": 6, "text": 2, "text + point": 2, "text + box": 2}  # of them go on with clicks
WHOLE_EVERY = 8  # steps, of which one decodes in the whole frame and the others in windows of half its sides


@dataclass(frozen=True)
class Drawn:
    """One training prompt: which image of the batch, the truth in the frame, and the object's crop and phrase."""

    image: int
    truth: np.ndarray  # (side, side) bool
    crop: np.ndarray  # (64, 64, 3) uint8
    phrase: str


def _is_alone(scene: PoolScene, thing: PoolObject) -> bool:
    """Whether the object's name, with its colour, names nothing else in the image."""
    return sum(o.noun == thing.noun and o.color == thing.color for o in scene.objects) == 1


def _draw_prompt(scene: PoolScene, image: int, kind: str, flip: bool, rng: np.random.Generator) -> Drawn | None:
    things = [o for o in scene.objects if "text" not in kind or _is_alone(scene, o)]
    if not things:
        return None
    thing = things[rng.integers(len(things))]
    # A phrase and a box mean the object; a bare click may mean its badge, or it together with what carries it.
    levels = list(thing.masks) if kind == "point" else ["object"]
    level = levels[rng.integers(len(levels))] if rng.random() < 0.6 else "object"
    truth = scene.mask(thing, level)
    x0, y0, x1, y1 = (v * e for v, e in zip(thing.box, scene.framed_size[::-1] * 2, strict=True))
    pixels = scene.framed
    if rng.random() < 0.5:
        pixels = grey_background(pixels, scene.mask(thing))
    crop = (
        square_crop(pixels, (x0, y0, x1, y1), rng.uniform(0, 0.2), train_clip.SIDE)
        if "text" in kind
        else np.zeros((1, 1, 3), np.uint8)
    )
    twins = [o for o in scene.objects if o.noun == thing.noun]
    color = thing.color if len(twins) > 1 or rng.random() < 0.5 else None
    return Drawn(image, mirrored(truth, scene) if flip else truth, crop, noun_phrase(thing.noun, color, rng))


def make_batch(pool: list[PoolScene], step: int, encoder_steps: int, images: int = BATCH) -> dict:
    """Framed images with their label maps and, per kind of prompt, truths, image numbers, crops and phrases.

    Processes that train together draw from images of their own, and play the same number of rounds.
    """
    rng = np.random.default_rng([31, step, *rank_and_size()[:1]])
    alone = step < encoder_steps
    scenes: list[PoolScene] = []
    while len(scenes) < (ENCODER_BATCH if alone else images):
        scene = pool[rng.integers(len(pool))]
        if scene.objects:
            scenes.append(scene)
    flips = [bool(rng.random() < 0.5) for _ in scenes]
    frames = []
    for scene, flip in zip(scenes, flips, strict=True):
        pixels = relit(scene.framed, rng)
        frames.append(mirrored(pixels, scene) if flip else pixels)
    groups = {}
    for kind, count in {} if alone else KINDS.items():
        drawn: list[Drawn] = []
        for attempt in range(4 * count):
            image = (step + attempt) % images
            prompt = _draw_prompt(scenes[image], image, kind, flips[image], rng)
            if prompt is not None and len(drawn) < count:
                drawn.append(prompt)
        groups[kind] = {
            "truth": torch.from_numpy(np.stack([d.truth for d in drawn])),
            "image": torch.tensor([d.image for d in drawn]),
            "crop": torch.from_numpy(np.stack([d.crop for d in drawn])),
            "phrase": [d.phrase for d in drawn],
        }
    return {
        "pixels": torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2),
        "sizes": [scene.framed_size for scene in scenes],
        "whole": step % WHOLE_EVERY == 0,
        "maps": stack_maps(scenes, flips),
        "groups": groups,
        "rounds": int(np.random.default_rng([32, step]).choice([1, 2, 3, 5, 9], p=[0.4, 0.3, 0.15, 0.1, 0.05])),
    }
