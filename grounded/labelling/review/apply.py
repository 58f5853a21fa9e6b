"""Records as people have corrected them: what the reviews of a picture lead to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.interactive import edit
from grounded.labelling import store
from grounded.labelling.records import Record
from grounded.labelling.review.log import WHOLE_PICTURE, Action, Key, Review, by_file, read
from grounded.stages.answers import from_masks, tight_boxes
from segany.utils.rle import RLE


@dataclass(frozen=True)
class Verdict:
    """Where the reviews of one instance have led to."""

    action: Action  # the latest that counts; whatever it is but "reject", the instance stays
    phrase: str | None = None  # instead of the record's
    mask: RLE | None = None  # instead of the record's
    mask_seen: bool = False  # whether a person has accepted or redrawn the mask

    @property
    def kept(self) -> bool:
        return self.action != "reject"


def standing(record: Record, reviews: Iterable[Review]) -> list[Review]:
    """The reviews of this record that count: of its file and configuration, and not taken back."""
    found: list[Review] = []
    for review in reviews:
        if review.file != record.image.file or is_outdated(review, record):
            continue
        if review.action != "undo":
            found.append(review)
            continue
        latest = next((i for i in reversed(range(len(found))) if found[i].key == review.key), None)
        if latest is not None:
            del found[latest]
    return found


def is_outdated(review: Review, record: Record) -> bool:
    """Whether a review was of a record of the same picture that another run has replaced."""
    return bool(review.config) and review.config != record.config


def of(record: Record, reviews: Iterable[Review]) -> dict[Key, Verdict]:
    """What the reviews say of each instance of this record that they are about, added ones included.

    Raises:
        ResultError: a review is of a row that the record does not have, its mask is of another size, or it accepts as
            empty a picture in which something was found.
    """
    found: dict[Key, Verdict] = {}
    size = [record.image.height, record.image.width]
    for review in standing(record, reviews):
        where = f"a review of {review.file}"
        if review.key == WHOLE_PICTURE:
            if len(record.instances):
                raise ResultError(f"{where} accepts it as empty, the record has {len(record.instances)}")
            continue
        if review.instance is not None and review.instance >= len(record.instances):
            raise ResultError(f"{where} is of instance {review.instance}, the record has {len(record.instances)}")
        if review.mask is not None and list(review.mask["size"]) != size:
            raise ResultError(f"{where} has a mask of size {review.mask['size']}, the picture is {size}")
        before = found.get(review.key)
        if before is None:
            if review.id is not None and review.action != "add":
                continue  # its "add" was taken back, which takes back all that was said of it
            before = Verdict(review.action)
        found[review.key] = Verdict(
            action=review.action,
            phrase=review.phrase or before.phrase,
            mask=review.mask or before.mask,
            mask_seen=before.mask_seen or review.action in ("accept", "redraw", "add"),
        )
    return found


def is_empty(record: Record, reviews: Iterable[Review]) -> bool:
    """Whether a person has seen that nothing was found, or has rejected all that was."""
    kept = standing(record, reviews)
    if not len(record.instances):
        return any(review.key == WHOLE_PICTURE for review in kept)
    found = of(record, kept)
    return all(row in found and not found[row].kept for row in range(len(record.instances)))


def apply(record: Record, reviews: Iterable[Review], *, accepted_only: bool = False) -> Record:
    """Return the record as a person has corrected it: rejected instances dropped, added ones at the end.

    A redrawn mask has its own tight box and no scores that were of the mask before; a relabelled instance no scores
    that were of the phrase before. An added one has the source "person", and no scores at all.

    Args:
        record: as it was made.
        reviews: of any pictures; those of others do not matter.
        accepted_only: leave out what nobody has looked at.

    Raises:
        ResultError: a review does not fit the record.
    """
    found = of(record, reviews)
    instances, kept = record.instances, []
    for row in range(len(record.instances)):
        verdict = found.get(row)
        if verdict is None:
            kept += [] if accepted_only else [row]
        elif verdict.kept:
            kept.append(row)
            instances = _corrected(instances, row, verdict)
    instances = instances[kept]
    for key, verdict in found.items():
        if isinstance(key, str) and verdict.kept:
            instances = edit.add(instances, _added(verdict, instances.image_size))
    return replace(record, instances=instances)


def _corrected(instances: Instances, row: int, verdict: Verdict) -> Instances:
    if verdict.phrase is not None:
        instances = edit.relabel(instances, row, verdict.phrase)
    if verdict.mask is None:
        return instances
    rles, boxes = list(instances.rles), instances.boxes.copy()
    rles[row], boxes[row] = verdict.mask, tight_boxes([verdict.mask])[0]
    clip_scores, predicted_iou = instances.clip_scores.copy(), instances.predicted_iou.copy()
    clip_scores[row] = predicted_iou[row] = np.nan
    return replace(instances, rles=tuple(rles), boxes=boxes, clip_scores=clip_scores, predicted_iou=predicted_iou)


def _added(verdict: Verdict, image_size: tuple[int, int]) -> Instances:
    assert verdict.phrase is not None and verdict.mask is not None  # Review sees to it
    unknown = np.full(1, np.nan, np.float32)
    return from_masks((verdict.phrase,), image_size, [verdict.mask], np.zeros(1, np.int64), unknown, "person")


def corrected(folder: str | PathLike[str], accepted_only: bool = False) -> Iterator[Record]:
    """Yield the records of a run as they were corrected, in their order.

    Args:
        folder: of the run.
        accepted_only: yield only what a person has looked at: the instances that were not rejected, and pictures of
            which there is such an instance, or that were found to be empty.

    Raises:
        ResultError: a line is no record or no review, or a review does not fit its record.
    """
    reviews = by_file(read(folder))
    for record in store.records(folder):
        own = reviews.get(record.image.file, [])
        result = apply(record, own, accepted_only=accepted_only)
        if accepted_only and not len(result.instances) and not is_empty(record, own):
            continue
        yield result
