"""Detect: boxes for each phrase, and which phrases the detector cannot read."""

from typing import Any

from grounded.data.detections import Detections
from grounded.data.image import SourceImage
from grounded.data.protocols import Detector, EmbeddingDetector, NotingDetector, ObjectDetector
from grounded.errors import PromptError


def detect(detector: Detector, image: SourceImage, phrases: tuple[str, ...]) -> Detections:
    """Return the boxes that a detector finds for the phrases in one image, best first, in pixels."""
    return detector.detect([image.pixels], [phrases])[0]


def detect_embedded(detector: EmbeddingDetector, embedding: Any, phrases: tuple[str, ...]) -> Detections:
    """Return the boxes that a detector finds for the phrases in the image of an embedding, best first, in pixels."""
    return detector.detect_embedded(embedding, phrases)


def detect_objects(detector: ObjectDetector, embedding: Any, most: int) -> Detections:
    """Return the boxes of at most so many objects without names, best first, as detections of one phrase."""
    return detector.detect_objects(embedding, most)


def select(detections: Detections, phrases: tuple[str, ...], box_threshold: float | None) -> Detections:
    """Return the detections whose phrase has a token of at least a score; None keeps all.

    Raises:
        PromptError: the detections are scored against another number of phrases.
    """
    if detections.scores.shape[1] != len(phrases):
        raise PromptError(f"detections must be of {len(phrases)} phrases, got {detections.scores.shape[1]}")
    return detections if box_threshold is None else detections[detections.best_token_scores >= box_threshold]


def note_unread(detector: Detector | None, phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Return a sentence for each phrase that a detector cannot read, or only in part; none for one that reads all."""
    return detector.note_unread(phrases) if isinstance(detector, NotingDetector) else ()
