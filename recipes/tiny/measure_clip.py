"""CLIP on crops of drawn objects: does the right one of the 149 nouns score highest?"""

from collections.abc import Iterable

import numpy as np

from grounded.models.clip import ClipEncoder
from recipes.tiny.crops import square_crop
from recipes.tiny.scenes import Scene
from recipes.tiny.vocabulary import nouns

MARGIN = 0.1


def measure_clip(encoder: ClipEncoder, numbered: Iterable[tuple[int, Scene]], side: int = 224) -> dict[str, float]:
    """Top-1 recognition among the nouns, over all objects and over the untinted alone."""
    words = encoder.encode(nouns())
    right: list[bool] = []
    plain: list[bool] = []
    for _, scene in numbered:
        crops = [square_crop(scene.image, o.box, MARGIN, side) for o in scene.objects]
        best = (encoder.encode_images(crops) @ words.T).argmax(1).cpu().numpy()
        hits = [nouns()[index] == o.noun for index, o in zip(best, scene.objects, strict=True)]
        right += hits
        plain += [hit for hit, o in zip(hits, scene.objects, strict=True) if o.color is None]
    return {
        "top-1 among 149 nouns": float(np.mean(right)),
        "top-1, objects in their own colours": float(np.mean(plain)),
    }
