"""Agreement of a person with the masks and phrases of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from grounded.labelling.records import Record
from grounded.labelling.review.apply import is_confirmed_empty, is_outdated, resolve_reviews
from grounded.labelling.review.log import Review, group_by_file, read_reviews
from grounded.labelling.store import index_records, read_record_at
from segany.utils.rle import rle_iou


@dataclass(frozen=True)
class Agreement:
    """Counts of reviewed instances, and the IoU of automatic and corrected masks. Added instances are not reviewed."""

    images: int = 0  # with reviews
    reviewed: int = 0  # instances of the records
    rejected: int = 0
    relabelled: int = 0
    added: int = 0
    outdated: int = 0  # reviews of records that another run has replaced, which do not count
    ious: tuple[float, ...] = ()  # of automatic and corrected mask, for each that was accepted (1) or redrawn

    @classmethod
    def total(cls, parts: Iterable["Agreement"]) -> "Agreement":
        """Return the sum of the counts, and all IoUs."""
        listed = list(parts)
        counts = {name: sum(getattr(part, name) for part in listed) for name in _COUNTS}
        return cls(**counts, ious=tuple(iou for part in listed for iou in part.ious))

    @property
    def mean_iou(self) -> float | None:
        return sum(self.ious) / len(self.ious) if self.ious else None

    def share_above(self, iou: float) -> float | None:
        """Return the share of the compared masks with a greater IoU (Segment Anything, section 5: 94% above 0.9)."""
        return sum(value > iou for value in self.ious) / len(self.ious) if self.ious else None

    def __str__(self) -> str:
        """One line: "8 instances reviewed in 3 images, 2 rejected, ..."."""
        parts = [f"{self.reviewed} instances reviewed in {self.images} images", f"{self.rejected} rejected"]
        parts += [f"{self.relabelled} relabelled", f"{self.added} added"]
        parts += [f"{self.outdated} of earlier records"] if self.outdated else []
        if self.ious:
            compared = f"of {len(self.ious)} masks accepted or redrawn {self.share_above(0.9):.0%} above IoU 0.9"
            parts += [f"{compared}, mean {self.mean_iou:.3f}"]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return counts, shares of the reviewed instances and of the compared masks; None where there are none."""
        return {
            "images": self.images,
            "reviewed": self.reviewed,
            "rejected": self.rejected,
            "relabelled": self.relabelled,
            "added": self.added,
            "outdated": self.outdated,
            "rejected_share": self.rejected / self.reviewed if self.reviewed else None,
            "relabelled_share": self.relabelled / self.reviewed if self.reviewed else None,
            "compared": len(self.ious),
            "mean_iou": self.mean_iou,
            "above_0.9": self.share_above(0.9),
            "above_0.75": self.share_above(0.75),
        }


_COUNTS = ("images", "reviewed", "rejected", "relabelled", "added", "outdated")


def image_agreement(record: Record, reviews: Sequence[Review]) -> Agreement:
    """Compare the corrected masks and phrases of one image with the automatic ones."""
    states = resolve_reviews(record, reviews)
    rows = {key: state for key, state in states.items() if isinstance(key, int)}
    labels, rles = record.instances.labels, record.instances.rles
    seen = [(row, state.mask) for row, state in rows.items() if state.is_kept and state.mask_seen]
    return Agreement(
        images=int(bool(states) or is_confirmed_empty(record, reviews)),
        reviewed=len(rows),
        rejected=sum(not state.is_kept for state in rows.values()),
        relabelled=sum(state.is_kept and state.phrase not in (None, labels[row]) for row, state in rows.items()),
        added=sum(state.is_kept for key, state in states.items() if isinstance(key, str)),
        outdated=sum(is_outdated(review, record) for review in reviews),
        ious=tuple(1.0 if mask is None else float(rle_iou([mask], [rles[row]])[0, 0]) for row, mask in seen),
    )


def run_agreement(folder: str | PathLike[str]) -> Agreement:
    """Compare the corrected masks and phrases of a run with the automatic ones; only reviewed records are read.

    Raises:
        ResultError: a line is not a record or not a review, or a review does not fit its record.
    """
    reviews = group_by_file(read_reviews(folder))
    places = index_records(folder) if reviews else {}
    return Agreement.total(
        image_agreement(read_record_at(*places[file]), own) for file, own in reviews.items() if file in places
    )
