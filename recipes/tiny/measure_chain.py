"""The whole chain on drawn scenes: recall, mask average precision over phrases, and masks for phrases that are not
there.
"""

import contextlib
import io
from collections.abc import Iterable

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounded import Pipeline
from recipes.tiny.measure import NEGATIVE_KINDS, Asked, matched_iou, query, stacked
from recipes.tiny.scenes import Scene
from recipes.tiny.vocabulary import is_held_out, noun_phrase


class PhraseAveragePrecision:
    """COCO mask AP in which every phrase asked of an image is an image of its own, so a false positive on an absent
    phrase costs.
    """

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.truths: list[dict] = []
        self.found: list[dict] = []

    def add(self, shape: tuple[int, int], truths: np.ndarray, rles: list[dict], scores: np.ndarray) -> None:
        """One phrase of one image: true masks (n, h, w), found masks as RLE, and their scores."""
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "height": shape[0], "width": shape[1]})
        for mask in truths:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            box, area = coco_mask.toBbox(rle).tolist(), float(mask.sum())
            entry = {
                "image_id": image_id,
                "category_id": 1,
                "segmentation": rle,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
            }
            self.truths.append({"id": len(self.truths) + 1, **entry})
        for rle, score in zip(rles, scores, strict=True):
            self.found.append({"image_id": image_id, "category_id": 1, "segmentation": rle, "score": float(score)})

    def result(self) -> tuple[float, float]:
        """AP over IoU 0.50 to 0.95, and AP at 0.50."""
        if not self.found:
            return 0.0, 0.0
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "images": self.images,
                "annotations": self.truths,
                "categories": [{"id": 1, "name": "phrase"}],
            }
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(self.found), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0]), float(evaluation.stats[1])


def measure_chain(pipeline: Pipeline, numbered: Iterable[tuple[int, Scene]]) -> dict[str, float]:
    """Ask every scene for what it shows and for what it does not.

    Returns recall at mask IoU 0.5, mean IoU of the matched, AP, AP50, and per kind of negative the share that yields a
    mask.
    """
    precision = PhraseAveragePrecision()
    overlaps: list[np.ndarray] = []
    yielded: dict[str, list[bool]] = {kind: [] for kind in NEGATIVE_KINDS}
    for number, scene in numbered:
        asked = query(number, scene)
        instances = pipeline.segment(scene.image, [item.phrase for item in asked])
        for index, item in enumerate(asked):
            mine = instances[instances.phrase_ids == index]
            truths = stacked(item.wanted, scene.image.shape[:2])
            precision.add(scene.image.shape[:2], truths, list(mine.rles), mine.scores)
            if item.kind == "present":
                overlaps.append(matched_iou(mine.masks, truths))
            else:
                yielded[item.kind].append(len(mine) > 0)
    every = np.concatenate(overlaps)
    ap, ap50 = precision.result()
    return {
        "recall at IoU 0.5": float((every >= 0.5).mean()),
        "mean IoU of the matched": float(every[every >= 0.5].mean()) if (every >= 0.5).any() else 0.0,
        "AP": ap,
        "AP50": ap50,
        **{f"negative phrases that yield a mask, {kind}": float(np.mean(values)) for kind, values in yielded.items()},
    }


def measure_unseen_pairs(pipeline: Pipeline, numbered: Iterable[tuple[int, Scene]]) -> dict[str, float]:
    """Ask for a colour-noun pair that training never showed, beside the same noun in another colour."""
    overlaps: list[np.ndarray] = []
    wrong = 0
    for number, scene in numbered:
        rng = np.random.default_rng([98, number])
        pairs = sorted({(o.color, o.noun) for o in scene.objects if o.color and is_held_out(o.color, o.noun)})
        for color, noun in pairs:
            others = sorted({o.color for o in scene.matching(noun)} - {color, None})
            asked = [
                Asked(noun_phrase(noun, c, rng), tuple(scene.matching(noun, c)), "present") for c in (color, *others)
            ]
            instances = pipeline.segment(scene.image, [item.phrase for item in asked])
            masks = instances[instances.phrase_ids == 0].masks
            overlaps.append(matched_iou(masks, stacked(asked[0].wanted, scene.image.shape[:2])))
            rest = [o for o in scene.matching(noun) if o.color != color]
            wrong += bool((matched_iou(masks, stacked(rest, scene.image.shape[:2])) >= 0.5).any())
    every = np.concatenate(overlaps)
    return {"recall at IoU 0.5": float((every >= 0.5).mean()), "also finds another colour": wrong / len(overlaps)}
