"""Choose the thresholds of configs/tiny.yaml on validation scenes: `python -m recipes.tiny.calibrate`.

Three steps, each a table and the value to write into the preset; later steps are for the preset as it stands, so write
one value and run the next step. Test scenes have no part in this.

- `temperature` of CLIP's scores: the likeliest, over true masks with the phrases asked of their scenes.
- `thresholds` of detector and CLIP together. Only pairs are considered with which negative phrases yield masks at most
  3/4 as often as the bars of `evaluate` allow; of those that find about the most objects, the pair with the fewest such
  masks is chosen.
- `fallback`: the same for masks of everything, with the detector left out.
"""

import sys
from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from grounded import Instances, Pipeline
from recipes.tiny.measure import NEGATIVE_KINDS, Asked, mask_iou, query, scenes, stacked
from recipes.tiny.measure_stages import without_detections
from recipes.tiny.scenes import Scene
from segany.utils.rle import encode_rle

TEMPERATURES = (0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08)
BOX_THRESHOLDS = tuple(round(0.06 + 0.005 * i, 3) for i in range(69))
CLIP_THRESHOLDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
MOST_NEGATIVES = {"random": 0.015, "look-alike": 0.06, "unknown words": 0.015}
CHANCE = 0.01  # a share of objects found that a few hundred scenes cannot tell from none
FALLBACK_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


def validation(count: int) -> Iterator[tuple[Scene, list[Asked]]]:
    for number, scene in tqdm(scenes("validation", count), total=count, file=sys.stderr, mininterval=2):
        yield scene, query(number, scene)


def pair_likelihoods(temperature: float, count: int) -> tuple[float, float]:
    """Mean negative log-likelihood over right and over wrong pairs of a true mask and a phrase."""
    scorer = Pipeline.from_config("tiny", filtering={"enabled": True}, scoring={"temperature": temperature}).scorer
    right: list[float] = []
    wrong: list[float] = []
    for scene, asked in validation(count):
        rles = encode_rle(torch.from_numpy(stacked(scene.objects, scene.image.shape[:2])))
        scores = scorer.score(Image.fromarray(scene.image), rles, [item.phrase for item in asked])
        for row, thing in zip(scores, scene.objects, strict=True):
            for score, item in zip(row, asked, strict=True):
                (right if any(thing is one for one in item.wanted) else wrong).append(float(score))
    return float(-np.log(np.clip(right, 1e-6, 1)).mean()), float(-np.log(np.clip(1 - np.array(wrong), 1e-6, 1)).mean())


class Tally:
    """What was found for each object and each negative phrase, so that any threshold can be tried afterwards."""

    def __init__(self) -> None:
        self.objects: list[np.ndarray] = []  # (k, s) scores of the instances on the object
        self.negatives: dict[str, list[np.ndarray]] = {kind: [] for kind in NEGATIVE_KINDS}

    def add(self, scene: Scene, asked: list[Asked], instances: Instances, scores: np.ndarray) -> None:
        """One scene's instances with s scores each, (n, s)."""
        for index, item in enumerate(asked):
            rows = np.flatnonzero(instances.phrase_ids == index)
            if item.kind != "present":
                self.negatives[item.kind].append(scores[rows])
                continue
            overlaps = mask_iou(stacked(item.wanted, scene.image.shape[:2]), instances[rows].masks)
            self.objects += [scores[rows[overlap >= 0.5]] for overlap in overlaps]

    def shares(self, thresholds: tuple[float, ...]) -> dict[str, float]:
        """Share of objects, and of negative phrases of each kind, with an instance that reaches all thresholds."""
        kinds = {"objects": self.objects, **self.negatives}
        return {
            kind: float(np.mean([bool((one >= np.array(thresholds)).all(axis=1).any()) for one in found]))
            for kind, found in kinds.items()
        }


def worth(shares: dict[str, float]) -> float:
    """The share of objects found where negatives stay rare; where they do not, less than for any that do."""
    negatives = [shares[kind] for kind in NEGATIVE_KINDS]
    rare = all(shares[kind] <= MOST_NEGATIVES[kind] for kind in NEGATIVE_KINDS)
    return shares["objects"] if rare else shares["objects"] - sum(negatives) - 1


def choose(rows: dict[tuple[float, ...], dict[str, float]]) -> tuple[float, ...]:
    """The thresholds with the fewest negatives among those that are worth about the most; of equals, the highest."""
    most = max(worth(shares) for shares in rows.values())
    near = {thresholds: shares for thresholds, shares in rows.items() if worth(shares) >= most - CHANCE}
    return min(
        near, key=lambda thresholds: (sum(near[thresholds][kind] for kind in NEGATIVE_KINDS), *(-t for t in thresholds))
    )


def print_best(rows: dict[tuple[float, ...], dict[str, float]], names: tuple[str, ...], shown: int = 12) -> None:
    """The rows that find the most as a table, and the chosen one as lines of the preset."""
    ranked = sorted(rows, key=lambda thresholds: (worth(rows[thresholds]), *thresholds), reverse=True)
    print("| " + " | ".join((*names, "objects found", *NEGATIVE_KINDS)) + " |\n|" + "---|" * (len(names) + 4))
    for thresholds in ranked[:shown]:
        print("| " + " | ".join(f"{v:.3f}" for v in (*thresholds, *rows[thresholds].values())) + " |")
    print("\n" + "\n".join(f"{name}: {value}" for name, value in zip(names, choose(rows), strict=True)))


def calibrate_temperature(count: int) -> None:
    """Print the likelihood at each temperature."""
    losses = {temperature: pair_likelihoods(temperature, count) for temperature in TEMPERATURES}
    print("| temperature | right pairs | wrong pairs |\n|---|---|---|")
    for temperature, (right, wrong) in losses.items():
        print(f"| {temperature:.3f} | {right:.4f} | {wrong:.4f} |")
    print(f"\ntemperature: {min(losses, key=lambda t: sum(losses[t]))}")


def calibrate_thresholds(count: int) -> None:
    """Print the best pairs of detector and CLIP threshold."""
    pipeline = Pipeline.from_config(
        "tiny", box_threshold=BOX_THRESHOLDS[0], filtering={"enabled": True, "clip_threshold": 0.0}
    )
    tally = Tally()
    for scene, asked in validation(count):
        instances = pipeline.segment(scene.image, [item.phrase for item in asked])
        tally.add(scene, asked, instances, np.stack([instances.best_token_scores, instances.clip_scores], 1))
    rows = {(box, clip): tally.shares((box, clip)) for box in BOX_THRESHOLDS for clip in CLIP_THRESHOLDS}
    print_best(rows, ("box_threshold", "clip_threshold"))


def calibrate_fallback(count: int) -> None:
    """Print the best thresholds of the fallback."""
    lenient = {"source": "automatic", "fallback_threshold": FALLBACK_THRESHOLDS[0]}
    pipeline = without_detections(Pipeline.from_config("tiny", fallback=lenient))
    tally = Tally()
    for scene, asked in validation(count):
        instances = pipeline.segment(scene.image, [item.phrase for item in asked])
        tally.add(scene, asked, instances, instances.clip_scores[:, None])
    print_best({(t,): tally.shares((t,)) for t in FALLBACK_THRESHOLDS}, ("fallback_threshold",))


STEPS: dict[str, Callable[[int], None]] = {
    "temperature": calibrate_temperature,
    "thresholds": calibrate_thresholds,
    "fallback": calibrate_fallback,
}


@click.command()
@click.argument("step", type=click.Choice(list(STEPS)))
@click.option("--scenes", "count", default=300, show_default=True)
def main(step: str, count: int) -> None:
    """Print what the values of one step give, and the one to take."""
    STEPS[step](count)


if __name__ == "__main__":
    main()
