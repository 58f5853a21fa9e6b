"""Choose the detector's threshold on validation scenes: `python -m recipes.tiny.calibrate`.

Taken is the threshold with the greatest share of objects found less the shares of negative phrases of every kind that
yield a detection. Write it into configs/tiny.yaml; test scenes have no part in this.
"""

import sys
from collections.abc import Sequence

import click
import numpy as np
import torch
from tqdm import tqdm

from grounded import Pipeline
from recipes.tiny.measure import NEGATIVE_KINDS, query, scenes
from segany.boxes import box_iou

THRESHOLDS = tuple(round(0.1 + 0.02 * i, 2) for i in range(31))


def best_scores(pipeline: Pipeline, count: int) -> tuple[list[float], dict[str, list[float]]]:
    """Per object the score of the best detection on it (0 when there is none), per negative phrase that of its best."""
    objects: list[float] = []
    negatives: dict[str, list[float]] = {kind: [] for kind in NEGATIVE_KINDS}
    for number, scene in tqdm(scenes("validation", count), total=count, file=sys.stderr, mininterval=2):
        asked = query(number, scene)
        detections = pipeline.detector.detect([scene.image], [[item.phrase for item in asked]])[0]
        for index, item in enumerate(asked):
            mine = detections[detections.phrase_ids == index]
            if item.kind != "present":
                negatives[item.kind].append(float(mine.score.max()) if len(mine) else 0.0)
                continue
            overlaps = box_iou(torch.tensor([o.box for o in item.wanted]), torch.from_numpy(mine.boxes)).numpy()
            for row in overlaps:
                on_it = mine.score[row >= 0.5]
                objects.append(float(on_it.max()) if len(on_it) else 0.0)
    return objects, negatives


def share_above(scores: Sequence[float], threshold: float) -> float:
    return float((np.array(scores) >= threshold).mean())


@click.command()
@click.option("--scenes", "count", default=300, show_default=True)
def main(count: int) -> None:
    """Print what every threshold gives, and the one to take."""
    pipeline = Pipeline.from_config("tiny", box_threshold=THRESHOLDS[0])
    objects, negatives = best_scores(pipeline, count)
    print("| threshold | objects found | " + " | ".join(NEGATIVE_KINDS) + " |\n|" + "---|" * (2 + len(NEGATIVE_KINDS)))
    gains = []
    for threshold in THRESHOLDS:
        found = share_above(objects, threshold)
        shares = [share_above(negatives[kind], threshold) for kind in NEGATIVE_KINDS]
        gains.append(found - sum(shares))
        print(f"| {threshold:.2f} | " + " | ".join(f"{value:.3f}" for value in (found, *shares)) + " |")
    print(f"\nbox_threshold: {THRESHOLDS[int(np.argmax(gains))]}")


if __name__ == "__main__":
    main()
