"""Detections: the boxes that a detector found in one image, with their scores for every phrase. For the stages."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from grounded.data.parallel_arrays import ParallelArrays, check_phrase_ids, set_frozen


@dataclass(frozen=True, eq=False)
class Detections(ParallelArrays):
    """Boxes that a detector found in one image, best first. Indexed like an array, see `ParallelArrays`.

    A detector that scores tokens gives two scores: over the tokens of a phrase that count, by which boxes are ranked
    and given to phrases, and of the best token, to which thresholds are applied, as published examples do.

    Raises:
        ValueError: shapes that do not fit together, or phrase ids out of range.
    """

    boxes: Float32[np.ndarray, "n 4"]  # xyxy, pixels of the original image
    scores: Float32[np.ndarray, "n p"]  # of every box for every one of the p phrases
    phrase_ids: Int64[np.ndarray, "n"]  # the phrase that each box was found for
    # (n): of the best token of its own phrase; left out where a phrase has one score, which it then is.
    best_token_scores: Float32[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(0, np.float32))

    ROWS: ClassVar = ("boxes", "scores", "phrase_ids", "best_token_scores")
    SHARED: ClassVar = "number of phrases"

    def __post_init__(self) -> None:
        shape = np.shape(self.scores)
        if len(shape) != 2:
            raise ValueError(f"scores must be (n, p), got {shape}")
        n, p = shape
        self.convert("scores", np.float32, (n, p))
        self.convert("boxes", np.float32, (n, 4))
        self.convert("phrase_ids", np.int64, (n,))
        check_phrase_ids(self.phrase_ids, p)
        if n and len(self.best_token_scores) == 0:
            set_frozen(self, best_token_scores=self.score)
        self.convert("best_token_scores", np.float32, (n,))

    @classmethod
    def empty(cls, phrase_count: int) -> "Detections":
        """Return no detection of `phrase_count` phrases."""
        return cls(np.zeros((0, 4), np.float32), np.zeros((0, phrase_count), np.float32), np.zeros(0, np.int64))

    @property
    def shared(self) -> int:
        """The number of phrases."""
        return self.scores.shape[1]

    @property
    def score(self) -> Float32[np.ndarray, "n"]:
        """The score of each box for its own phrase, by which boxes are ranked."""
        return self.scores[np.arange(len(self)), self.phrase_ids]
