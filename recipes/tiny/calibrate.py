"""Choose the detector's threshold on validation scenes: `python -m recipes.tiny.calibrate`.

The lowest threshold is taken at which each kind of negative phrase yields a detection less often than its bar allows;
lower ones find more, higher ones only lose. Write it into configs/tiny.yaml; test scenes have no part in this.
"""

import sys
from collections.abc import Sequence

import click
import numpy as np
import torch
from tqdm import tqdm

from grounded import Pipeline
from recipes.tiny.evaluate import BARS
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
@click.option("--margin", default=0.8, show_default=True, help="How much of each bar may be used up.")
def main(count: int, margin: float) -> None:
    """Print what every threshold gives, and the one to take."""
    pipeline = Pipeline.from_config("tiny", box_threshold=THRESHOLDS[0])
    objects, negatives = best_scores(pipeline, count)
    print("| threshold | objects found | " + " | ".join(NEGATIVE_KINDS) + " |\n|" + "---|" * (2 + len(NEGATIVE_KINDS)))
    chosen = None
    for threshold in THRESHOLDS:
        shares = [share_above(negatives[kind], threshold) for kind in NEGATIVE_KINDS]
        bars = [BARS["chain"][f"negative phrases that yield a mask, {kind}"][1] for kind in NEGATIVE_KINDS]
        if chosen is None and all(share <= margin * bar for share, bar in zip(shares, bars, strict=True)):
            chosen = threshold
        cells = [f"{value:.3f}" for value in (share_above(objects, threshold), *shares)]
        print(f"| {threshold:.2f} | " + " | ".join(cells) + " |")
    print(f"\nbox_threshold: {chosen}" if chosen is not None else "\nno threshold keeps every kind within its bar")


if __name__ == "__main__":
    main()
