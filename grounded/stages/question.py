"""One question about one image, from the detector's boxes to instances."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from grounded.data.clicks import assign_points
from grounded.data.detections import Detections
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.protocols import DensePrompter, DensePrompts, MaskPromptable, RegionScorer, Segmenter, TextEncoder
from grounded.errors import PromptError
from grounded.settings import PipelineConfig
from grounded.stages import answers, fallback, prompt
from grounded.stages.cache import StageCache, frozen
from grounded.stages.refine import refine
from grounded.stages.zoom import Window, look_closer
from grounded.utils.timing import Stopwatch
from segany import MaskPrediction, Prompts
from segany.automatic_masks import AutomaticMasks
from segany.utils.points import FOREGROUND
from segany.utils.rle import RLE


@runtime_checkable
class Parts(Protocol):
    """What answers questions. A `Pipeline` is one."""

    @property
    def config(self) -> PipelineConfig: ...
    @property
    def segmenter(self) -> Segmenter: ...
    @property
    def text_encoder(self) -> TextEncoder | None: ...
    @property
    def scorer(self) -> RegionScorer | None: ...
    @property
    def dense_prompter(self) -> DensePrompter | None: ...


@dataclass(frozen=True)
class Clicks:
    """A user's k points in original pixels, and their labels: 1 foreground, 0 background."""

    points: Float[torch.Tensor, "k 2"]
    labels: Int[torch.Tensor, "k"]


NO_CLICKS = Clicks(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True)
class Question:
    """What is asked of one image. It lives as long as its answer takes."""

    parts: Parts
    image: SourceImage
    phrases: tuple[str, ...]
    watch: Stopwatch
    clicks: Clicks = NO_CLICKS
    given_embedding: Any | None = None  # the segmenter's embedding of the image, where the caller has one
    kept: StageCache = field(default_factory=StageCache)  # answers of stages, from earlier questions about the image

    @cached_property
    def embedding(self) -> Any:
        """The segmenter's embedding, made when first needed: an image without prompts is not embedded."""
        if self.given_embedding is not None:
            return self.given_embedding
        return self.kept.answer("encode", None, self._encode)

    def _encode(self) -> Any:
        with self.watch.stage("encode"):
            return self.parts.segmenter.encode(self.image.pixels)

    def answer(self, detections: Detections | None) -> Instances:
        """From the detections to instances, best first; without a detector (None), from the phrases alone."""
        config = self.parts.config
        asked = self.phrases, config.prompting, config.refinement, self.clicks.points, self.clicks.labels
        boxes = () if detections is None else (detections.boxes, detections.scores, detections.phrase_ids)
        found = self.kept.answer("masks", frozen(*asked, *boxes), lambda: self._first_masks(detections))
        found = answers.distinct(self._judged(found), config.prompting)
        wanted = answers.missed(found)
        if detections is None or config.fallback.source == "none" or not wanted:
            return found
        return Instances.concatenate([found, self._fall_back(wanted)]).sorted()

    def _first_masks(self, detections: Detections | None) -> Instances:
        everything = range(len(self.phrases))
        found = self._from_text(everything) if detections is None else self._from_boxes(detections)
        return self._cleaned(Instances.concatenate([found, self._from_strays(detections)]))

    def _cleaned(self, found: Instances) -> Instances:
        return answers.cleaned(found, self.parts.config.refinement.min_mask_region_area)

    def _from_boxes(self, detections: Detections) -> Instances:
        """One instance for each box, prompted with it, with its share of the clicks, and by mode with its phrase."""
        if len(detections) == 0:
            return self._nothing
        config = self.parts.config
        points, labels, _ = assign_points(detections.boxes, self.clicks.points, self.clicks.labels)
        given = prompt.with_points(self._box_prompts(detections), points, labels)
        embedding = self.embedding
        with self.watch.stage("decode"):
            prediction = self._predict(embedding, given)
        if rounds := config.refinement.refine_rounds:
            with self.watch.stage("refine"):
                prediction = refine(
                    self.parts.segmenter,
                    embedding,
                    prediction,
                    torch.from_numpy(detections.boxes),
                    given.text,
                    rounds,
                    given.points,
                    given.point_labels,
                )
        with self.watch.stage("masks"):
            found = answers.from_detections(self.phrases, prediction, detections)
        return self._closer(found, given)

    def _closer(self, found: Instances, given: Prompts) -> Instances:
        """The instances with the masks that a closer look gives, where that is asked for and worth it."""
        scale = self.parts.config.refinement.zoom
        if scale is None:
            return found
        # Before: two boxes of one object would no more give one mask in two windows.
        rows = answers.distinct_rows(found, self.parts.config.prompting)
        found = found[rows]
        rles, predicted_iou = list(found.rles), found.predicted_iou.copy()
        with self.watch.stage("closer"):
            for row, rle, iou in look_closer(
                self.parts.segmenter, self._encode_window, self.image.size, given[rows], scale
            ):
                rles[row], predicted_iou[row] = rle, iou
        return replace(found, rles=tuple(rles), predicted_iou=predicted_iou)

    def _encode_window(self, window: Window) -> Any:
        return self.kept.window(window, lambda: self.parts.segmenter.encode(window.crop(self.image.pixels)))

    def _box_prompts(self, detections: Detections) -> Prompts:
        """Each box, and in mode "box+text" its phrase beside it."""
        prompting = self.parts.config.prompting
        if prompting.mode != "box+text":
            return prompt.build(detections, None, "box")
        if prompting.text_prompt == "adapter":
            return prompt.build(detections, self._embed(self.phrases), "box+text")
        return prompt.build_dense(*self._heat(self.phrases), detections)

    def _from_text(self, wanted: Sequence[int]) -> Instances:
        """At most one instance for each wanted phrase, prompted with the phrase alone."""
        asked = [self.phrases[i] for i in wanted]
        if self.parts.config.prompting.text_prompt == "adapter":
            given = prompt.build(None, self._embed(asked), "text")
        else:
            given = prompt.build_dense(*self._heat(asked))
        embedding = self.embedding
        with self.watch.stage("decode"):
            prediction = self._predict(embedding, given)
        with self.watch.stage("masks"):
            rles, predicted_iou = answers.encode_masks(prediction), answers.first_iou(prediction)
            return answers.from_masks(self.phrases, self.image.size, rles, np.array(wanted), predicted_iou, "text")

    def _embed(self, phrases: Sequence[str]) -> Float[torch.Tensor, "p c"]:
        assert self.parts.text_encoder is not None  # checked when the pipeline was built
        with self.watch.stage("text"):
            return self.parts.text_encoder.encode(phrases)

    def _heat(self, phrases: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Points, labels and mask prompts of phrases."""
        segmenter = self.parts.segmenter
        assert isinstance(segmenter, MaskPromptable)
        heat = self.kept.answer("heat", tuple(phrases), lambda: self._heat_prompts(phrases))
        return heat.points, heat.labels, segmenter.mask_prompts(self.embedding, heat.logits)

    def _heat_prompts(self, phrases: Sequence[str]) -> DensePrompts:
        assert self.parts.dense_prompter is not None  # checked when the pipeline was built
        with self.watch.stage("text"):
            return self.parts.dense_prompter.prompts(self.image.pixels, phrases)

    def _predict(self, embedding: Any, given: Prompts) -> MaskPrediction:
        several = self.parts.config.prompting.multimask_output
        return self.parts.segmenter.predict(embedding, given, multimask_output=several).best()

    def _from_strays(self, detections: Detections | None) -> Instances:
        """One instance for each foreground click that lies in no detection."""
        boxes = np.zeros((0, 4), np.float32) if detections is None else detections.boxes
        _, _, strays = assign_points(boxes, self.clicks.points, self.clicks.labels)
        if not strays:
            return self._nothing
        points = self.clicks.points[strays]
        if len(self.phrases) > 1 and self.parts.scorer is None:
            raise PromptError(
                f"the point {points[0].tolist()} lies in no detection and may mean any of {len(self.phrases)} phrases: "
                "ask for one phrase, or switch filtering on"
            )
        given = Prompts(points=points[:, None], point_labels=torch.full((len(points), 1), FOREGROUND))
        embedding = self.embedding
        with self.watch.stage("decode"):
            prediction = self.parts.segmenter.predict(embedding, given, multimask_output=True).best()
        rles = answers.encode_masks(prediction)
        ids = np.zeros(len(rles), np.int64)
        if len(self.phrases) > 1:
            ids = self._scores(rles, self.phrases).argmax(axis=1)
        return answers.from_masks(self.phrases, self.image.size, rles, ids, answers.first_iou(prediction), "point")

    def _judged(self, instances: Instances) -> Instances:
        """With filtering, add CLIP's scores and drop what does not look like its phrase; a user's click is no guess."""
        filtering = self.parts.config.filtering
        if not filtering.enabled or len(instances) == 0:
            return instances
        instances = answers.with_clip_scores(instances, self._scores(instances.rles, self.phrases))
        return instances[(instances.clip_scores >= filtering.clip_threshold) | (instances.sources == "point")]

    def _fall_back(self, wanted: Sequence[int]) -> Instances:
        """Instances for phrases that have none."""
        config = self.parts.config.fallback
        asked = tuple(self.phrases[i] for i in wanted)
        if config.source == "text":
            given = frozen(self.phrases, list(wanted), self.parts.config.prompting, self.parts.config.refinement)
            found = self.kept.answer("text masks", given, lambda: self._cleaned(self._from_text(wanted)))
            rles, predicted_iou = found.rles, found.predicted_iou
        else:
            generator = config.points_per_side, config.pred_iou_thresh, config.stability_score_thresh
            least = self.parts.config.refinement.min_mask_region_area
            masks = self.kept.answer("automatic", (*generator, least), self._everything)
            rles, predicted_iou = masks.rles, masks.predicted_iou.numpy()
        probabilities = self._scores(rles, asked)
        if config.source == "text":  # each mask answers its own phrase only
            probabilities = np.where(found.phrase_ids[:, None] == np.array(wanted), probabilities, 0)
        return fallback.accepted(self.phrases, self.image.size, wanted, rles, predicted_iou, probabilities, config)

    def _everything(self) -> AutomaticMasks:
        embedding = self.embedding
        with self.watch.stage("automatic"):
            config = self.parts.config
            least = config.refinement.min_mask_region_area
            return fallback.everything(self.parts.segmenter, embedding, self.image.pixels, config.fallback, least)

    def _scores(self, rles: Sequence[RLE], phrases: Sequence[str]) -> Float32[np.ndarray, "n p"]:
        """CLIP's probability of each phrase for each mask."""
        scorer = self.parts.scorer
        assert scorer is not None  # checked when the pipeline was built, and where clicks need it

        def score() -> Float32[np.ndarray, "n p"]:
            with self.watch.stage("score"):
                return scorer.score(self.image.pixels, rles, phrases)

        return self.kept.answer("score", frozen(list(rles), tuple(phrases)), score)

    @property
    def _nothing(self) -> Instances:
        return Instances.empty(self.phrases, self.image.size)
