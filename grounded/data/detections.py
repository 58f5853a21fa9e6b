"""Detections: the boxes that a detector found in one image, with their scores for every phrase. For the stages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from grounded.data.parallel_arrays import check_phrase_ids, check_shape, select_rows, set_frozen


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes that a detector found in one image, best first.

    `boxes` (n, 4) are xyxy pixels of the original image, `scores` (n, p) hold every box against every one of the p
    phrases, `phrase_ids` (n) the phrase that each box is an answer to. Indexing takes what NumPy takes for one axis,
    and an int gives a value of length one.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, "n p"]
    phrase_ids: Int64[np.ndarray, "n"]

    def __post_init__(self) -> None:
        boxes, scores = np.asarray(self.boxes, dtype=np.float32), np.asarray(self.scores, dtype=np.float32)
        ids = np.asarray(self.phrase_ids, dtype=np.int64)
        if scores.ndim != 2:
            raise ValueError(f"scores must be (n, p), got {scores.shape}")
        n, p = scores.shape
        check_shape("boxes", boxes, (n, 4))
        check_phrase_ids(ids, n, p)
        set_frozen(self, boxes=boxes, scores=scores, phrase_ids=ids)

    @classmethod
    def empty(cls, phrase_count: int) -> "Detections":
        """Return no detection of `phrase_count` phrases."""
        return cls(np.zeros((0, 4), np.float32), np.zeros((0, phrase_count), np.float32), np.zeros(0, np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> "Detections":
        """Join detections of the same phrases, in the order given.

        Raises:
            ValueError: there are no parts, or they were scored against different numbers of phrases.
        """
        counts = sorted({part.scores.shape[1] for part in parts})
        if len(counts) != 1:
            raise ValueError(f"parts must be one or more with the same number of phrases, got {counts or 'no part'}")
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @property
    def score(self) -> Float32[np.ndarray, "n"]:
        """The score of each box for its own phrase."""
        return self.scores[np.arange(len(self)), self.phrase_ids]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Detections":
        rows = select_rows(index, len(self))
        return Detections(self.boxes[rows], self.scores[rows], self.phrase_ids[rows])

    def __iter__(self) -> Iterator["Detections"]:
        return (self[i] for i in range(len(self)))
