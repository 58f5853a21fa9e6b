"""Grounding DINO (Liu et al., 2023), MM Grounding DINO (Zhao et al., 2024) and LLMDet (Fu et al., 2025).

The network scores tokens, not phrases. Here each phrase keeps its own span of tokens, so that a detection's label is
the index of one of the given phrases, and never a string put together from tokens above a threshold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width
from transformers.models.grounding_dino.modeling_grounding_dino import SPECIAL_TOKENS

from grounded.config import DetectorConfig
from grounded.data.detections import Detections
from grounded.data.phrases import shortened
from grounded.errors import CheckpointError, PromptError
from grounded.models.detectors.base import HubDetector, to_pixels
from grounded.models.detectors.checkpoint import GROUNDING_DINO
from grounded.models.detectors.fast.backbone import SharedBackbone, SplitNetwork
from grounded.models.detectors.fast.bi_attention import replace_bi_attention
from grounded.models.detectors.fast.deformable_attention import replace_deformable_attention
from grounded.models.detectors.fast.text_cache import CachedTextEncoder
from grounded.models.detectors.prompt_tokens import Delimiters, Prompt, build_prompt, split_phrases, tokenise_phrases


@dataclass(frozen=True)
class _Pass:
    """One image with one prompt, resized to `size` (height, width)."""

    image: int
    prompt: Prompt
    size: tuple[int, int]


class GroundingDino(HubDetector):
    """A `Detector` on `GroundingDinoForObjectDetection` or `MMGroundingDinoForObjectDetection`, with a BERT tokenizer.

    It may also be built on a `SplitNetwork` with their `config` and `dtype`. The features of texts are cached from one
    call to the next.

    Queries are ranked and given to phrases by the mean over a phrase's tokens, in which articles and other function
    words do not count; thresholds apply to its best token, as in published examples.

    Images are batched only with images of the same size after resizing, since padding changes the result; their prompts
    may differ. A long list of phrases takes several passes, which share the features of the backbone. A phrase of which
    the tokenizer knows no piece has no detections.

    Raises:
        CheckpointError: the tokenizer does not belong to the model.
    """

    family = GROUNDING_DINO
    default_name = "grounding-dino"

    @classmethod
    def accelerate(cls, model: Any, config: DetectorConfig) -> nn.Module:
        """Cache the features of texts in a loaded network and, with `config.fast_attention`, replace its attention."""
        model.model.text_backbone = CachedTextEncoder(model.model.text_backbone)
        if config.fast_attention:
            replace_bi_attention(model)
            replace_deformable_attention(model)
        network: nn.Module = model
        return network

    def _prepare(self) -> None:
        self.delimiters = marks = Delimiters.from_tokenizer(self.tokenizer)
        self._size_rule = scale_size_rule(dict(self.image_processor.size), self.config.image_size)
        if not {marks.start, marks.end, marks.stop} <= set(SPECIAL_TOKENS):
            found = f"{marks.start}, {marks.end} and {marks.stop}"
            raise CheckpointError(f"the tokenizer's [CLS], [SEP] and '.' must be 101, 102 and 1012, got {found}")
        known = self.model.config.text_config.vocab_size
        if len(self.tokenizer) > known:
            raise CheckpointError(f"the tokenizer has {len(self.tokenizer)} tokens, the text encoder knows {known}")

    def _detect(self, images: Sequence[Image.Image], phrases: Sequence[tuple[str, ...]]) -> list[Detections]:
        prompts = {own: self._build_prompts(own) for own in dict.fromkeys(phrases)}
        passes = [
            _Pass(i, prompt, self._input_size(image))
            for i, image in enumerate(images)
            for prompt in prompts[phrases[i]]
        ]
        boxes: list[list[Tensor]] = [[] for _ in images]
        scores: list[list[Tensor]] = [[] for _ in images]
        for one, token_logits, pred_boxes in self._run(passes, images):
            prompt_scores = self._score_prompt(token_logits, one.prompt)  # (q, k, 2)
            # Columns for all phrases of the image; those of other prompts score 0.
            image_scores = prompt_scores.new_zeros(len(prompt_scores), len(phrases[one.image]), 2)
            image_scores[:, list(one.prompt.phrase_ids)] = prompt_scores
            boxes[one.image].append(pred_boxes)
            scores[one.image].append(image_scores)
        return [
            self._select(to_pixels(torch.cat(boxes[i]), (image.height, image.width)), *torch.cat(scores[i]).unbind(2))
            if boxes[i]
            else Detections.empty(len(phrases[i]))
            for i, image in enumerate(images)
        ]

    def note_unread(self, phrases: Sequence[str]) -> tuple[str, ...]:
        """Return a sentence for each phrase of which the tokenizer cannot spell some or all words.

        They are found by the tokenizer's unknown token, which words of another script and emoji become.
        """
        notes = []
        for phrase, tokens in zip(phrases, tokenise_phrases(self.tokenizer, phrases), strict=True):
            if not tokens.content:
                notes.append(f"the detector cannot read {shortened(phrase)!r}: its vocabulary has none of these words")
            elif not tokens.is_complete:
                notes.append(f"the detector reads {shortened(phrase)!r} in part: its vocabulary lacks a word of it")
        return tuple(notes)

    def _score_prompt(self, token_logits: Float[Tensor, "q t"], prompt: Prompt) -> Float[Tensor, "q k 2"]:
        """The score of each query for each phrase of a prompt, and that of the phrase's best token."""
        best = score_phrases(token_logits, [range(*span) for span in prompt.spans], "max")
        if self.config.phrase_score == "max":
            return torch.stack([best, best], dim=2)
        return torch.stack([score_phrases(token_logits, prompt.content, "mean"), best], dim=2)

    def _run(
        self, passes: Sequence[_Pass], images: Sequence[Image.Image]
    ) -> Iterator[tuple[_Pass, Float[Tensor, "q t"], Float[Tensor, "q 4"]]]:
        """Yield each pass with the logits of each query for each token, and relative cxcywh boxes.

        The features of an image are kept from one batch to the next while there are passes of that image.
        """
        network: SplitNetwork = self.model if isinstance(self.model, SplitNetwork) else SharedBackbone(self.model)
        features: dict[int, Any] = {}
        for batch in _batch_by_size(passes, self.batch_size):
            needed = dict.fromkeys(one.image for one in batch)
            features = {image: features[image] for image in needed if image in features}
            if new := [image for image in needed if image not in features]:
                height, width = batch[0].size
                size = {"height": height, "width": width}
                pixels = torch.cat([self._preprocess([images[i]], size=size, do_pad=False) for i in new])
                features.update(zip(new, network.encode_image(pixels), strict=True))
            output = network.decode_prompts([features[one.image] for one in batch], *self._pad_prompts(batch))
            self._check_no_nan(output.logits, output.pred_boxes)
            yield from zip(batch, output.logits, output.pred_boxes, strict=True)

    def _pad_prompts(self, batch: Sequence[_Pass]) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
        """Token ids and attention mask."""
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(one.prompt.input_ids) for one in batch],
            batch_first=True,
            padding_value=self.delimiters.padding,
        )
        lengths = torch.tensor([[len(one.prompt.input_ids)] for one in batch])
        return ids.to(self.device), (torch.arange(ids.shape[1]) < lengths).long().to(self.device)

    def _build_prompts(self, phrases: tuple[str, ...]) -> list[Prompt]:
        """Prompts for `phrases`: one, if they fit into the text length together."""
        config = self.model.config
        tokens = tokenise_phrases(self.tokenizer, phrases)
        # Positions are counted anew in each phrase, its delimiter included.
        limit = min(config.max_text_len - 3, config.text_config.max_position_embeddings - 1)
        for phrase, own in zip(phrases, tokens, strict=True):
            if len(own.ids) > limit:
                raise PromptError(
                    f"a phrase must have at most {limit} tokens, got {len(own.ids)}: {shortened(phrase)!r}"
                )
        # Words that the tokenizer cannot spell, such as those of a foreign script, would be detected at random.
        known = [i for i, own in enumerate(tokens) if own.content]
        runs = split_phrases([len(tokens[i].ids) for i in known], config.max_text_len)
        return [build_prompt(tokens, known[run.start : run.stop], self.delimiters) for run in runs]

    def _input_size(self, image: Image.Image) -> tuple[int, int]:
        return input_size((image.height, image.width), self._size_rule, self.model.config)


def score_phrases(
    logits: Float[Tensor, "q t"], tokens: Sequence[Sequence[int]], reduction: Literal["mean", "max"] = "mean"
) -> Float[Tensor, "q k"]:
    """Return the score of each query for each phrase in 0..1: the mean (or maximum) of its tokens' probabilities.

    The mean over a phrase's own tokens is the protocol behind Grounding DINO's published COCO results, the maximum is
    what the thresholds of published examples apply to.

    Args:
        logits: of each query for each token; -inf for padding.
        tokens: for each of the k phrases the positions of at least one token.
        reduction: "mean" or "max".
    """
    probabilities = logits.float().sigmoid()
    columns = [probabilities[:, list(own)] for own in tokens]
    if reduction == "mean":
        return torch.stack([column.mean(dim=1) for column in columns], dim=1)
    return torch.stack([column.amax(dim=1) for column in columns], dim=1)


def _batch_by_size(passes: Sequence[_Pass], batch_size: int) -> Iterator[list[_Pass]]:
    """Yield batches of passes of one size; the passes of an image stay in order."""
    by_size: dict[tuple[int, int], list[_Pass]] = {}
    for one in passes:
        by_size.setdefault(one.size, []).append(one)
    for same_size in by_size.values():
        for start in range(0, len(same_size), batch_size):
            yield same_size[start : start + batch_size]


# ---- The size to which an image is resized ----


def scale_size_rule(rule: Mapping[str, int | None], image_size: int | None) -> dict[str, int]:
    """Return the size rule of an image processor, scaled to a shorter edge of `image_size` pixels (None: as saved).

    The limit on the longer edge keeps its ratio to the shorter one, so that wide images are treated alike.
    """
    known = {key: value for key, value in rule.items() if value is not None}
    scale = 1.0 if image_size is None else image_size / min(known.values())
    return {key: round(value * scale) for key, value in known.items()}


def apply_size_rule(image_size: tuple[int, int], rule: Mapping[str, int]) -> tuple[int, int]:
    """Return (height, width) of an image of `image_size` (height, width) after resizing by `rule`, at least 1 pixel.

    The arithmetic is that of the image processors in `transformers`, which round a thin image down to no pixels.

    Raises:
        ValueError: `rule` has neither shortest_edge, nor height and width, nor max_height and max_width.
    """
    match rule:
        case {"shortest_edge": shortest}:
            height, width = get_size_with_aspect_ratio(image_size, shortest, rule.get("longest_edge"))
        case {"height": height, "width": width}:
            pass
        case {"max_height": max_height, "max_width": max_width}:
            height, width = get_image_size_for_max_height_width(image_size, max_height, max_width)
        case _:
            raise ValueError(f"size must have shortest_edge, height and width, or max_height and max_width, got {rule}")
    return max(1, height), max(1, width)


def input_size(image_size: tuple[int, int], rule: Mapping[str, int], config: Any) -> tuple[int, int]:
    """Return (height, width) to which an image of `image_size` is resized for a network of `config`."""
    # Pixels a step on each feature map: of the backbone's stages, then each twice the one before.
    patch = getattr(config.backbone_config, "patch_size", 4)
    strides = [patch * 2 ** (stage - 1) for stage in config.backbone_config.out_indices]
    while len(strides) < config.num_feature_levels:
        strides.append(2 * strides[-1])
    # With two stages the queries are picked among the feature locations, of which there must be enough.
    return grow_to_locations(apply_size_rule(image_size, rule), strides, config.num_queries if config.two_stage else 1)


def count_feature_locations(size: tuple[int, int], strides: Sequence[int]) -> int:
    """Return the number of feature vectors for an image of `size` (height, width), over maps with these strides."""
    height, width = size
    return sum(ceil(height / stride) * ceil(width / stride) for stride in strides)


def grow_to_locations(size: tuple[int, int], strides: Sequence[int], minimum: int) -> tuple[int, int]:
    """Return the smallest (height, width) from `size` upwards with at least `minimum` feature locations.

    The shorter side grows first. This changes the aspect ratio of a thin image, but without it there is no result: the
    detector picks its queries among the feature locations and fails where there are fewer of them.
    """
    height, width = size
    step = min(strides)
    while count_feature_locations((height, width), strides) < minimum:
        if height <= width:
            height = (height // step + 1) * step
        else:
            width = (width // step + 1) * step
    return height, width
