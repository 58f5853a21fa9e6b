"""Choose the thresholds of the preset `photo` on photographs of the training data: `python -m recipes.photo.calibrate`.

The detector's threshold and CLIP's are swept together over what the chain finds without them; of the pairs at which few
absent phrases come back with a mask, those with the best F1 of masks come first. Then the threshold of the fallback is
swept, which is asked for what the preset's own thresholds leave without a mask.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from grounded import Pipeline
from grounded.config import load
from recipes.photo.measure_chain import LEAST_IOU
from recipes.photo.validation import Example, Validation
from recipes.tiny.measure import mask_iou

BOX_THRESHOLDS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3)
CLIP_THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FALLBACK_THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
MOST_ABSENT = 0.08  # of absent phrases that come back with a mask


@dataclass(frozen=True)
class Found:
    """One mask of one phrase in one photograph, and the object of the phrase that it covers, -1 for none."""

    question: int  # a phrase in a photograph
    detector_score: float
    clip_score: float
    object: int


@dataclass(frozen=True)
class Answers:
    """What was found for all questions; of absent phrases the numbers are in `absent`."""

    found: tuple[Found, ...]
    absent: frozenset[int]
    objects: int

    def at(
        self, box_threshold: float, clip_threshold: float, fallback: tuple["Answers", float] | None = None
    ) -> tuple[float, float, float]:
        """Recall and precision of masks, and the share of absent phrases with a mask.

        Args:
            box_threshold: least score of the detector.
            clip_threshold: least score of CLIP.
            fallback: what it answers to the same questions, and its own threshold.
        """
        kept = [one for one in self.found if one.detector_score >= box_threshold and one.clip_score >= clip_threshold]
        if fallback is not None:
            others, threshold = fallback
            answered = {one.question for one in kept}
            kept += [one for one in others.found if one.question not in answered and one.clip_score >= threshold]
        right = len({(one.question, one.object) for one in kept if one.object >= 0})
        returned = len({one.question for one in kept} & self.absent)
        return right / max(self.objects, 1), right / max(len(kept), 1), returned / max(len(self.absent), 1)


def ask(pipeline: Pipeline, examples: Iterable[Example]) -> Answers:
    """Everything that a pipeline finds, with its scores."""
    found: list[Found] = []
    absent: set[int] = set()
    question, objects = 0, 0
    for example in examples:
        phrases = (*example.present, *example.absent)
        instances = pipeline.segment(example.image, list(phrases))
        for number, name in enumerate(phrases):
            own = instances[instances.phrase_ids == number]
            ious = mask_iou(own.masks, example.masks(name))
            objects += ious.shape[1]
            if name in example.absent:
                absent.add(question)
            for row in range(len(own)):
                best = int(ious[row].argmax()) if ious.shape[1] else -1
                is_right = best >= 0 and ious[row, best] >= LEAST_IOU
                scores = float(own.detector_scores[row]), float(own.clip_scores[row])
                found.append(Found(question, *scores, best if is_right else -1))
            question += 1
    return Answers(tuple(found), frozenset(absent), objects)


@click.command()
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--config", default="photo", show_default=True)
@click.option("--count", default=250, show_default=True, help="Photographs, drawn from the training data.")
def main(folder: Path, config: str, count: int) -> None:
    """Print the pairs of thresholds, the best first."""
    pipeline = Pipeline.from_config(
        config,
        box_threshold=BOX_THRESHOLDS[0],
        filtering={"enabled": True, "clip_threshold": 0.0},
        fallback={"source": "none"},
    )
    drawn = Validation(folder, "train")
    drawn.files = [drawn.files[i] for i in np.random.default_rng(5).permutation(len(drawn.files))[:count]]
    answers = ask(pipeline, tqdm(drawn, desc="detector", unit="image", file=sys.stderr, mininterval=2))
    rows = []
    for pair in product(BOX_THRESHOLDS, CLIP_THRESHOLDS):
        recall, precision, absent = answers.at(*pair)
        f1 = 2 * recall * precision / max(recall + precision, 1e-9)
        rows.append((absent <= MOST_ABSENT, f1, *pair, recall, precision, absent))
    head = "box_threshold", "clip_threshold", "recall", "precision", "F1", "absent phrases with a mask"
    click.echo(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for _, f1, box, clip, recall, precision, absent in sorted(rows, reverse=True)[:15]:
        click.echo(f"| {box:g} | {clip:g} | {recall:.3f} | {precision:.3f} | {f1:.3f} | {absent:.3f} |")
    at_zero = answers.at(BOX_THRESHOLDS[0], 0.0)
    click.echo(f"without thresholds: recall {at_zero[0]:.3f}, precision {at_zero[1]:.3f}, absent {at_zero[2]:.3f}")
    own = load(config)
    objects = {"source": "objects", "fallback_threshold": 0.0, "max_instances": 3}
    alone = Pipeline.from_config(config, box_threshold=1.0, fallback=objects)
    others = ask(alone, tqdm(drawn, desc="fallback", unit="image", file=sys.stderr, mininterval=2))
    click.echo(f"\n| fallback_threshold | recall | precision | {head[-1]} |\n|---|---|---|---|")
    for threshold in (2.0, *FALLBACK_THRESHOLDS):
        found = answers.at(own.detector.threshold, own.filtering.clip_threshold, (others, threshold))
        name = "none" if threshold > 1 else f"{threshold:g}"
        click.echo(f"| {name} | {found[0]:.3f} | {found[1]:.3f} | {found[2]:.3f} |")


if __name__ == "__main__":
    main()
