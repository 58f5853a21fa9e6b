"""A review as it goes on: records, what was said of them, and what a page shows of both."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from grounded.data.image import SourceImage
from grounded.errors import ImageError, PromptError, ResultError
from grounded.labelling.records import Record
from grounded.labelling.review import apply, log, shown
from grounded.labelling.review.agreement import Agreement, agreement_of
from grounded.labelling.review.apply import Verdict
from grounded.labelling.review.clicks import Redrawing
from grounded.labelling.review.images import open_picture
from grounded.labelling.review.index import Catalogue
from grounded.labelling.review.log import Key, Review
from grounded.labelling.sources import Source

# Of a picture: nothing said, of some instances, of all; then what was said, of any of them.
STATES = ("unreviewed", "partly", "done", "reject", "relabel", "redraw", "add")


class Desk:
    """A run before a person. What is said is on the disk before it is shown; for several threads.

    Records and reviews that other programs add to the folder meanwhile count as well.

    Args:
        folder: of the run.
        source: of its pictures; None where they cannot be found any more.
        redrawing: what answers clicks.

    Raises:
        GroundedError: the folder holds no run, or its reviews cannot be read.
    """

    def __init__(self, folder: Path, source: Source | None, redrawing: Redrawing) -> None:
        self.folder, self.source, self.redrawing = folder, source, redrawing
        self.catalogue = Catalogue(folder)
        self._lock = threading.RLock()
        self._latest: tuple[str, SourceImage] | None = None
        self._offset = 0
        self._reviews: dict[str, list[Review]] = {}
        self._states: dict[str, frozenset[str]] = {}
        self._phrases: dict[str, frozenset[str]] = {}  # that a person gave, by file
        self._agreements: dict[str, Agreement] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in records and reviews that are in the folder and not yet here."""
        with self._lock:
            self.catalogue.refresh()
            path = self.folder / log.REVIEWS
            size = path.stat().st_size if path.exists() else 0
            if size == self._offset:
                return
            if size < self._offset:  # another run was begun in the folder
                for known in (self._reviews, self._states, self._phrases, self._agreements):
                    known.clear()
                self._offset = 0
            new, self._offset = log.read_from(self.folder, self._offset)
            for file, own in log.by_file(new).items():
                if file in self.catalogue.places:
                    self._reviews.setdefault(file, []).extend(own)
                    self._judge(file)

    def reviews(self, file: str) -> list[Review]:
        """All that was said of a picture, in order."""
        with self._lock:
            return list(self._reviews.get(file, ()))

    def states(self, file: str) -> frozenset[str]:
        """Which of STATES a picture has."""
        return self._states.get(file, frozenset({"unreviewed"}))

    def listed(self, file: str, state: str | None) -> bool:
        """Whether a picture is in the list of those with a state."""
        return state is None or state in self.states(file)

    def given(self, phrase: str | None) -> list[str]:
        """Files in which a person has called something so."""
        with self._lock:
            return [file for file, phrases in self._phrases.items() if phrase in phrases]

    def phrases(self) -> list[str]:
        """All phrases there are, those of the run by frequency and then those that a person gave."""
        with self._lock:
            new = sorted({phrase for phrases in self._phrases.values() for phrase in phrases})
        return list(dict.fromkeys([*self.catalogue.phrases(), *new]))

    def agreement(self) -> Agreement:
        with self._lock:
            return Agreement.total(self._agreements.values())

    def say(self, *said: Review) -> None:
        """Write down what a person says.

        Raises:
            UnknownPictureError: there is no such picture.
            ResultError: a review does not fit its record; then none is written.
            PromptError: a phrase holds none.
            OutputError: they cannot be written.
        """
        with self._lock:
            self.refresh()
            for file, own in log.by_file(said).items():
                record = self.catalogue.record(file)
                apply.apply(record, [*self._reviews.get(file, ()), *own])
            for review in said:
                if review.mask is not None and not coco_mask.area(review.mask):
                    raise ResultError("the mask must have pixels, got none: reject the instance instead")
            log.append(self.folder, *said)
            self.refresh()

    def latest(self, file: str) -> Key | None:
        """The instance that the latest review of a picture is of, for taking it back; None where there is none.

        `reviews.WHOLE_PICTURE` where that is of no instance.
        """
        standing = apply.standing(self.catalogue.record(file), self.reviews(file))
        return standing[-1].key if standing else None

    def corrected(self, file: str) -> Record:
        """The record of a picture, corrected so far."""
        return apply.apply(self.catalogue.record(file), self.reviews(file))

    def picture(self, file: str) -> dict[str, Any]:
        """All that the page shows of one picture, fit for JSON. Raises UnknownPictureError."""
        record = self.catalogue.record(file)
        said = self.reviews(file)
        missing = None
        try:
            open_picture(self.source, record, reduced_to=64)
        except ImageError as error:
            missing = str(error)
        return {
            "file": file,
            "width": record.image.width,
            "height": record.image.height,
            "notes": list(record.image.notes),
            "missing": missing,
            "version": len(said),
            "states": sorted(self.states(file)),
            "instances": shown.instances(record, apply.of(record, said)),
        }

    def masks(
        self, file: str, key: Key | None, phrase: str, points: Sequence[Sequence[float]], labels: Sequence[int]
    ) -> list[dict[str, Any]]:
        """New masks for clicks, the best first, fit for JSON; nothing is written down.

        Args:
            file: which picture.
            key: the instance that is corrected; None for a new one.
            phrase: what a new one is called.
            points: (k, 2), all clicks so far, in pixels.
            labels: (k), 1 foreground and 0 background.

        Raises:
            UnknownPictureError: there is no such picture.
            ImageError: the picture is not there.
            PromptError: the clicks cannot be used, or there is no such instance.
        """
        record = self.catalogue.record(file)
        picture = self._opened(record)
        before = None
        if key is not None:
            # Of the corrected record only this instance, rejected or not.
            said = [review for review in self.reviews(file) if review.key == key and review.action != "reject"]
            kept = apply.apply(record, said)
            row = key if isinstance(key, int) else len(record.instances)
            if row >= len(kept.instances):
                raise PromptError(f"there is no instance {key!r} in {file}")
            before = kept.instances[row]
        found = self.redrawing.masks(picture, phrase, points, labels, before)
        return [shown.mask(rle, float(iou)) for rle, iou in zip(found.rles, found.predicted_iou, strict=True)]

    def _opened(self, record: Record) -> SourceImage:
        """The picture of a record in full; the latest is kept, for one clicks several times."""
        with self._lock:
            if self._latest is None or self._latest[0] != record.image.file:
                self._latest = record.image.file, open_picture(self.source, record)
            return self._latest[1]

    def _judge(self, file: str) -> None:
        record, own = self.catalogue.record(file), self._reviews[file]
        found = apply.of(record, own)
        self._agreements[file] = agreement_of(record, own)
        self._phrases[file] = frozenset(verdict.phrase for verdict in found.values() if verdict.phrase)
        if not found and not apply.is_empty(record, own):
            self._states[file] = frozenset({"unreviewed"})
            return
        self._states[file] = frozenset(_said(found, len(record.instances)))


def _said(found: Mapping[Key, Verdict], rows: int) -> Iterator[str]:
    """Those of STATES that a picture with `rows` instances has."""
    yield "done" if sum(isinstance(key, int) for key in found) == rows else "partly"
    for key, verdict in found.items():
        if not verdict.kept:
            yield "reject"
        elif isinstance(key, str):
            yield "add"
        else:
            yield from (["relabel"] if verdict.phrase else []) + (["redraw"] if verdict.mask else [])
