"""OWL-ViT (Minderer et al., 2022) and OWLv2 (Minderer et al., 2023) through `transformers`.

Each image patch proposes one box, and is compared with each phrase by itself: the network's answer already is a score
per query and phrase. A phrase's scores do not depend on the others, and any number of phrases is one pass.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from grounded.data.detections import Detections
from grounded.data.phrases import shortened
from grounded.errors import ConfigError, PromptError
from grounded.models.detectors.base import HubDetector
from grounded.models.detectors.checkpoint import OWL
from grounded.models.detectors.postprocess import to_pixels
from grounded.settings import DetectorConfig
from segany.utils.boxes import clip_boxes

# Phrases in one forward of the text encoder, which is small: a bound on memory for lists of thousands.
_TEXT_BATCH = 64


class Owl(HubDetector):
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

    family = OWL
    default_name = "owl"

    def __init__(
        self,
        model: nn.Module,
        image_processor: Any,
        tokenizer: Any,
        config: DetectorConfig | None = None,
        batch_size: int = 4,
        name: str | None = None,
    ):
        super().__init__(model, image_processor, tokenizer, config, batch_size, name)
        if self.config.image_size is not None:
            size = self.model.config.vision_config.image_size
            raise ConfigError(f"image_size must be null for this detector, which sees {size} pixels a side always")

    def _search(self, pictures: Sequence[Image.Image], asked: Sequence[tuple[str, ...]]) -> list[Detections]:
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
                found[i] = self._select(self._clipped(own_boxes, pictures[i]), scores)
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
        feature_map, _ = self.model.image_embedder(self._pixels(pictures))
        features = feature_map.flatten(1, 2)  # (b, rows, columns, c) -> (b, q, c)
        return features, self.model.box_predictor(features, feature_map)

    def _scores(self, features: Float[Tensor, "q c"], queries: Float[Tensor, "p d"]) -> Float[Tensor, "q p"]:
        """Probability of each phrase for each patch."""
        logits, _ = self.model.class_predictor(features[None], queries[None])
        self._check_answer(logits)
        probabilities: Tensor = logits[0].float().sigmoid()
        return probabilities

    def _clipped(self, boxes: Float[Tensor, "q 4"], picture: Image.Image) -> Float[Tensor, "q 4"]:
        """Relative cxcywh boxes as xyxy pixels within the picture."""
        size = (picture.height, picture.width)
        # OWLv2 fills a picture up to a square at its right or its lower side, and boxes are relative to that square.
        frame = (max(size), max(size)) if self._pads() else size
        return clip_boxes(to_pixels(boxes, frame), size)

    def _pads(self) -> bool:
        return self.model.config.model_type == "owlv2" and bool(self.image_processor.do_pad)


def _check_length(phrase: str, length: int, limit: int) -> None:
    if length < 1:
        raise PromptError(f"a phrase must hold at least one word, got {phrase!r}")
    if length > limit:
        raise PromptError(f"a phrase must have at most {limit} tokens, got {length}: {shortened(phrase)!r}")
