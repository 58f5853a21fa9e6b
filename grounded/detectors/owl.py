"""OWL-ViT (Minderer et al., 2022) and OWLv2 (Minderer et al., 2023) through `transformers`.

Each image patch proposes one box, and is compared with each phrase by itself: the network's answer already is a score
per query and phrase. A phrase's scores do not depend on the others, and any number of phrases is one pass.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from grounded.detectors.checkpoint import OWL, load_parts
from grounded.detectors.inputs import open_inputs
from grounded.detectors.postprocess import select, to_pixels
from grounded.errors import ConfigError, GroundedError, PromptError
from grounded.images import ImageLike
from grounded.phrases import shortened
from grounded.settings import DetectorConfig
from grounded.types import Detections
from segany.boxes import clip_boxes

# Phrases in one forward of the text encoder, which is small: a bound on memory for lists of thousands.
_TEXT_BATCH = 64


class Owl:
    """A `Detector`. It keeps nothing from one call to the next.

    Scores are lower than those of Grounding DINO; published examples keep boxes from 0.1.

    Args:
        model: `OwlViTForObjectDetection` or `Owlv2ForObjectDetection`, in eval mode, on its device.
        image_processor: its saved image processor.
        tokenizer: its CLIP tokenizer.
        config: thresholds. `phrase_score` is not looked at, since a phrase has one score and not one per token.
        batch_size: most pictures in one forward. All are resized to one square, so that any sizes go together.
        name: what results state as their detector.

    Raises:
        ConfigError: an image size is set, which these models cannot change.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        image_processor: Any,
        tokenizer: Any,
        config: DetectorConfig | None = None,
        batch_size: int = 4,
        name: str = "owl",
    ):
        self.model, self.image_processor, self.tokenizer = model, image_processor, tokenizer
        self.config = config or DetectorConfig()
        self.batch_size = batch_size
        self.name = name
        if self.config.image_size is not None:
            size = model.config.vision_config.image_size
            raise ConfigError(f"image_size must be null for this detector, which sees {size} pixels a side always")

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        config: DetectorConfig | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 4,
    ) -> "Owl":
        """Load a checkpoint: a folder in the layout of the Hugging Face hub, or a hub id.

        Raises:
            CheckpointError: files are missing, damaged or unreachable, or the weights do not fill the model.
            ConfigError: see the class.
        """
        model, image_processor, tokenizer = load_parts(source, dtype, OWL)
        network: nn.Module = model  # `transformers` types its own `to` too narrowly
        network.to(device)
        return cls(model, image_processor, tokenizer, config, batch_size, name=str(source))

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def detect(self, images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        """Find the phrases of each picture in it.

        Args:
            images: b pictures: PIL images, uint8 RGB arrays (h, w, 3) or paths.
            phrases: for each picture its p phrases; a picture without phrases has no detections.

        Returns:
            b Detections in pixels of their pictures, best first; p may differ between pictures.

        Raises:
            ValueError: not one list of phrases per picture.
            ImageError: a picture is not one.
            PromptError: a phrase has no word, or is too long for the text encoder. The original code fails there too,
                and a phrase that lost its end would be another phrase.
        """
        pictures, asked = open_inputs(images, phrases)
        distinct = list(dict.fromkeys(phrase for own in asked for phrase in own))
        embeddings = dict(zip(distinct, self._embed(distinct), strict=True))
        found = [Detections.empty(len(own)) for own in asked]
        searched = [i for i, own in enumerate(asked) if own]
        for start in range(0, len(searched), self.batch_size):
            batch = searched[start : start + self.batch_size]
            features, boxes = self._look([pictures[i] for i in batch])
            for i, own_features, own_boxes in zip(batch, features, boxes, strict=True):
                queries = torch.stack([embeddings[phrase] for phrase in asked[i]])
                scores = self._scores(own_features, queries)
                found[i] = self._detections(own_boxes, scores, pictures[i])
        return found

    def _embed(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        """Text embeddings of phrases."""
        config, tower = self.model.config.text_config, self.model.base_model
        parts = [torch.zeros(0, self.model.config.projection_dim, dtype=self.model.dtype, device=self.device)]
        for start in range(0, len(phrases), _TEXT_BATCH):
            batch = list(phrases[start : start + _TEXT_BATCH])
            tokens = self.tokenizer(batch, padding=True, return_tensors="pt")
            for phrase, mask in zip(batch, tokens["attention_mask"], strict=True):
                _check_length(phrase, int(mask.sum()) - 2, config.max_position_embeddings - 2)
            output = tower.text_model(tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device))
            parts.append(tower.text_projection(output.pooler_output))
        return torch.cat(parts)

    def _look(self, pictures: Sequence[Image.Image]) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q 4"]]:
        """Features of the q patches of each picture, and the box that each of them proposes, relative cxcywh."""
        # The order of axes is stated, because it would be guessed wrongly for pictures of 1 or 3 pixels a side.
        processed = self.image_processor(
            images=[np.asarray(picture) for picture in pictures],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        feature_map, _ = self.model.image_embedder(processed["pixel_values"].to(self.device, self.model.dtype))
        features = feature_map.flatten(1, 2)  # (b, rows, columns, c) -> (b, q, c)
        return features, self.model.box_predictor(features, feature_map)

    def _scores(self, features: Float[Tensor, "q c"], queries: Float[Tensor, "p d"]) -> Float[Tensor, "q p"]:
        """Probability of each phrase for each patch."""
        logits, _ = self.model.class_predictor(features[None], queries[None])
        if logits.isnan().any():
            raise GroundedError(f"the detector's answer is not a number in {self.model.dtype}; use float32")
        return logits[0].float().sigmoid()

    def _detections(
        self, boxes: Float[Tensor, "q 4"], scores: Float[Tensor, "q p"], picture: Image.Image
    ) -> Detections:
        size = (picture.height, picture.width)
        # OWLv2 fills a picture up to a square at its right or its lower side, and boxes are relative to that square.
        frame = (max(size), max(size)) if self._pads() else size
        boxes = clip_boxes(to_pixels(boxes, frame), size)
        chosen, phrase_ids = select(
            boxes,
            scores,
            box_threshold=self.config.box_threshold,
            nms_threshold=self.config.nms_threshold,
            cross_phrase_nms=self.config.cross_phrase_nms,
            max_detections=self.config.max_detections,
        )
        return Detections(boxes[chosen].cpu().numpy(), scores[chosen].cpu().numpy(), phrase_ids.cpu().numpy())

    def _pads(self) -> bool:
        return self.model.config.model_type == "owlv2" and bool(self.image_processor.do_pad)


def _check_length(phrase: str, length: int, limit: int) -> None:
    if length < 1:
        raise PromptError(f"a phrase must hold at least one word, got {phrase!r}")
    if length > limit:
        raise PromptError(f"a phrase must have at most {limit} tokens, got {length}: {shortened(phrase)!r}")
