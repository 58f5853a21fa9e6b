"""OWL-ViT (Minderer et al., 2022) and OWLv2 (Minderer et al., 2023) through `transformers`.

Each image patch proposes one box, and is compared with each phrase by itself: the network already returns a score per
query and phrase. The scores of a phrase do not depend on the other phrases, of which any number takes one pass.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from grounded.data.detections import Detections
from grounded.data.phrases import shortened
from grounded.errors import ConfigError, PromptError
from grounded.models.detectors.base import HubDetector, to_pixels
from grounded.models.detectors.checkpoint import OWL
from segany.utils.boxes import clip_boxes

# Texts in one forward of the text encoder, which is small: a bound on memory for lists of thousands.
_TEXT_BATCH = 64
_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
_ENDS_IN_ARTICLE = re.compile(r"\b(?:an?|the)\s+$", re.IGNORECASE)


class Owl(HubDetector):
    """A `Detector` on `OwlViTForObjectDetection` or `Owlv2ForObjectDetection`, with their CLIP tokenizer.

    Scores are lower than those of Grounding DINO; published examples keep boxes from 0.1 and put phrases into "a photo
    of a {}", and so is done here by default. Embeddings of several templates are averaged. A phrase that would be too
    long in a template goes without. All images are resized to one square, so that a batch takes images of any size.
    `config.phrase_score` is ignored, since a phrase has one score and not one per token.

    Raises:
        ConfigError: an image size is set, which these models cannot change.
    """

    family = OWL
    default_name = "owl"

    def _prepare(self) -> None:
        if self.config.image_size is not None:
            size = self.model.config.vision_config.image_size
            raise ConfigError(f"image_size must be null for this detector, which sees {size} pixels a side always")

    def _detect(self, images: Sequence[Image.Image], phrases: Sequence[tuple[str, ...]]) -> list[Detections]:
        distinct = list(dict.fromkeys(phrase for own in phrases for phrase in own))
        text_embeddings = dict(zip(distinct, self._embed_phrases(distinct), strict=True))
        detections = [Detections.empty(len(own)) for own in phrases]
        with_phrases = [i for i, own in enumerate(phrases) if own]
        for start in range(0, len(with_phrases), self.batch_size):
            batch = with_phrases[start : start + self.batch_size]
            features, boxes = self._embed_patches([images[i] for i in batch])
            for i, image_features, image_boxes in zip(batch, features, boxes, strict=True):
                own_embeddings = torch.stack([text_embeddings[phrase] for phrase in phrases[i]])
                scores = self._score(image_features, own_embeddings)
                detections[i] = self._select(self._to_image_pixels(image_boxes, images[i]), scores, scores)
        return detections

    def _embed_phrases(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        """One embedding of unit length for each phrase: the mean over the templates, rescaled."""
        texts = [text for phrase in phrases for text in self._fill_templates(phrase)]
        by_template = self._embed_texts(texts).unflatten(0, (len(phrases), len(self.config.templates)))  # (p, t, c)
        return normalize(by_template.mean(dim=1), dim=-1)

    def _fill_templates(self, phrase: str) -> list[str]:
        """The texts for a phrase, one for each template.

        Raises:
            PromptError: the phrase has no word, or is too long by itself.
        """
        limit = self.model.config.text_config.max_position_embeddings - 2  # without start and end
        length = self._count_tokens(phrase)
        if length < 1:
            raise PromptError(f"a phrase must hold at least one word, got {phrase!r}")
        if length > limit:
            raise PromptError(f"a phrase must have at most {limit} tokens, got {length}: {shortened(phrase)!r}")
        texts = [fill_template(template, phrase) for template in self.config.templates]
        return [text if self._count_tokens(text) <= limit else phrase for text in texts]

    def _count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n c"]:
        network = self.model.base_model
        embeddings = [torch.zeros(0, self.model.config.projection_dim, dtype=self.model.dtype, device=self.device)]
        for start in range(0, len(texts), _TEXT_BATCH):
            tokens = self.tokenizer(list(texts[start : start + _TEXT_BATCH]), padding=True, return_tensors="pt")
            output = network.text_model(tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device))
            embeddings.append(normalize(network.text_projection(output.pooler_output), dim=-1))
        return torch.cat(embeddings)

    def _embed_patches(self, images: Sequence[Image.Image]) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q 4"]]:
        """Features of the q patches of each image, and the box that each patch proposes, relative cxcywh."""
        feature_map, _ = self.model.image_embedder(self._preprocess(images))
        features = feature_map.flatten(1, 2)  # (b, rows, columns, c) -> (b, q, c)
        return features, self.model.box_predictor(features, feature_map)

    def _score(self, features: Float[Tensor, "q c"], text_embeddings: Float[Tensor, "p d"]) -> Float[Tensor, "q p"]:
        """Probability of each phrase for each patch."""
        logits, _ = self.model.class_predictor(features[None], text_embeddings[None])
        self._check_no_nan(logits)
        probabilities: Tensor = logits[0].float().sigmoid()
        return probabilities

    def _to_image_pixels(self, boxes: Float[Tensor, "q 4"], image: Image.Image) -> Float[Tensor, "q 4"]:
        """Relative cxcywh boxes as xyxy pixels, clipped to the image."""
        size = (image.height, image.width)
        # OWLv2 pads an image to a square at its right or its lower side, and boxes are relative to that square.
        pads = self.model.config.model_type == "owlv2" and bool(self.image_processor.do_pad)
        return clip_boxes(to_pixels(boxes, (max(size), max(size)) if pads else size), size)


def fill_template(template: str, phrase: str) -> str:
    """Put a phrase in the place of "{}"; an article of its own gives way to one of the template.

    "a photo of a {}" makes "a photo of a dog" of both "dog" and "the dog".
    """
    before, _, after = template.partition("{}")
    article = _ARTICLE.match(phrase) if _ENDS_IN_ARTICLE.search(before) else None
    return before + phrase[article.end() if article else 0 :] + after
