"""Applies reviews to records: the corrected instances of each image."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.interactive import edit
from grounded.labelling.records import Record
from grounded.labelling.review.log import WHOLE_IMAGE, Action, InstanceKey, Review, group_by_file, read_reviews
from grounded.labelling.store import read_records
from segany.utils.rle import RLE, rle_boxes


@dataclass(frozen=True)
class ReviewState:
    """The result of all reviews of one instance."""

    action: Action  # the latest that counts; the instance stays unless it is "reject"
    phrase: str | None = None  # instead of the record's
    mask: RLE | None = None  # instead of the record's
    mask_seen: bool = False  # whether a person has accepted or redrawn the mask

    @property
    def is_kept(self) -> bool:
        return self.action != "reject"


def active_reviews(record: Record, reviews: Iterable[Review]) -> list[Review]:
    """Return the reviews of this record that count: of its file and configuration, and not taken back."""
    active: list[Review] = []
    for review in reviews:
        if review.file != record.image.file or is_outdated(review, record):
            continue
        if review.action != "undo":
            active.append(review)
            continue
        latest = next((i for i in reversed(range(len(active))) if active[i].key == review.key), None)
        if latest is not None:
            del active[latest]
    return active


def is_outdated(review: Review, record: Record) -> bool:
    """Whether a review was of a record of the same image that another run has replaced."""
    return bool(review.config) and review.config != record.config


def resolve_reviews(record: Record, reviews: Iterable[Review]) -> dict[InstanceKey, ReviewState]:
    """Return the state of each reviewed instance of this record, added ones included.

    Raises:
        ResultError: a review is of a row that the record does not have, its mask is of another size, or it accepts an
            image with instances as empty.
    """
    states: dict[InstanceKey, ReviewState] = {}
    size = [record.image.height, record.image.width]
    for review in active_reviews(record, reviews):
        where = f"a review of {review.file}"
        if review.key == WHOLE_IMAGE:
            if len(record.instances):
                raise ResultError(f"{where} accepts it as empty, the record has {len(record.instances)}")
            continue
        if review.instance is not None and review.instance >= len(record.instances):
            raise ResultError(f"{where} is of instance {review.instance}, the record has {len(record.instances)}")
        if review.mask is not None and list(review.mask["size"]) != size:
            raise ResultError(f"{where} has a mask of size {review.mask['size']}, the image is {size}")
        before = states.get(review.key)
        if before is None:
            if review.id is not None and review.action != "add":
                continue  # its "add" was taken back, and with it all reviews of it
            before = ReviewState(review.action)
        states[review.key] = ReviewState(
            action=review.action,
            phrase=review.phrase or before.phrase,
            mask=review.mask or before.mask,
            mask_seen=before.mask_seen or review.action in ("accept", "redraw", "add"),
        )
    return states


def is_confirmed_empty(record: Record, reviews: Iterable[Review]) -> bool:
    """Whether a person has accepted an image without instances as empty, or has rejected all its instances."""
    active = active_reviews(record, reviews)
    if not len(record.instances):
        return any(review.key == WHOLE_IMAGE for review in active)
    states = resolve_reviews(record, active)
    return all(row in states and not states[row].is_kept for row in range(len(record.instances)))


def apply_reviews(record: Record, reviews: Iterable[Review], *, accepted_only: bool = False) -> Record:
    """Return the record as a person has corrected it: rejected instances dropped, added ones at the end.

    A redrawn mask has its own tight box and loses the scores of the former mask; a relabelled instance loses the scores
    of the former phrase. An added one has the source "person", and no scores at all.

    Args:
        record: as it was labelled.
        reviews: of any images; those of others are ignored.
        accepted_only: leave out instances that nobody has looked at.

    Raises:
        ResultError: a review does not fit the record.
    """
    states = resolve_reviews(record, reviews)
    instances, rows = record.instances, []
    for row in range(len(record.instances)):
        state = states.get(row)
        if state is None:
            rows += [] if accepted_only else [row]
        elif state.is_kept:
            rows.append(row)
            instances = _correct_instance(instances, row, state)
    instances = instances[rows]
    for key, state in states.items():
        if isinstance(key, str) and state.is_kept:
            assert state.phrase is not None and state.mask is not None  # checked by Review
            unknown = np.full(1, np.nan, np.float32)
            added = Instances.from_masks(
                (state.phrase,), instances.image_size, [state.mask], np.zeros(1, np.int64), unknown, "person"
            )
            instances = edit.add(instances, added)
    # Tracks are of the instances as they were.
    return replace(record, instances=instances, frame=None if states or accepted_only else record.frame)


def _correct_instance(instances: Instances, row: int, state: ReviewState) -> Instances:
    if state.phrase is not None:
        instances = edit.relabel(instances, row, state.phrase)
    if state.mask is None:
        return instances
    rles, boxes = list(instances.rles), instances.boxes.copy()
    rles[row], boxes[row] = state.mask, rle_boxes([state.mask])[0]
    clip_scores, predicted_iou = instances.clip_scores.copy(), instances.predicted_iou.copy()
    clip_scores[row] = predicted_iou[row] = np.nan
    return replace(instances, rles=tuple(rles), boxes=boxes, clip_scores=clip_scores, predicted_iou=predicted_iou)


def corrected_records(
    folder: str | PathLike[str], accepted_only: bool = False, damaged: list[str] | None = None
) -> Iterator[Record]:
    """Yield the records of a run as they were corrected, in their order.

    Args:
        folder: of the run.
        accepted_only: yield only what a person has confirmed: instances that were accepted or changed, and images that
            have such an instance or were confirmed to be empty.
        damaged: a line on each record and review that cannot be read, and each image whose reviews do not fit, is
            added, and it is left out; None to raise an error.

    Raises:
        ResultError: a line is not a record or not a review, or a review does not fit its record.
    """
    reviews = group_by_file(read_reviews(folder, damaged))
    for record in read_records(folder, damaged):
        own = reviews.get(record.image.file, [])
        try:
            corrected = apply_reviews(record, own, accepted_only=accepted_only)
        except ResultError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
            continue
        if accepted_only and not len(corrected.instances) and not is_confirmed_empty(record, own):
            continue
        yield corrected
