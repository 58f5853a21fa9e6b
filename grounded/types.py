"""Values that travel through the pipeline, and the protocols of its exchangeable parts.

Boxes are xyxy float pixels of the upright original image; masks are (height, width) bool of the same frame, or their
run-length encodings.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64
from PIL import Image
from torch import Tensor

from grounded.arrays import check_phrase_ids, check_shape, select_rows, set_frozen
from grounded.instances import Instances
from grounded.settings import ScoringConfig
from segany import MaskPrediction, Prompts
from segany.masks import RLE

__all__ = [
    "Detections",
    "Detector",
    "HeatPrompter",
    "HeatPrompts",
    "ImageTextEncoder",
    "Instances",
    "RegionScorer",
    "Segmenter",
    "TextEncoder",
]


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


@dataclass(frozen=True, eq=False)
class HeatPrompts:
    """What p heat maps say to a segmenter, one prompt for each phrase.

    points  (p, k, 2), (x, y) pixels of the original image, the surest first
    labels  (p, k): 1 foreground, 0 background, -1 padding
    logits  (p, gh, gw), a coarse mask that covers the whole image, positive inside
    """

    points: Float[Tensor, "p k 2"]
    labels: Int64[Tensor, "p k"]
    logits: Float[Tensor, "p gh gw"]


@runtime_checkable
class Detector(Protocol):
    """Finds boxes for phrases."""

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        """Return the detections of each RGB image for its own phrases, best first."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Embeds phrases for the text prompt."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        ...

    def encode(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        """Return one embedding of unit length per phrase."""
        ...


@runtime_checkable
class ImageTextEncoder(TextEncoder, Protocol):
    """Embeds phrases and pictures into one space, and compares them there."""

    def encode_images(self, crops: Iterable[Image.Image]) -> Float[Tensor, "n c"]:
        """Return one embedding of unit length per RGB picture."""
        ...

    def log_odds(
        self, embeddings: Float[Tensor, "*n c"], phrases: Sequence[str], config: ScoringConfig
    ) -> Float[Tensor, "*n p"]:
        """Return the log-odds of every phrase for every embedding, each against the negatives of `config`."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Answers prompts with masks. `segany.Predictor` is one. An embedding is a value that the caller holds."""

    def encode(self, image: Image.Image) -> Any:
        """Return the embedding of an RGB image."""
        ...

    def predict(self, embedding: Any, prompts: Prompts, multimask_output: bool = True) -> MaskPrediction:
        """Answer n independent prompts, given in original pixels."""
        ...


@runtime_checkable
class RegionScorer(Protocol):
    """Scores masks against phrases by what they show."""

    def score(self, image: Image.Image, rles: Sequence[RLE], phrases: Sequence[str]) -> Float32[np.ndarray, "n p"]:
        """Return the probability of every phrase for every mask of an RGB image, each against fixed negatives.

        A phrase never changes the score of another one.
        """
        ...


@runtime_checkable
class HeatPrompter(Protocol):
    """Turns phrases into points and coarse masks, for segmenters without a text prompt of their own."""

    def prompts(self, image: Image.Image, phrases: Sequence[str]) -> HeatPrompts:
        """Return one prompt for each phrase in an RGB image."""
        ...
