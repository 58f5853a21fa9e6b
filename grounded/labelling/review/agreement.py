"""How far a person agreed with the masks and phrases of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from pycocotools import mask as coco_mask

from grounded.labelling import store
from grounded.labelling.records import Record
from grounded.labelling.review import apply
from grounded.labelling.review.apply import Verdict, is_empty, is_outdated
from grounded.labelling.review.log import Review, by_file, read
from segany.utils.rle import RLE


@dataclass(frozen=True)
class Agreement:
    """How far a person agreed with the masks and phrases of a run. Added instances are no part of `reviewed`."""

    pictures: int = 0  # with reviews
    reviewed: int = 0  # instances of the records
    rejected: int = 0
    relabelled: int = 0
    added: int = 0
    outdated: int = 0  # reviews of records that another run has replaced, which do not count
    ious: tuple[float, ...] = ()  # of automatic and corrected mask, for what was accepted (1) or redrawn

    @classmethod
    def total(cls, parts: Iterable["Agreement"]) -> "Agreement":
        listed = list(parts)
        counts = {name: sum(getattr(part, name) for part in listed) for name in _COUNTS}
        return cls(**counts, ious=tuple(iou for part in listed for iou in part.ious))

    @property
    def mean_iou(self) -> float | None:
        return sum(self.ious) / len(self.ious) if self.ious else None

    def share_above(self, iou: float) -> float | None:
        """Share of the compared masks with a greater IoU (Segment Anything, section 5: 94% above 0.9)."""
        return sum(value > iou for value in self.ious) / len(self.ious) if self.ious else None

    def __str__(self) -> str:
        """One line: "8 instances reviewed in 3 pictures, 2 rejected, ..."."""
        parts = [f"{self.reviewed} instances reviewed in {self.pictures} pictures", f"{self.rejected} rejected"]
        parts += [f"{self.relabelled} relabelled", f"{self.added} added"]
        parts += [f"{self.outdated} of earlier records"] if self.outdated else []
        if self.ious:
            compared = f"of {len(self.ious)} masks accepted or redrawn {self.share_above(0.9):.0%} above IoU 0.9"
            parts += [f"{compared}, mean {self.mean_iou:.3f}"]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Counts, shares of the reviewed instances and of the compared masks; None where there is nothing to count."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        shares = {
            f"{name}_share": getattr(self, name) / self.reviewed if self.reviewed else None
            for name in ("rejected", "relabelled")
        }
        ious = {"mean_iou": self.mean_iou, "above_0.9": self.share_above(0.9), "above_0.75": self.share_above(0.75)}
        return {**counts, **shares, "compared": len(self.ious), **ious}


_COUNTS = ("pictures", "reviewed", "rejected", "relabelled", "added", "outdated")


def agreement_of(record: Record, reviews: Sequence[Review]) -> Agreement:
    """`agreement` of one picture."""
    found = apply.of(record, reviews)
    rows: Mapping[int, Verdict] = {key: verdict for key, verdict in found.items() if isinstance(key, int)}
    labels = record.instances.labels
    return Agreement(
        pictures=int(bool(found) or is_empty(record, reviews)),
        reviewed=len(rows),
        rejected=sum(not verdict.kept for verdict in rows.values()),
        relabelled=sum(verdict.kept and verdict.phrase not in (None, labels[row]) for row, verdict in rows.items()),
        added=sum(verdict.kept for key, verdict in found.items() if isinstance(key, str)),
        outdated=sum(is_outdated(review, record) for review in reviews),
        ious=tuple(
            _iou(record.instances.rles[row], verdict.mask)
            for row, verdict in rows.items()
            if verdict.kept and verdict.mask_seen
        ),
    )


def _iou(automatic: RLE, corrected: RLE | None) -> float:
    return 1.0 if corrected is None else float(coco_mask.iou([corrected], [automatic], [0])[0, 0])


def agreement(folder: str | PathLike[str]) -> Agreement:
    """Compare the corrected masks and phrases of a run with the automatic ones; reads only what was reviewed.

    Raises:
        ResultError: as `verdicts.corrected`.
    """
    reviews = by_file(read(folder))
    places = store.record_index(folder) if reviews else {}
    return Agreement.total(
        agreement_of(store.record_at(*places[file]), own) for file, own in reviews.items() if file in places
    )
