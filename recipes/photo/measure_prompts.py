"""The prompts of the segmenter on photographs: the true box, one point, and the name of what is there once."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from grounded.data.protocols import TextEncoder
from recipes.photo.validation import Example
from recipes.tiny.measure import paired_iou
from segany import Predictor, Prompts
from segany.utils.points import interior_point


def measure_prompts(predictor: Predictor, encoder: TextEncoder, examples: Iterable[Example]) -> dict[str, float]:
    """The mean IoU of each kind of prompt, over all objects; text where one object bears the name."""
    overlaps: dict[str, list[float]] = defaultdict(list)

    def add(name: str, masks: torch.Tensor, truths: np.ndarray) -> None:
        overlaps[name] += paired_iou(masks.numpy(), truths).tolist()

    for example in examples:
        embedding = predictor.encode(example.image)
        truths = example.masks()
        boxes = torch.from_numpy(example.boxes()).float()
        add("box", predictor.predict(embedding, Prompts(boxes=boxes), multimask_output=False).masks[:, 0], truths)
        points = interior_point(torch.from_numpy(truths))[:, None]
        point = Prompts(points=points, point_labels=torch.ones(len(points), 1, dtype=torch.int64))
        several = predictor.predict(embedding, point, multimask_output=True)
        every = [paired_iou(several.masks[:, i].numpy(), truths) for i in range(several.masks.shape[1])]
        overlaps["one point, best of three"] += np.stack(every).max(axis=0).tolist()
        add("one point, chosen by predicted IoU", several.best().masks[:, 0], truths)
        counts = Counter(example.names)
        alone = [row for row, name in enumerate(example.names) if counts[name] == 1]
        if alone:
            text = encoder.encode([example.names[row] for row in alone])[:, None].cpu()
            given = Prompts(text=text)
            add("text", predictor.predict(embedding, given, multimask_output=True).best().masks[:, 0], truths[alone])
            both = Prompts(text=text, boxes=boxes[alone])
            add("text and box", predictor.predict(embedding, both, multimask_output=False).masks[:, 0], truths[alone])
    return {name: float(np.mean(values)) for name, values in overlaps.items()}
