"""Protocols of the models: detector, text encoder, segmenter, region scorer, dense prompter. For stages and adapters.

Boxes are xyxy float pixels of the upright original image; masks are (height, width) bool of the same frame, or their
run-length encodings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from PIL import Image
from torch import Tensor

from grounded.config import ScoringConfig
from grounded.data.detections import Detections
from segany import MaskPrediction, Prompts
from segany.utils.rle import RLE


@dataclass(frozen=True, eq=False)
class DensePrompts:
    """Point and mask prompts from p heat maps of dense features, one prompt for each phrase.

    points  (p, k, 2), (x, y) pixels of the original image, the most certain first
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
class NotingDetector(Detector, Protocol):
    """A detector that tells which phrases its tokenizer cannot spell."""

    def note_unread(self, phrases: Sequence[str]) -> tuple[str, ...]:
        """Return a sentence for each phrase of which some or all words are unknown."""
        ...


@runtime_checkable
class EmbeddingDetector(Detector, Protocol):
    """A detector that works on the segmenter's embedding of an image, which so is made once for boxes and masks."""

    def detect_embedded(self, embedding: Any, phrases: Sequence[str]) -> Detections:
        """Return the detections for phrases in the image of an embedding, best first."""
        ...


@runtime_checkable
class ObjectDetector(Protocol):
    """A detector that also finds objects without being told their names."""

    def detect_objects(self, embedding: Any, most: int) -> Detections:
        """Return at most so many boxes, best first, as detections of a single phrase for anything."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Embeds phrases, as text prompts of the segmenter."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        ...

    def encode(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        """Return one embedding of unit length per phrase."""
        ...


@runtime_checkable
class ImageTextEncoder(TextEncoder, Protocol):
    """Embeds phrases and images into one space, and compares them there."""

    def encode_images(self, crops: Iterable[Image.Image]) -> Float[Tensor, "n c"]:
        """Return one embedding of unit length per RGB image."""
        ...

    def log_odds(
        self, embeddings: Float[Tensor, "*n c"], phrases: Sequence[str], config: ScoringConfig
    ) -> Float[Tensor, "*n p"]:
        """Return the log-odds of every phrase for every embedding, each against the negatives of `config`."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Predicts masks for prompts. `segany.Predictor` is one. An image embedding is a value that the caller holds."""

    def encode(self, image: Image.Image) -> Any:
        """Return the embedding of an RGB image."""
        ...

    def predict(self, embedding: Any, prompts: Prompts, multimask_output: bool = True) -> MaskPrediction:
        """Predict the masks of n independent prompts, which are given in original pixels."""
        ...


@runtime_checkable
class MaskPromptable(Segmenter, Protocol):
    """A segmenter that also takes masks of any origin as prompts. `segany.Predictor` is one.

    Its embeddings have an `original_size`, (height, width) in pixels.
    """

    def mask_prompts(
        self, embedding: Any, masks: Float[Tensor, "n h w"] | Bool[Tensor, "n h w"]
    ) -> Float[Tensor, "n 1 l l"]:
        """Return masks of the whole original image, as logits or bool at any resolution, as mask prompts."""
        ...


@runtime_checkable
class RegionScorer(Protocol):
    """Scores masks against phrases by the part of the image that they cover."""

    def score(self, image: Image.Image, rles: Sequence[RLE], phrases: Sequence[str]) -> Float32[np.ndarray, "n p"]:
        """Return the probability of every phrase for every mask of an RGB image, each against fixed negatives.

        A phrase never changes the score of another one.
        """
        ...


@runtime_checkable
class DensePrompter(Protocol):
    """Turns phrases into points and coarse masks, for segmenters without a text prompt of their own."""

    def prompts(self, image: Image.Image, phrases: Sequence[str]) -> DensePrompts:
        """Return one prompt for each phrase in an RGB image."""
        ...


@dataclass(frozen=True)
class TrackedMask:
    """The mask of one object in one frame.

    rle            of the frame's size, empty where the object is not in sight
    presence       probability that the object is in the frame
    predicted_iou  the model's estimate of the IoU with the object, 0 where it is not in sight
    """

    rle: RLE
    presence: float
    predicted_iou: float


@runtime_checkable
class VideoSegmenter(Protocol):
    """A model that carries the masks of objects from frame to frame."""

    def start(self, image_size: tuple[int, int]) -> "Tracking":
        """Begin a clip with frames of (height, width) pixels, without objects."""
        ...


@runtime_checkable
class Tracking(Protocol):
    """The objects of one clip, as far as it was seen. Its memory is bounded, however many frames there are.

    Frames are shown one by one, in the order of the clip or backwards. Each is tracked first, for the objects that are
    known; then masks may be given on it, of new objects or to correct others.
    """

    @property
    def embedding(self) -> Any:
        """The image embedding of the frame that is shown, which the image segmenter can use too, or None."""
        ...

    def show(self, number: int, image: Image.Image) -> None:
        """Go to the frame of that number, an upright RGB image."""
        ...

    def track(self) -> dict[int, TrackedMask]:
        """Return the masks of all objects in the frame that is shown, by the ids under which they were given."""
        ...

    def give(self, masks: Mapping[int, RLE]) -> None:
        """State the masks of some objects in the frame that is shown: new ones begin there, others are corrected.

        An empty mask says that the object is not in sight.
        """
        ...

    def forget(self, ids: Iterable[int]) -> None:
        """Follow these objects no longer."""
        ...
