"""A detector on the segmenter's own embedding, so that an image is encoded once for boxes and masks."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from grounded.config import DetectorConfig, bundled_folder
from grounded.data.detections import Detections
from grounded.data.image import ImageLike
from grounded.data.protocols import TextEncoder
from grounded.errors import CheckpointError, ConfigError
from grounded.models.detectors.base import open_inputs
from grounded.models.detectors.one_stage_head import FILE, Cells, OneStageHead, load_head
from segany import ImageEmbedding, Predictor
from segany.precision import own_precision
from segany.utils.boxes import batched_nms, clip_boxes, nms

# Cosine with the nearest learnt name below which a phrase counts as not learnt: of synonyms it is above, of other
# things of the same kind below.
_LEARNT = 0.72
_CLOSEST = 3  # learnt names that are told instead
_MOST_CELLS = 300  # of a phrase that are looked at again and go into non-maximum suppression, the best


class OneStage:
    """A `Detector`, and an `EmbeddingDetector`, by a head on segany's embeddings.

    Args:
        head: in evaluation mode, on the device of the predictor.
        predictor: of the image model that the head was trained on.
        text_encoder: gives the embeddings of phrases that the head was trained with.
        names: those that the head has learnt.
        embeddings: of the names, of unit length.
        config: thresholds.
    """

    def __init__(
        self,
        head: OneStageHead,
        predictor: Predictor,
        text_encoder: TextEncoder,
        names: Sequence[str] = (),
        embeddings: Float[Tensor, "v d"] | None = None,
        config: DetectorConfig | None = None,
    ) -> None:
        if text_encoder.dim != head.config.text_dim:
            raise ConfigError(
                f"the detector was trained with phrase embeddings of width {head.config.text_dim}, "
                f"got a text encoder of width {text_encoder.dim}"
            )
        if predictor.model.config.prompt_dim != head.config.dim:
            raise ConfigError(
                f"the detector was trained on embeddings of {head.config.dim} channels, "
                f"got a segmenter with {predictor.model.config.prompt_dim}"
            )
        self.head, self.predictor, self.text_encoder = head, predictor, text_encoder
        self.names, self.config = tuple(names), config or DetectorConfig(kind="one-stage")
        self._name_embeddings = embeddings

    @classmethod
    @own_precision()
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        predictor: Predictor,
        text_encoder: TextEncoder,
        config: DetectorConfig | None = None,
    ) -> "OneStage":
        """Load a head, "bundled:NAME" or a folder, for the models that it was trained with.

        Raises:
            CheckpointError: its file is missing, cannot be read or does not fit.
            ConfigError: it was trained with other models.
        """
        head, names, embeddings = load_head(locate(source))
        return cls(head.to(predictor.device), predictor, text_encoder, names, embeddings, config)

    @own_precision()
    def detect(self, images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        """Find the phrases of each image in it; errors are those of `open_inputs` and of the text encoder."""
        opened, texts = open_inputs(images, phrases)
        return [self._detect(image, own) for image, own in zip(opened, texts, strict=True)]

    def _detect(self, image: Image.Image, phrases: tuple[str, ...]) -> Detections:
        return self.detect_embedded(self.predictor.encode(image), phrases) if phrases else Detections.empty(0)

    @torch.inference_mode()
    @own_precision()
    def detect_embedded(self, embedding: ImageEmbedding, phrases: Sequence[str]) -> Detections:
        """Find phrases in the image of an embedding by the predictor.

        Returns:
            the detections, best first. Scores are the probability of the phrase times the box's quality, as in FCOS.
        """
        if not phrases:
            return Detections.empty(0)
        features = embedding.features.to(self.predictor.device).float()
        texts = self.text_encoder.encode(phrases).to(features)
        cells = self.head(features)
        # Each phrase has its own cells, so that other phrases change nothing; all are looked at again together.
        first = self._scores(cells, texts).masked_fill(~self._in_image(cells, embedding)[:, None], 0)
        promising = torch.zeros_like(first, dtype=torch.bool)
        promising.scatter_(0, first.topk(min(_MOST_CELLS, len(first)), dim=0).indices, value=True)
        rows = torch.nonzero(promising.any(dim=1)).squeeze(1)
        cells = self.head.refine(features, cells, rows[None])[-1]
        boxes = self._to_pixels(cells.boxes[0], embedding)
        scores = self._scores(cells, texts).masked_fill(~(promising[rows] & _has_area(boxes)[:, None]), 0)
        kept, phrase_ids = self._select(boxes, scores)
        found = boxes[kept], scores[kept], phrase_ids
        return Detections(*(values.cpu().numpy() for values in found))

    @torch.inference_mode()
    @own_precision()
    def detect_objects(self, embedding: ImageEmbedding, most: int) -> Detections:
        """Find the objects in the image of an embedding whatever they are, by the quality of their boxes.

        Returns:
            at most so many detections of one phrase, that for anything, best first.
        """
        features = embedding.features.to(self.predictor.device).float()
        cells = self.head(features)
        first = cells.quality[0].masked_fill(~self._in_image(cells, embedding), -torch.inf)
        rows = first.topk(min(_MOST_CELLS, len(first))).indices
        cells = self.head.refine(features, cells, rows[None])[-1]
        boxes, scores = self._to_pixels(cells.boxes[0], embedding), cells.quality[0].sigmoid()
        inside = _has_area(boxes)
        boxes, scores = boxes[inside], scores[inside]
        kept = nms(boxes, scores, self.config.nms_threshold)[:most]
        return Detections(boxes[kept].cpu().numpy(), scores[kept, None].cpu().numpy(), np.zeros(len(kept), np.int64))

    def _scores(self, cells: Cells, texts: Float[Tensor, "p d"]) -> Float[Tensor, "n p"]:
        return self.head.logits(cells.embeddings[0], texts).sigmoid() * cells.quality[0].sigmoid()[:, None]

    def _in_image(self, cells: Cells, embedding: ImageEmbedding) -> Bool[Tensor, "n"]:
        """Which boxes overlap the image, that covers only a part of the frame."""
        return _has_area(self._to_pixels(cells.boxes[0], embedding))

    def _select(
        self, boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n p"]
    ) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
        """Select boxes for each phrase by itself: rows and phrases, best first.

        A cell may answer to several phrases, unlike a query of the other detectors.
        """
        rows, phrase_ids = torch.nonzero((scores >= self.config.threshold) & (scores > 0)).unbind(1)
        own = scores[rows, phrase_ids]
        kept = batched_nms(boxes[rows], own, phrase_ids, self.config.nms_threshold)
        kept = kept[own[kept].argsort(descending=True, stable=True)]
        if self.config.cross_phrase_nms is not None:
            kept = kept[nms(boxes[rows][kept], own[kept], self.config.cross_phrase_nms)]
        kept = kept[: self.config.max_detections]
        return rows[kept], phrase_ids[kept]

    def _to_pixels(self, boxes: Float[Tensor, "n 4"], embedding: ImageEmbedding) -> Float[Tensor, "n 4"]:
        """From sides of the model frame, of which the image covers the upper left part, to pixels of the image."""
        height, width = embedding.original_size
        resized_height, resized_width = embedding.resized_size
        frame = self.predictor.model.config.image_size
        x, y = frame * width / resized_width, frame * height / resized_height
        return clip_boxes(boxes * boxes.new_tensor([x, y, x, y]), embedding.original_size)

    def note_unread(self, phrases: Sequence[str]) -> tuple[str, ...]:
        """Return a sentence for each phrase that is far from every name that was learnt."""
        if self._name_embeddings is None or not self.names:
            return ()
        cosines = self.text_encoder.encode(phrases).cpu() @ self._name_embeddings.T
        nearest = cosines.topk(min(_CLOSEST, len(self.names)), dim=1)
        notes = []
        for phrase, values, rows in zip(phrases, nearest.values.tolist(), nearest.indices.tolist(), strict=True):
            if values[0] < _LEARNT:
                closest = ", ".join(self.names[row] for row in rows)
                notes.append(f"the detector has not learnt {phrase!r}; closest: {closest}; results may be wrong")
        return tuple(notes)


def _has_area(boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, "n"]:
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def locate(source: str | PathLike[str]) -> Path:
    """Return the folder of a head.

    Raises:
        CheckpointError: there is none.
        ConfigError: no bundled weights of that name.
    """
    folder = bundled_folder(str(source)) or Path(source).expanduser()
    if not (folder / FILE).is_file():
        raise CheckpointError(f"no one-stage detector at {str(source)!r}; expected a folder with {FILE}")
    return folder
