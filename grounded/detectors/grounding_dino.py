"""Grounding DINO (Liu et al., 2023), MM Grounding DINO (Zhao et al., 2024) and LLMDet (Fu et al., 2025).

The network scores tokens, not phrases. Here each phrase keeps its own span of tokens, so that a detection's label is
the index of one of the phrases that were asked for, and never a string put together from tokens above a threshold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers.models.grounding_dino.modeling_grounding_dino import SPECIAL_TOKENS

from grounded.detectors import sizes
from grounded.detectors.checkpoint import load_parts
from grounded.detectors.chunks import split_phrases
from grounded.detectors.inputs import open_inputs
from grounded.detectors.postprocess import phrase_scores, place_columns, select, to_pixels
from grounded.detectors.shared_text import DistinctPromptEncoder
from grounded.detectors.token_spans import Delimiters, Query, join_phrases, tokenise_phrases
from grounded.errors import GroundedError, PromptError
from grounded.images import ImageLike
from grounded.phrases import shortened
from grounded.settings import DetectorConfig
from grounded.types import Detections
from segany import CheckpointError


@dataclass(frozen=True)
class _Job:
    """One pass of one picture with one prompt, shown at `size` (height, width)."""

    image: int
    query: Query
    size: tuple[int, int]


class GroundingDino:
    """A `Detector`. It keeps nothing from one call to the next.

    Pictures are batched only with pictures that are shown at the same size, since padding changes the answers; their
    prompts may differ. A long list of phrases is searched in several passes, each of which runs the whole network.

    Args:
        model: `GroundingDinoForObjectDetection` or `MMGroundingDinoForObjectDetection` of `transformers`, or a network
            with their `config`, `dtype` and interface, in eval mode, on its device.
        image_processor: its saved image processor.
        tokenizer: its BERT tokenizer.
        config: thresholds and picture size; `kind` and `checkpoint` are not looked at.
        batch_size: most passes in one forward, which is what memory grows with.
        name: what results state as their detector.

    Raises:
        CheckpointError: the tokenizer does not belong to the model.
    """

    def __init__(
        self,
        model: nn.Module,
        image_processor: Any,
        tokenizer: Any,
        config: DetectorConfig | None = None,
        batch_size: int = 4,
        name: str = "grounding-dino",
    ):
        self.model: Any = model
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.config = config or DetectorConfig()
        self.batch_size = batch_size
        self.name = name
        self.delimiters = Delimiters.of(tokenizer)
        self._size_rule = sizes.with_image_size(dict(image_processor.size), self.config.image_size)
        self._check_tokenizer()

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        config: DetectorConfig | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 4,
    ) -> "GroundingDino":
        """Load a checkpoint: "bundled:NAME", a folder in the layout of the Hugging Face hub, or a hub id.

        Raises:
            CheckpointError: files are missing, damaged or unreachable, or the weights do not fill the model.
        """
        model, image_processor, tokenizer = load_parts(source, dtype)
        model.model.text_backbone = DistinctPromptEncoder(model.model.text_backbone)
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
            b Detections in pixels of their pictures, best first; p may differ between pictures. A phrase of which the
            tokenizer knows no piece has none.

        Raises:
            ValueError: not one list of phrases per picture.
            ImageError: a picture is not one.
            PromptError: a phrase has no word, or is too long for the detector.
        """
        pictures, asked = open_inputs(images, phrases)
        queries = {own: self._queries(own) for own in dict.fromkeys(asked)}
        jobs = [
            _Job(i, query, self._shown_size(picture))
            for i, picture in enumerate(pictures)
            for query in queries[asked[i]]
        ]
        answers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in images]
        for batch in _batches(jobs, self.batch_size):
            logits, boxes = self._forward(batch, pictures)
            for job, own_logits, own_boxes in zip(batch, logits, boxes, strict=True):
                scores = phrase_scores(own_logits, job.query.spans, self.config.phrase_score)
                scores = place_columns(scores, job.query.phrase_ids, len(asked[job.image]))
                answers[job.image].append((own_boxes, scores))
        return [
            self._detections(answer, (picture.height, picture.width), len(own))
            for answer, picture, own in zip(answers, pictures, asked, strict=True)
        ]

    def _queries(self, phrases: tuple[str, ...]) -> list[Query]:
        """The prompts that ask for `phrases` together: one, where they fit into the text length."""
        tokens = tokenise_phrases(self.tokenizer, phrases)
        limit = self._max_phrase_tokens()
        for phrase, ids in zip(phrases, tokens, strict=True):
            if len(ids) > limit:
                raise PromptError(f"a phrase must have at most {limit} tokens, got {len(ids)}: {shortened(phrase)!r}")
        # Of words that it cannot spell, such as those of a foreign script, the network knows nothing: it would guess.
        known = [i for i, ids in enumerate(tokens) if set(ids) != {self.tokenizer.unk_token_id}]
        runs = split_phrases([len(tokens[i]) for i in known], self.model.config.max_text_len)
        return [join_phrases(tokens, known[run.start : run.stop], self.delimiters) for run in runs]

    def _max_phrase_tokens(self) -> int:
        """Positions are counted anew in each phrase, its delimiter included."""
        config = self.model.config
        return min(config.max_text_len - 3, config.text_config.max_position_embeddings - 1)

    def _shown_size(self, picture: Image.Image) -> tuple[int, int]:
        config = self.model.config
        size = sizes.resized((picture.height, picture.width), self._size_rule)
        # With two stages the queries are picked among the feature locations, of which there must be enough.
        return sizes.enlarged(size, _strides(config), config.num_queries if config.two_stage else 1)

    def _forward(
        self, batch: Sequence[_Job], pictures: Sequence[Image.Image]
    ) -> tuple[Float[Tensor, "b q t"], Float[Tensor, "b q 4"]]:
        """Logits of each query for each token, and relative cxcywh boxes, for passes of one size."""
        shown = {i: self._pixels(pictures[i], batch[0].size) for i in dict.fromkeys(job.image for job in batch)}
        pixels = torch.stack([shown[job.image] for job in batch])  # (b, 3, h, w)
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(job.query.input_ids) for job in batch],
            batch_first=True,
            padding_value=self.delimiters.padding,
        )  # (b, t)
        lengths = torch.tensor([[len(job.query.input_ids)] for job in batch])
        output = self.model(
            pixel_values=pixels.to(self.device, self.model.dtype),
            input_ids=ids.to(self.device),
            attention_mask=(torch.arange(ids.shape[1]) < lengths).long().to(self.device),
        )
        if output.logits.isnan().any() or output.pred_boxes.isnan().any():
            raise GroundedError(f"the detector's answer is not a number in {self.model.dtype}; use float32")
        return output.logits, output.pred_boxes

    def _pixels(self, picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
        """Resized to `size` and normalised by the saved image processor."""
        height, width = size
        # The order of axes is stated, because it would be guessed wrongly for pictures of 1 or 3 pixels a side.
        processed = self.image_processor(
            images=[np.asarray(picture)],
            input_data_format="channels_last",
            size={"height": height, "width": width},
            do_pad=False,
            return_tensors="pt",
        )
        return processed["pixel_values"][0]

    def _detections(
        self, answers: Sequence[tuple[Tensor, Tensor]], image_size: tuple[int, int], phrase_count: int
    ) -> Detections:
        """Merge the passes of one picture; `answers` holds relative boxes (q, 4) and scores (q, p) of each."""
        if not answers:
            return Detections.empty(phrase_count)
        boxes = to_pixels(torch.cat([boxes for boxes, _ in answers]), image_size)
        scores = torch.cat([scores for _, scores in answers])
        chosen, phrase_ids = select(
            boxes,
            scores,
            box_threshold=self.config.box_threshold,
            nms_threshold=self.config.nms_threshold,
            cross_phrase_nms=self.config.cross_phrase_nms,
            max_detections=self.config.max_detections,
        )
        return Detections(boxes[chosen].cpu().numpy(), scores[chosen].cpu().numpy(), phrase_ids.cpu().numpy())

    def _check_tokenizer(self) -> None:
        marks = self.delimiters
        if not {marks.start, marks.end, marks.stop} <= set(SPECIAL_TOKENS):
            found = f"{marks.start}, {marks.end} and {marks.stop}"
            raise CheckpointError(f"the tokenizer's [CLS], [SEP] and '.' must be 101, 102 and 1012, got {found}")
        known = self.model.config.text_config.vocab_size
        if len(self.tokenizer) > known:
            raise CheckpointError(f"the tokenizer has {len(self.tokenizer)} tokens, the text encoder knows {known}")


def _batches(jobs: Sequence[_Job], batch_size: int) -> Iterator[list[_Job]]:
    """Runs of at most `batch_size` passes of one size; the passes of a picture stay in order."""
    by_size: dict[tuple[int, int], list[_Job]] = {}
    for job in jobs:
        by_size.setdefault(job.size, []).append(job)
    for alike in by_size.values():
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _strides(config: Any) -> list[int]:
    """Pixels a step on each feature map: those of the backbone's stages, then each twice the one before."""
    patch = getattr(config.backbone_config, "patch_size", 4)
    strides = [patch * 2 ** (stage - 1) for stage in config.backbone_config.out_indices]
    while len(strides) < config.num_feature_levels:
        strides.append(2 * strides[-1])
    return strides
