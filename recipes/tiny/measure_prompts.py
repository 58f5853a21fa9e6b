"""segany's prompts on drawn scenes: boxes, one point, corrective clicks, text, and text beside a point or a box."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from grounded.data.protocols import TextEncoder
from recipes.tiny.measure import paired_iou
from recipes.tiny.scenes import Scene, SceneObject
from recipes.tiny.vocabulary import noun_phrase
from segany import ImageEmbedding, Predictor, Prompts
from segany.utils.points import error_point, interior_point

CLICKS = (1, 3, 5, 9)


def measure_prompts(
    predictor: Predictor, encoder: TextEncoder, numbered: Iterable[tuple[int, Scene]]
) -> dict[str, float]:
    """Mean IoU of each kind of prompt over all objects; text where the phrase names one object only."""
    overlaps: dict[str, list[float]] = defaultdict(list)
    for number, scene in numbered:
        rng = np.random.default_rng([97, number])
        embedding = predictor.encode(scene.image)
        _measure_boxes_and_points(predictor, embedding, scene, overlaps)
        _measure_clicks(predictor, embedding, scene, overlaps)
        alone = [o for o in scene.objects if len(scene.matching(o.noun, o.color)) == 1]
        if alone:
            _measure_text(predictor, encoder, embedding, scene, alone, overlaps, rng)
    return {name: float(np.mean(values)) for name, values in overlaps.items()}


def _truths(objects: Iterable[SceneObject]) -> np.ndarray:
    return np.stack([o.mask for o in objects])


def _points(masks: np.ndarray) -> dict[str, torch.Tensor]:
    points = interior_point(torch.from_numpy(masks))
    return {"points": points[:, None], "point_labels": torch.ones(len(points), 1, dtype=torch.int64)}


def _measure_boxes_and_points(
    predictor: Predictor, embedding: ImageEmbedding, scene: Scene, overlaps: dict[str, list[float]]
) -> None:
    truths = _truths(scene.objects)
    boxes = Prompts(boxes=[o.box for o in scene.objects])
    overlaps["box"] += paired_iou(
        predictor.predict(embedding, boxes, multimask_output=False).masks[:, 0].numpy(), truths
    ).tolist()
    point = Prompts(**_points(truths))
    several = predictor.predict(embedding, point, multimask_output=True)
    every = np.stack([paired_iou(several.masks[:, i].numpy(), truths) for i in range(several.masks.shape[1])], 1)
    overlaps["one point, best of three"] += every.max(1).tolist()
    chosen = several.predicted_iou.argmax(1).numpy()
    overlaps["one point, chosen by predicted IoU"] += every[np.arange(len(every)), chosen].tolist()
    single = predictor.predict(embedding, point, multimask_output=False)
    overlaps["one point, single-mask output"] += paired_iou(single.masks[:, 0].numpy(), truths).tolist()


def _measure_clicks(
    predictor: Predictor, embedding: ImageEmbedding, scene: Scene, overlaps: dict[str, list[float]]
) -> None:
    """A simulated user: first the middle of the object, then always the middle of the larger error; the last logits
    go back in.
    """
    truths = torch.from_numpy(_truths(scene.objects))
    given = _points(truths.numpy())
    prediction = predictor.predict(embedding, Prompts(**given), multimask_output=True).best()
    for click in range(1, max(CLICKS) + 1):
        masks = prediction.masks[:, 0]
        if click in CLICKS:
            overlaps[f"clicks {click}"] += paired_iou(masks.numpy(), truths.numpy()).tolist()
        points, labels = error_point(masks, truths)
        given = {
            "points": torch.cat([given["points"], points[:, None]], 1),
            "point_labels": torch.cat([given["point_labels"], labels[:, None]], 1),
        }
        prompts = Prompts(**given, masks=prediction.low_res_logits)
        prediction = predictor.predict(embedding, prompts, multimask_output=False)


def _measure_text(
    predictor: Predictor,
    encoder: TextEncoder,
    embedding: ImageEmbedding,
    scene: Scene,
    alone: list[SceneObject],
    overlaps: dict[str, list[float]],
    rng: np.random.Generator,
) -> None:
    truths = _truths(alone)
    phrases = [noun_phrase(o.noun, o.color if len(scene.matching(o.noun)) > 1 else None, rng) for o in alone]
    text = encoder.encode(phrases)[:, None].cpu()
    boxes = torch.tensor([o.box for o in alone])
    questions = {
        "text": Prompts(text=text),
        "text and one point": Prompts(text=text, **_points(truths)),
        "text and box": Prompts(text=text, boxes=boxes),
        "the same objects, box alone": Prompts(boxes=boxes),
    }
    for name, prompts in questions.items():
        masks = predictor.predict(embedding, prompts, multimask_output=False).masks[:, 0].numpy()
        overlaps[name] += paired_iou(masks, truths).tolist()
    best = predictor.predict(embedding, Prompts(**_points(truths)), multimask_output=True).best()
    overlaps["the same objects, one point"] += paired_iou(best.masks[:, 0].numpy(), truths).tolist()
