"""A simulated annotator: clicks into images whose true masks are known, as a person would, with a model of the time.

It uses what the page uses: masks by `ClickSegmenter`, reviews in the log of the run.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.engine.proposals import load_predictor
from grounded.engine.report import Truths
from grounded.engine.rounds import Engine
from grounded.evaluation.dataset import read_ground_truth
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.records import Record
from grounded.labelling.review.clicks import ClickSegmenter
from grounded.labelling.review.images import open_record_image
from grounded.labelling.review.log import (
    Action,
    InstanceKey,
    Review,
    append_reviews,
    group_by_file,
    read_reviews,
)
from grounded.labelling.sources import Source, open_source
from grounded.labelling.store import read_records
from grounded.stages.fallback import UNNAMED
from grounded.utils.validation import Count, Fraction, checked_dataclass
from segany.utils.points import error_point
from segany.utils.rle import RLE, decode_rle, rle_area, rle_iou

Seconds = Annotated[float, Field(ge=0)]
SOURCE = "simulated"  # of its reviews


@checked_dataclass
class Annotator:
    """How the simulated annotator works. Its seconds are assumptions; those of the model are measured and added."""

    good_iou: Fraction = 0.9  # with the true mask: it is content, and keeps the mask
    least_iou: Fraction = 0.75  # after the last click: below it the object is given up
    same_iou: Fraction = 0.5  # with a true mask: a mask that it is shown is meant for that object, else rejected
    most_clicks: Count = 9
    to_find: Seconds = 3.0  # the next object to annotate
    per_click: Seconds = 1.5
    per_decision: Seconds = 1.0  # on a mask: keep, reject, correct, look at the next one of several


@dataclass
class Attempt:
    """A mask in the making: what it has taken so far."""

    seconds: float = 0.0
    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    rle: RLE | None = None
    iou: float = 0.0


def read_truths(path: str, notes: Notes) -> dict[str, list[RLE]]:
    """Return the true masks of a COCO file by image; crowds, and objects without a mask, are left out and counted.

    Raises:
        ResultError: it cannot be read.
    """
    truth = read_ground_truth(path)
    truth.note_left_out(notes)
    found: dict[str, list[RLE]] = {}
    for file in truth.sizes:
        objects = truth.objects(file, notes)
        usable = [one.mask for one in objects if one.mask is not None and not one.is_crowd and rle_area([one.mask])[0]]
        notes.add("objects without a mask, and crowds, left out", file, len(objects) - len(usable))
        found[file] = usable
    return found


@dataclass(frozen=True)
class Simulation:
    """Annotates the images of a round."""

    engine: Engine
    source: Source
    truths: Truths
    segmenter: ClickSegmenter
    annotator: Annotator = field(default_factory=Annotator)

    def annotate(self, record: Record) -> int:
        """Annotate one image, in one go: either all its reviews are on the disk, or none. Returns the masks kept.

        Masks that are shown are judged first; objects without a mask are added then, but in the automatic stage,
        whose masks are only corrected. The largest objects come first, as the most prominent.

        Raises:
            GroundedError: the image or the model cannot be read, or the reviews cannot be written.
        """
        image = open_record_image(self.source, record)
        truths = list(self.truths.get(record.image.file, ()))
        reviews: list[Review] = []
        found = self._judge(record, image, truths, reviews)
        given_up = Attempt()
        if self.engine.round.stage != "auto":
            areas, limit = rle_area(truths), self.engine.plan.seconds_per_mask
            for row in sorted(set(range(len(truths))) - found, key=lambda row: -areas[row]):
                attempt = self._draw(image, truths[row])
                if attempt.rle is not None and attempt.iou >= self.annotator.least_iou:
                    reviews.append(self._review(record, "add", uuid.uuid4().hex[:12], attempt))
                else:
                    given_up.seconds += attempt.seconds
                    given_up.points += attempt.points
                if limit is not None and attempt.seconds > limit:
                    break  # the next image is due
        kept = sum(one.action != "reject" for one in reviews)
        if not reviews and not truths:
            given_up.seconds += self.annotator.to_find + self.annotator.per_decision
            reviews.append(self._review(record, "accept"))  # that the image holds nothing
        elif not reviews:
            reviews.append(self._review(record, "undo"))  # undoes nothing: it only records the time that was spent
        reviews[-1] = _with_effort(reviews[-1], given_up)
        append_reviews(self.engine.round_folder(), *reviews)
        return kept

    def _judge(self, record: Record, image: SourceImage, truths: Sequence[RLE], reviews: list[Review]) -> set[int]:
        """Accept, correct or reject the masks of the record; returns the rows of the true masks that they stand for."""
        found: set[int] = set()
        for row, rle in enumerate(record.instances.rles):
            ious = rle_iou([rle], truths)[0] if truths else []
            best = max((i for i in range(len(truths)) if i not in found), key=lambda i: ious[i], default=None)
            attempt = Attempt(seconds=self.annotator.per_decision)
            if best is None or ious[best] < self.annotator.same_iou:
                reviews.append(self._review(record, "reject", row, attempt))
                continue
            attempt.rle, attempt.iou = rle, float(ious[best])
            if attempt.iou < self.annotator.good_iou:
                self._click(image, attempt, truths[best], record.instances[row])
            if attempt.iou < self.annotator.least_iou:
                reviews.append(self._review(record, "reject", row, attempt))
                continue
            found.add(best)
            reviews.append(self._review(record, "redraw" if attempt.points else "accept", row, attempt))
        return found

    def _draw(self, image: SourceImage, truth: RLE) -> Attempt:
        """Make the mask of an object that has none."""
        attempt = Attempt(seconds=self.annotator.to_find)
        self._click(image, attempt, truth)
        return attempt

    def _click(self, image: SourceImage, attempt: Attempt, truth: RLE, instance: Instances | None = None) -> None:
        """Click until the mask is good, or there were enough clicks; the attempt keeps the best mask.

        The first click on a new object goes into its middle, later ones into the middle of the largest error.
        """
        true_mask, annotator = decode_rle([truth])[0], self.annotator
        shown = torch.zeros_like(true_mask) if attempt.rle is None else decode_rle([attempt.rle])[0]
        while attempt.iou < annotator.good_iou and len(attempt.points) < annotator.most_clicks:
            point, label = _next_click(shown, true_mask)
            if label < 0:
                return
            attempt.points.append(point)
            attempt.labels.append(label)
            started = time.perf_counter()
            found = self.segmenter.segment(image, UNNAMED, attempt.points, attempt.labels, instance)
            attempt.seconds += time.perf_counter() - started + annotator.per_click
            attempt.seconds += annotator.per_decision * max(1, len(found))
            if not len(found):
                continue
            ious = rle_iou(list(found.rles), [truth])[:, 0]
            best = int(ious.argmax())  # of several masks for one click it takes the one that is meant
            shown = decode_rle([found.rles[best]])[0]
            if ious[best] >= attempt.iou:
                attempt.rle, attempt.iou = found.rles[best], float(ious[best])

    def _review(
        self, record: Record, action: Action, key: InstanceKey | None = None, attempt: Attempt | None = None
    ) -> Review:
        attempt = attempt or Attempt()
        return Review(
            file=record.image.file,
            action=action,
            instance=key if isinstance(key, int) else None,
            id=key if isinstance(key, str) else None,
            phrase=UNNAMED if action == "add" else None,
            mask=attempt.rle if action in ("add", "redraw") else None,
            source=SOURCE,
            config=record.config,
            seconds=round(attempt.seconds, 3),
            clicks=len(attempt.points),
        )


def _with_effort(review: Review, attempt: Attempt) -> Review:
    """Add the time and the clicks of an attempt that led to no mask."""
    seconds, clicks = (review.seconds or 0.0) + attempt.seconds, (review.clicks or 0) + len(attempt.points)
    return replace(review, seconds=round(seconds, 3), clicks=clicks)


def _next_click(shown: Bool[Tensor, "h w"], truth: Bool[Tensor, "h w"]) -> tuple[list[float], int]:
    """A point in pixels and its label: 1 foreground, 0 background, -1 where there is no error."""
    point, label = error_point(shown, truth)
    return [float(point[0]), float(point[1])], int(label)


def annotate_round(
    engine: Engine,
    truths: Truths,
    annotator: Annotator,
    sample: int,
    device: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Annotate the images of the current round that have no review yet.

    Args:
        engine: in the phase "annotate".
        truths: the true masks of its images.
        annotator: how to work.
        sample: how many images of the automatic stage are corrected, the first ones by name.
        device: as in a configuration.
        should_stop: asked before each image.

    Raises:
        GroundedError: an image or the model cannot be read, or reviews cannot be written.
    """
    folder, config = engine.round_folder(), engine.config(device=device)
    done = group_by_file(read_reviews(folder))
    records = sorted(read_records(folder), key=lambda record: record.image.file)
    records = records[:sample] if engine.round.stage == "auto" else records
    left = [record for record in records if record.image.file not in done]
    if not left:
        return
    clicks = ClickSegmenter(config, load_predictor(config))
    simulation = Simulation(engine, open_source(engine.plan.source), truths, clicks, annotator)
    for record in tqdm(left, f"round {engine.number}, {engine.round.stage}", unit="image", disable=None):
        if should_stop():
            break
        simulation.annotate(record)
