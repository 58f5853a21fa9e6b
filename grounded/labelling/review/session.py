"""A review session: the records of a run, the reviews of them so far, and both as the page shows them."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from grounded.data.image import SourceImage
from grounded.errors import ImageError, PromptError, ResultError
from grounded.labelling.records import Record
from grounded.labelling.review.agreement import Agreement, image_agreement
from grounded.labelling.review.apply import (
    ReviewState,
    active_reviews,
    apply_reviews,
    is_confirmed_empty,
    resolve_reviews,
)
from grounded.labelling.review.clicks import ClickSegmenter
from grounded.labelling.review.images import open_record_image
from grounded.labelling.review.index import RecordIndex
from grounded.labelling.review.log import InstanceKey, Review, append_reviews, group_by_file, read_reviews_from
from grounded.labelling.sources import Source
from grounded.labelling.store.run import REVIEWS
from grounded.output.draw import phrase_colour
from grounded.output.polygons import TOLERANCE, mask_to_polygons
from segany.utils.rle import RLE, rle_area

# States of an image: how many of its instances are reviewed, then the kinds of corrections that it has.
STATES = ("unreviewed", "partly", "done", "reject", "relabel", "redraw", "add")

_OUTLINE_STEPS = 1500  # along the longer side: as fine as a screen shows


@dataclass(frozen=True)
class AnnotationGuide:
    """How the page leads a person who annotates images one after the other, rather than reviews what was found.

    phrase            of new instances, which are not asked for a name
    seconds_per_mask  after which it suggests the next image (Segment Anything, section 4: 30 seconds); None never does
    """

    phrase: str
    seconds_per_mask: float | None = None


class ReviewSession:
    """A run under review. Reviews are on the disk before they are shown; for several threads.

    Records and reviews that other programs add to the folder meanwhile count as well.

    Args:
        folder: of the run.
        source: of its images; None where they cannot be found any more.
        segmenter: makes masks from clicks.
        guide: where images are annotated one after the other; None where labels are reviewed.

    Raises:
        GroundedError: the folder holds no run, or its reviews cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        source: Source | None,
        segmenter: ClickSegmenter,
        guide: AnnotationGuide | None = None,
    ) -> None:
        self.folder, self.source, self.segmenter, self.guide = folder, source, segmenter, guide
        self.index = RecordIndex(folder)
        self._lock = threading.RLock()
        self._opened: tuple[str, SourceImage] | None = None  # the latest image, by file
        self._offset = 0  # end of the last review read
        self._reviews: dict[str, list[Review]] = {}
        self._states: dict[str, frozenset[str]] = {}
        self._new_phrases: dict[str, frozenset[str]] = {}  # given by a person, by file
        self._agreements: dict[str, Agreement] = {}
        self._damaged: list[str] = []  # lines on reviews that cannot be read or do not fit, and do not count
        self.refresh()

    def refresh(self) -> None:
        """Read the records and reviews that were added to the folder."""
        with self._lock:
            self.index.refresh()
            path = self.folder / REVIEWS
            size = path.stat().st_size if path.exists() else 0
            if size == self._offset:
                return
            if size < self._offset:  # another run was begun in the folder
                for known in (self._reviews, self._states, self._new_phrases, self._agreements, self._damaged):
                    known.clear()
                self._offset = 0
            new, self._offset = read_reviews_from(self.folder, self._offset, self._damaged)
            for file, own in group_by_file(new).items():
                if file in self.index.places:
                    self._take(file, own)

    def _take(self, file: str, new: list[Review]) -> None:
        """Count new reviews of an image; those that another program has added and that do not fit are left out."""
        before = self._reviews.get(file, [])
        self._reviews[file] = [*before, *new]
        try:
            self._update(file)
        except ResultError as error:
            self._reviews[file] = before
            if len(new) == 1:
                self._damaged.append(str(error))
            else:
                for review in new:
                    self._take(file, [review])

    @property
    def error(self) -> str | None:
        """What of the run cannot be read, in one sentence; None where all can."""
        if not self._damaged:
            return self.index.error
        return f"{len(self._damaged)} reviews cannot be used, and do not count: {self._damaged[0]}"

    def _update(self, file: str) -> None:
        """Derive what is known of an image from its reviews."""
        record, reviews = self.index.record(file), self._reviews[file]
        states = resolve_reviews(record, reviews)
        self._agreements[file] = image_agreement(record, reviews)
        self._new_phrases[file] = frozenset(state.phrase for state in states.values() if state.phrase)
        if states or is_confirmed_empty(record, reviews):
            self._states[file] = _image_states(states, len(record.instances))
        else:
            self._states[file] = frozenset({"unreviewed"})

    def reviews(self, file: str) -> list[Review]:
        """Return all reviews of an image, in order."""
        with self._lock:
            return list(self._reviews.get(file, ()))

    def states(self, file: str) -> frozenset[str]:
        """Return those of `STATES` that an image is in."""
        return self._states.get(file, frozenset({"unreviewed"}))

    def files_relabelled_as(self, phrase: str) -> list[str]:
        """Return the images in which a person has given an instance this phrase."""
        with self._lock:
            return [file for file, phrases in self._new_phrases.items() if phrase in phrases]

    def phrases(self) -> list[str]:
        """Return all phrases: those of the run by frequency, then those that a person has given."""
        with self._lock:
            new = sorted({phrase for phrases in self._new_phrases.values() for phrase in phrases})
        return list(dict.fromkeys([*self.index.phrases(), *new]))

    def agreement(self) -> Agreement:
        with self._lock:
            return Agreement.total(self._agreements.values())

    def add_reviews(self, *reviews: Review) -> None:
        """Append reviews to the log, all or none.

        Raises:
            UnknownImageError: there is no such image.
            ResultError: a review does not fit its record, or is of a frame of a clip.
            OutputError: they cannot be written.
        """
        with self._lock:
            self.refresh()
            for file, own in group_by_file(reviews).items():
                record = self.index.record(file)
                if record.frame is not None:
                    raise ResultError(
                        f"{file} is a frame of a clip, whose tracks are corrected from a frame on: use grounded track "
                        "with --prompts, or the Video tab of grounded demo"
                    )
                apply_reviews(record, [*self._reviews.get(file, ()), *own])
            for review in reviews:
                if review.mask is not None and not rle_area([review.mask])[0]:
                    raise ResultError("the mask must have pixels, got none: reject the instance instead")
            append_reviews(self.folder, *reviews)
            self.refresh()

    def last_reviewed(self, file: str) -> InstanceKey | None:
        """Return the instance of the latest review of an image that counts; None without one.

        That is `WHOLE_IMAGE` for a review of no instance.
        """
        active = active_reviews(self.index.record(file), self.reviews(file))
        return active[-1].key if active else None

    def corrected_record(self, file: str) -> Record:
        """Return the record of an image with the corrections so far."""
        return apply_reviews(self.index.record(file), self.reviews(file))

    def image_to_dict(self, file: str) -> dict[str, Any]:
        """Return an image as the page shows it, fit for JSON. Raises UnknownImageError."""
        record = self.index.record(file)
        reviews = self.reviews(file)
        missing = None
        try:
            open_record_image(self.source, record, reduced_to=64)
        except ImageError as error:
            missing = str(error)
        return {
            "file": file,
            "width": record.image.width,
            "height": record.image.height,
            "notes": list(record.image.notes),
            "missing": missing,
            "version": len(reviews),
            "states": sorted(self.states(file)),
            "instances": _instances_to_list(record, resolve_reviews(record, reviews)),
            "times": _seconds_by_key(reviews),
        }

    def segment_clicks(
        self, file: str, key: InstanceKey | None, phrase: str, points: Sequence[Sequence[float]], labels: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Return new masks for clicks, the best first, fit for JSON; no review is made of them.

        Args:
            file: of the image.
            key: the instance to correct; None for a new one.
            phrase: the name of a new one.
            points: (k, 2), all clicks so far, in pixels.
            labels: (k), 1 foreground and 0 background.

        Raises:
            UnknownImageError: there is no such image.
            ImageError: the image is missing.
            PromptError: the clicks cannot be used, or there is no such instance.
        """
        record = self.index.record(file)
        image = self._open(record)
        instance = None
        if key is not None:
            # Correct this instance alone, rejected or not.
            reviews = [review for review in self.reviews(file) if review.key == key and review.action != "reject"]
            corrected = apply_reviews(record, reviews).instances
            row = key if isinstance(key, int) else len(record.instances)
            if not 0 <= row < len(corrected):
                raise PromptError(f"there is no instance {key!r} in {file}")
            instance = corrected[row]
        found = self.segmenter.segment(image, phrase, points, labels, instance)
        return [
            {"mask": dict(rle), "path": svg_path(rle), "iou": _finite(float(iou))}
            for rle, iou in zip(found.rles, found.predicted_iou, strict=True)
        ]

    def _open(self, record: Record) -> SourceImage:
        """Open the image of a record at full size; the latest is kept, because users click several times."""
        with self._lock:
            if self._opened is None or self._opened[0] != record.image.file:
                self._opened = record.image.file, open_record_image(self.source, record)
            return self._opened[1]


def _image_states(states: Mapping[InstanceKey, ReviewState], rows: int) -> frozenset[str]:
    """Return those of `STATES` that a reviewed image with `rows` instances in its record is in."""
    found = {"done" if sum(isinstance(key, int) for key in states) == rows else "partly"}
    for key, state in states.items():
        if not state.is_kept:
            found.add("reject")
        elif isinstance(key, str):
            found.add("add")
        else:
            found |= ({"relabel"} if state.phrase else set()) | ({"redraw"} if state.mask else set())
    return frozenset(found)


def _seconds_by_key(reviews: Sequence[Review]) -> dict[InstanceKey, float]:
    """Return how long a person took over each instance, where that was measured."""
    seconds: dict[InstanceKey, float] = {}
    for review in reviews:
        if review.seconds is not None:
            seconds[review.key] = round(seconds.get(review.key, 0.0) + review.seconds, 2)
    return seconds


def _instances_to_list(record: Record, states: Mapping[InstanceKey, ReviewState]) -> list[dict[str, Any]]:
    """Return the instances of a record with their corrections, rejected ones too; added ones come last."""
    instances, listed = record.instances, list[dict[str, Any]]()
    for row in range(len(instances)):
        label, score = str(instances.labels[row]), _finite(float(instances.scores[row]))
        entry = _instance_to_dict(row, label, instances.rles[row], states.get(row))
        listed.append({**entry, "record_phrase": label, "score": score, "source": str(instances.sources[row])})
    for key, state in states.items():
        if isinstance(key, str) and state.phrase and state.mask:
            entry = _instance_to_dict(key, state.phrase, state.mask, state)
            listed.append({**entry, "score": None, "source": "added"})
    return listed


def _instance_to_dict(key: InstanceKey, phrase: str, mask: RLE, state: ReviewState | None) -> dict[str, Any]:
    if state is not None:
        phrase, mask = state.phrase or phrase, state.mask or mask
    red, green, blue = phrase_colour(phrase)
    return {
        "key": key,
        "phrase": phrase,
        "state": state.action if state else None,
        "redrawn": state is not None and state.mask is not None,
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
        "area": int(rle_area([mask])[0]),
        "path": svg_path(mask),
    }


def svg_path(rle: RLE) -> str:
    """Return a mask as the path of an SVG in pixels of the image, by the even-odd rule."""
    parts = []
    for polygon in mask_to_polygons(rle, max(TOLERANCE, max(rle["size"]) / _OUTLINE_STEPS)):
        for ring in polygon.rings:
            parts.append("M" + "L".join(f"{x:.6g},{y:.6g}" for x, y in ring.round(1)) + "Z")
    return "".join(parts)


def _finite(number: float) -> float | None:
    return round(number, 4) if isfinite(number) else None
