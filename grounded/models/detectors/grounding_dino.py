"""Grounding DINO (Liu et al., 2023), MM Grounding DINO (Zhao et al., 2024) and LLMDet (Fu et al., 2025).

The network scores tokens, not phrases. Here each phrase keeps its own span of tokens, so that a detection's label is
the index of one of the phrases that were asked for, and never a string put together from tokens above a threshold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers.models.grounding_dino.modeling_grounding_dino import SPECIAL_TOKENS

from grounded.data.detections import Detections
from grounded.data.phrases import shortened
from grounded.errors import PromptError
from grounded.models.detectors import sizes
from grounded.models.detectors.base import HubDetector
from grounded.models.detectors.checkpoint import GROUNDING_DINO
from grounded.models.detectors.chunks import split_phrases
from grounded.models.detectors.fast.backbone import BackboneFirst, TwoSteps
from grounded.models.detectors.fast.bi_attention import absorb_fusion
from grounded.models.detectors.fast.deformable_attention import gather_samples
from grounded.models.detectors.fast.text_cache import DistinctPromptEncoder
from grounded.models.detectors.postprocess import phrase_scores, place_columns, to_pixels
from grounded.models.detectors.prompt_tokens import Delimiters, Query, join_phrases, tokenise_phrases
from grounded.settings import DetectorConfig
from segany import CheckpointError


@dataclass(frozen=True)
class _Job:
    """One pass of one picture with one prompt, shown at `size` (height, width)."""

    image: int
    query: Query
    size: tuple[int, int]


class GroundingDino(HubDetector):
    """A `Detector`. It remembers the features of texts, and nothing of pictures, from one call to the next.

    Pictures are batched only with pictures that are shown at the same size, since padding changes the answers; their
    prompts may differ. A long list of phrases is searched in several passes, which share what the backbone sees. A
    phrase of which the tokenizer knows no piece has no detections.

    Args:
        model: `GroundingDinoForObjectDetection` or `MMGroundingDinoForObjectDetection` of `transformers`, or a network
            of `TwoSteps` with their `config` and `dtype`, in eval mode, on its device.
        image_processor: its saved image processor.
        tokenizer: its BERT tokenizer.
        config: thresholds and picture size; `kind` and `checkpoint` are not looked at.
        batch_size: most passes in one forward, which is what memory grows with.
        name: what results state as their detector.

    Raises:
        CheckpointError: the tokenizer does not belong to the model.
    """

    family = GROUNDING_DINO
    default_name = "grounding-dino"

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
        self.delimiters = Delimiters.of(tokenizer)
        self._size_rule = sizes.with_image_size(dict(image_processor.size), self.config.image_size)
        self._check_tokenizer()

    @classmethod
    def _prepared(cls, model: Any, config: DetectorConfig) -> nn.Module:
        model.model.text_backbone = DistinctPromptEncoder(model.model.text_backbone)
        if config.fast_attention:
            absorb_fusion(model)
            gather_samples(model)
        network: nn.Module = model
        return network

    def _search(self, pictures: Sequence[Image.Image], asked: Sequence[tuple[str, ...]]) -> list[Detections]:
        queries = {own: self._queries(own) for own in dict.fromkeys(asked)}
        jobs = [
            _Job(i, query, self._shown_size(picture))
            for i, picture in enumerate(pictures)
            for query in queries[asked[i]]
        ]
        answers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in pictures]
        for job, logits, boxes in self._run(jobs, pictures):
            scores = phrase_scores(logits, job.query.spans, self.config.phrase_score)
            answers[job.image].append((boxes, place_columns(scores, job.query.phrase_ids, len(asked[job.image]))))
        return [
            self._merge(answer, (picture.height, picture.width), len(own))
            for answer, picture, own in zip(answers, pictures, asked, strict=True)
        ]

    def _run(
        self, jobs: Sequence[_Job], pictures: Sequence[Image.Image]
    ) -> Iterator[tuple[_Job, Float[Tensor, "q t"], Float[Tensor, "q 4"]]]:
        """Each pass with the logits of each query for each token, and relative cxcywh boxes.

        What the network sees in a picture is kept from one batch to the next while there are passes of that picture.
        """
        network: TwoSteps = self.model if isinstance(self.model, TwoSteps) else BackboneFirst(self.model)
        seen: dict[int, Any] = {}
        for batch in _batches(jobs, self.batch_size):
            wanted = dict.fromkeys(job.image for job in batch)
            seen = {image: seen[image] for image in wanted if image in seen}
            if unseen := [image for image in wanted if image not in seen]:
                pixels = torch.cat([self._shown(pictures[image], batch[0].size) for image in unseen])
                seen.update(zip(unseen, network.look(pixels), strict=True))
            output = network.search([seen[job.image] for job in batch], *self._tokens(batch))
            self._check_answer(output.logits, output.pred_boxes)
            yield from zip(batch, output.logits, output.pred_boxes, strict=True)

    def _tokens(self, batch: Sequence[_Job]) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
        """Ids and attention mask of the prompts."""
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(job.query.input_ids) for job in batch],
            batch_first=True,
            padding_value=self.delimiters.padding,
        )
        lengths = torch.tensor([[len(job.query.input_ids)] for job in batch])
        return ids.to(self.device), (torch.arange(ids.shape[1]) < lengths).long().to(self.device)

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

    def _shown(self, picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
        height, width = size
        return self._pixels([picture], size={"height": height, "width": width}, do_pad=False)

    def _merge(
        self, answers: Sequence[tuple[Tensor, Tensor]], image_size: tuple[int, int], phrase_count: int
    ) -> Detections:
        """Detections out of the passes of one picture; `answers` holds relative boxes (q, 4) and scores (q, p)."""
        if not answers:
            return Detections.empty(phrase_count)
        boxes = to_pixels(torch.cat([boxes for boxes, _ in answers]), image_size)
        return self._select(boxes, torch.cat([scores for _, scores in answers]))

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
