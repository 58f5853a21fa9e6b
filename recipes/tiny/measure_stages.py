"""The stages after the first masks, on drawn scenes: CLIP filtering, point refinement, the fallback, text prompts."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from grounded import Instances, Pipeline
from grounded.data.clicks import Clicks
from grounded.data.detections import Detections
from grounded.stages.prompt import prompt_boxes
from grounded.stages.refine import refine
from grounded.stages.segment import segment
from grounded.stages.zoom import zoom
from recipes.tiny.measure import NEGATIVE_KINDS, Asked, matched_iou, paired_iou, query, stacked
from recipes.tiny.scenes import Scene
from recipes.tiny.vocabulary import noun_phrase, nouns
from segany.utils.boxes import box_iou

ZOOM = 4.0  # side of its windows, as a multiple of the box's longer side


def measure_more_phrases(pipeline: Pipeline, numbered: Iterable[tuple[int, Scene]]) -> dict[str, float]:
    """Ask again with five phrases more that the scene does not show.

    Returns the share of scenes in which CLIP's scores of the same masks change, which must not happen, and the share in
    which the instances found for the phrases of before change at all, which is the detector's doing.
    """
    by_clip, at_all, count = 0, 0, 0
    for number, scene in numbered:
        asked = [item.phrase for item in query(number, scene)]
        absent = _absent_phrases(scene, asked, np.random.default_rng([96, number]))
        before = pipeline.segment(scene.image, asked)
        after = pipeline.segment(scene.image, [*asked, *absent])
        after = after[after.phrase_ids < len(asked)]
        by_clip += _scores_differ(pipeline, scene, before, asked, absent)
        at_all += not _same_answers(before, after)
        count += 1
    return {"scenes changed by CLIP": by_clip / count, "scenes changed by the detector": at_all / count}


def _absent_phrases(scene: Scene, asked: Sequence[str], rng: np.random.Generator) -> list[str]:
    present = {thing.noun for thing in scene.objects}
    others = [noun for noun in nouns() if noun not in present]
    phrases = [noun_phrase(others[i], None, rng) for i in rng.permutation(len(others))[:8]]
    return [phrase for phrase in phrases if phrase not in asked][:5]


def _scores_differ(
    pipeline: Pipeline, scene: Scene, found: Instances, asked: Sequence[str], absent: Sequence[str]
) -> bool:
    if pipeline.scorer is None or len(found) == 0:
        return False
    scores = [
        pipeline.scorer.score(_rgb(scene), found.rles, phrases)[:, : len(asked)]
        for phrases in (asked, [*asked, *absent])
    ]
    return not np.array_equal(*scores)


def _same_answers(first: Instances, second: Instances) -> bool:
    """As many of each phrase, and each mask has its like."""
    if sorted(first.phrase_ids.tolist()) != sorted(second.phrase_ids.tolist()):
        return False
    return all(
        (matched_iou(second[second.phrase_ids == i].masks, first[first.phrase_ids == i].masks) >= 0.9).all()
        for i in set(first.phrase_ids.tolist())
    )


def measure_refinement(pipeline: Pipeline, numbered: Iterable[tuple[int, Scene]]) -> dict[str, float]:
    """Mean IoU before refinement, and what rounds of points and the zoom gain, over detections that lie on an
    object of their phrase.
    """
    overlaps: dict[str, list[float]] = defaultdict(list)
    for number, scene in numbered:
        asked = query(number, scene)
        detections = pipeline.detector.detect([_rgb(scene)], [[item.phrase for item in asked]])[0]
        detections, truths = _on_objects(detections, asked)
        if not len(detections):
            continue
        image = _rgb(scene)
        embedding = pipeline.segmenter.encode(image)
        group = prompt_boxes(detections, Clicks.read(None, None, (image.height, image.width)))
        first = pipeline.segmenter.predict(embedding, group.prompts, multimask_output=False)
        for rounds, name in ((0, "before"), (1, "one round"), (2, "two rounds")):
            refined = refine(pipeline.segmenter, embedding, first, group.prompts, rounds)
            overlaps[name] += paired_iou(refined.masks[:, 0].numpy(), truths).tolist()
        instances = segment(pipeline.segmenter, embedding, group, tuple(item.phrase for item in asked))
        for row, truth in enumerate(truths):  # one by one, so that none is dropped as a duplicate of another
            one, prompts = instances[[row]], group.prompts[[row]]
            zoomed = zoom(
                pipeline.segmenter,
                one,
                prompts,
                ZOOM,
                None,
                None,
                encode=lambda window, image=image: pipeline.segmenter.encode(image.crop(window.corners)),
            )
            mask = (zoomed if len(zoomed) else one).masks[0]
            overlaps["the zoom"] += paired_iou(mask[None], truth[None]).tolist()
    before = float(np.mean(overlaps.pop("before")))
    return {"before": before, **{f"gain of {name}": float(np.mean(v)) - before for name, v in overlaps.items()}}


def _on_objects(detections: Detections, asked: Sequence[Asked]) -> tuple[Detections, np.ndarray]:
    """The detections whose box fits an object that their phrase names, and the masks of those objects."""
    kept, truths = [], []
    for i, phrase_id in enumerate(detections.phrase_ids.tolist()):
        wanted = asked[phrase_id].wanted
        if wanted:
            overlap = box_iou(torch.from_numpy(detections.boxes[i : i + 1]), torch.tensor([o.box for o in wanted]))[0]
            if overlap.max() >= 0.5:
                kept.append(i)
                truths.append(wanted[int(overlap.argmax())].mask)
    return detections[kept], np.array(truths)


def measure_fallback(pipeline: Pipeline, numbered: Iterable[tuple[int, Scene]]) -> dict[str, float]:
    """Recall and false positives of the fallback alone: the detector finds nothing anywhere."""
    overlaps: list[np.ndarray] = []
    yielded: dict[str, list[bool]] = {kind: [] for kind in NEGATIVE_KINDS}
    blind = without_detections(pipeline)
    for number, scene in numbered:
        asked = query(number, scene)
        instances = blind.segment(scene.image, [item.phrase for item in asked])
        for index, item in enumerate(asked):
            mine = instances[instances.phrase_ids == index]
            if item.kind == "present":
                overlaps.append(matched_iou(mine.masks, stacked(item.wanted, scene.image.shape[:2])))
            else:
                yielded[item.kind].append(len(mine) > 0)
    return {
        "recall at IoU 0.5": float((np.concatenate(overlaps) >= 0.5).mean()),
        "negative phrases that yield a mask": float(np.mean([v for values in yielded.values() for v in values])),
        **{f"negative phrases that yield a mask, {kind}": float(np.mean(values)) for kind, values in yielded.items()},
    }


def without_detections(pipeline: Pipeline) -> Pipeline:
    """The pipeline with a detector that never finds anything."""
    return replace(pipeline, detector=_Blind())


class _Blind:
    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        return [Detections.empty(len(own)) for own in phrases]


def measure_text_alone(pipelines: dict[str, Pipeline], numbered: Iterable[tuple[int, Scene]]) -> dict[str, float]:
    """Mean IoU of each kind of text prompt, over objects that their phrase names alone; the same phrases for all."""
    overlaps: dict[str, list[float]] = defaultdict(list)
    for number, scene in numbered:
        rng = np.random.default_rng([97, number])
        alone = [o for o in scene.objects if len(scene.matching(o.noun, o.color)) == 1]
        if not alone:
            continue
        phrases = [noun_phrase(o.noun, o.color if len(scene.matching(o.noun)) > 1 else None, rng) for o in alone]
        for name, pipeline in pipelines.items():
            instances = pipeline.segment(scene.image, phrases)
            for index, thing in enumerate(alone):
                masks = instances[instances.phrase_ids == index].masks
                overlaps[name].append(float(paired_iou(masks[:1], thing.mask[None])[0]) if len(masks) else 0.0)
    return {name: float(np.mean(values)) for name, values in overlaps.items()}


def _rgb(scene: Scene) -> Image.Image:
    return Image.fromarray(scene.image)
