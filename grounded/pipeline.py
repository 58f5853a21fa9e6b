"""The pipeline: image + text -> detections -> prompts -> masks -> instances."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from grounded import answers, loading
from grounded.config import load, override
from grounded.errors import ConfigError, PromptError
from grounded.images import ImageLike, SourceImage, open_image
from grounded.phrases import parse
from grounded.question import Clicks, Question
from grounded.refine import MaskPrompting, refine_one, validate_points
from grounded.settings import PipelineConfig
from grounded.timing import Stopwatch
from grounded.types import Detections, Detector, HeatPrompter, Instances, RegionScorer, Segmenter, TextEncoder
from segany import ImageEmbedding, Predictor
from segany.prompts import ArrayLike

Text = str | Sequence[str]


@dataclass(frozen=True)
class Pipeline:
    """Free-form text in, labelled instance masks out. Holds models and settings, and nothing of what it has seen.

    Parts that the configuration has no use for may be None. The `detector`, `clip` and `segmenter` sections of the
    configuration describe the parts; here only the other sections are followed.

    Raises:
        ConfigError: a part is missing, or the text embeddings do not fit the segmenter.
    """

    detector: Detector | None
    text_encoder: TextEncoder | None  # for a segmenter with a text prompt of its own
    segmenter: Segmenter
    config: PipelineConfig = field(default_factory=PipelineConfig)
    scorer: RegionScorer | None = None  # for filtering and the fallback
    heat_prompter: HeatPrompter | None = None  # for a segmenter without a text prompt of its own

    def __post_init__(self) -> None:
        config = self.config
        if config.needs_detector and self.detector is None:
            raise ConfigError(f"mode {config.prompting.mode!r} needs a detector, got none")
        if config.needs_scores and self.scorer is None:
            raise ConfigError("filtering and the fallback need a region scorer, got none")
        if not config.needs_text_prompt:
            return
        if config.prompting.text_prompt == "adapter":
            _check_adapter(self.text_encoder, self.segmenter)
        elif self.heat_prompter is None or not isinstance(self.segmenter, MaskPrompting):
            raise ConfigError("text_prompt 'dense-clip' needs a heat prompter, and a segmenter with mask prompts")

    @classmethod
    def from_config(cls, source: str | PathLike[str] | PipelineConfig = "tiny", **overrides: Any) -> "Pipeline":
        """Load the models that a configuration names and has a use for.

        Args:
            source: a preset ("tiny"), the path of a YAML file, or a configuration.
            overrides: fields to replace, as in `grounded.config.override`: `box_threshold=0.4`, `mode="text"`,
                `device="cuda"`, `detector={"checkpoint": "folder"}`, `filtering={"enabled": True}`.

        Raises:
            ConfigError: the configuration is wrong, or its parts do not fit together.
            segany.CheckpointError: weights are missing or do not fit.
        """
        config = override(load(source), **overrides)
        device = loading.pick_device(config.device)
        clip = loading.load_clip(config, device) if config.needs_clip else None
        by_adapter = config.needs_text_prompt and config.prompting.text_prompt == "adapter"
        by_heat = config.needs_text_prompt and not by_adapter
        return cls(
            detector=loading.load_detector(config, device) if config.needs_detector else None,
            text_encoder=clip if by_adapter else None,
            segmenter=loading.load_segmenter(config, device),
            config=config,
            scorer=loading.region_scorer(clip, config) if clip and config.needs_scores else None,
            heat_prompter=loading.dense_clip(clip, config) if clip and by_heat else None,
        )

    @property
    def models(self) -> dict[str, str | None]:
        """The checkpoint of each stage as configured, None for a stage that has nothing to do."""
        config = self.config
        return {
            "detector": config.detector.checkpoint if config.needs_detector else None,
            "clip": config.clip.checkpoint if config.needs_clip else None,
            "segmenter": config.segmenter.checkpoint,
        }

    def segment(
        self,
        image: ImageLike | SourceImage,
        text: Text,
        stopwatch: Stopwatch | None = None,
        *,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        embedding: ImageEmbedding | None = None,
    ) -> Instances:
        """Find what `text` names in `image`.

        Args:
            image: a path, a PIL image or a uint8 array, as `open_image` takes it; EXIF orientation is applied.
            text: a string, split at `.` `,` `;` and line ends, or a sequence of phrases.
            stopwatch: receives the seconds of each stage.
            points: (k, 2) clicks in pixels. A foreground click belongs to the smallest detection around it, a
                background click to all around it, and a foreground click outside all of them is an instance of its
                own.
            point_labels: (k), 1 foreground and 0 background; None where all are foreground.
            embedding: of this image, as `encode` returned it; None encodes the image.

        Returns:
            the instances, best first; none where nothing was found.

        Raises:
            ImageError: the image cannot be read.
            PromptError: the text holds no phrase, points do not lie in the image, a click outside all detections may
                mean any of several phrases, or the embedding is of an image of another size.
        """
        watch = stopwatch or Stopwatch()
        phrases = parse(text)
        with watch.stage("open"):
            opened = open_image(image)
        clicks = _clicks(points, point_labels, opened.size)
        detections = self._detect([opened], [phrases], watch)[0]
        return Question(self, opened, phrases, watch, clicks, _checked(embedding, opened)).answer(detections)

    def segment_batch(
        self,
        images: Sequence[ImageLike | SourceImage],
        texts: str | Sequence[Text],
        stopwatch: Stopwatch | None = None,
    ) -> list[Instances]:
        """Find what each text names in its image; the same answers as one at a time, and faster on a GPU.

        Args:
            images: as in `segment`, all of them held in memory.
            texts: one text per image, or one string for all of them.
            stopwatch: as in `segment`.

        Raises:
            ImageError: an image cannot be read.
            PromptError: a text holds no phrase, or there is not one per image.
        """
        texts = [texts] * len(images) if isinstance(texts, str) else texts
        if len(texts) != len(images):
            raise PromptError(f"texts must be one per image, {len(images)}, got {len(texts)}")
        watch = stopwatch or Stopwatch()
        queries = [parse(text) for text in texts]
        with watch.stage("open"):
            opened = [open_image(image) for image in images]
        return [
            Question(self, picture, phrases, watch).answer(detections)
            for picture, phrases, detections in zip(opened, queries, self._detect(opened, queries, watch), strict=True)
        ]

    def encode(self, image: ImageLike | SourceImage) -> Any:
        """Return the segmenter's embedding of an image, to be kept for `segment` and `refine`."""
        return self.segmenter.encode(open_image(image).pixels)

    def refine(
        self,
        image: ImageLike | SourceImage,
        instances: Instances,
        index: int,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        *,
        brush: Bool[np.ndarray, "h w"] | None = None,
        eraser: Bool[np.ndarray, "h w"] | None = None,
        embedding: ImageEmbedding | None = None,
    ) -> Instances:
        """Correct the mask of one instance by clicks and strokes; the others, and the order of all, stay as they are.

        Give all clicks and strokes so far, not the last alone: a mask does not tell where it was corrected.

        Args:
            image: the one that `instances` belong to.
            index: which instance.
            points: (k, 2), all clicks on the instance so far, in pixels.
            point_labels: (k), 1 foreground and 0 background; None where all are foreground.
            brush: pixels painted as belonging to the instance.
            eraser: pixels painted as not belonging to it.
            embedding: of this image, as `encode` returned it; None encodes the image.

        Raises:
            IndexError: there is no such instance.
            PromptError: nothing to correct with, or it does not fit the image.
        """
        if not isinstance(self.segmenter, MaskPrompting):
            raise ConfigError(f"{type(self.segmenter).__name__} takes no mask prompts, which corrections need")
        opened = open_image(image)
        if opened.size != instances.image_size:
            raise PromptError(f"the image must be {instances.image_size} (height, width), got {opened.size}")
        one = instances[index]
        clicks = _clicks(points, point_labels, opened.size)
        if len(clicks.labels) == 0 and brush is None and eraser is None:
            raise PromptError("a correction must have points or strokes, got none")
        embedding = _checked(embedding, opened) or self.segmenter.encode(opened.pixels)
        prediction = refine_one(
            self.segmenter,
            embedding,
            one.rles[0],
            box=_inside(one.boxes[0], opened.size),
            points=clicks.points,
            labels=clicks.labels,
            brush=brush,
            eraser=eraser,
        ).best()
        corrected = replace(
            one, rles=tuple(answers.encode_masks(prediction)), predicted_iou=answers.first_iou(prediction)
        )
        if self.config.filtering.enabled and self.scorer is not None:
            corrected = answers.with_clip_scores(
                corrected, self.scorer.score(opened.pixels, corrected.rles, corrected.phrases)
            )
        position = range(len(instances))[index]
        return Instances.concatenate([instances[:position], corrected, instances[position + 1 :]])

    def _detect(
        self, images: Sequence[SourceImage], queries: Sequence[tuple[str, ...]], watch: Stopwatch
    ) -> Sequence[Detections | None]:
        if self.detector is None or not self.config.needs_detector or not images:
            return [None] * len(images)
        with watch.stage("detect"):
            return self.detector.detect([image.pixels for image in images], queries)


def _clicks(points: ArrayLike | None, labels: ArrayLike | None, image_size: tuple[int, int]) -> Clicks:
    """A user's points, checked; foreground where no labels are given."""
    if points is None and labels is not None:
        raise PromptError("point_labels need points, got none")
    points = () if points is None else points
    return Clicks(*validate_points(points, [1] * len(points) if labels is None else labels, image_size))


def _inside(box: Float32[np.ndarray, "4"], image_size: tuple[int, int]) -> Float32[np.ndarray, "4"]:
    """A detector's box may reach beyond the picture."""
    return box.clip(0, np.array(image_size[::-1] * 2, dtype=np.float32))


def _checked(embedding: ImageEmbedding | None, image: SourceImage) -> ImageEmbedding | None:
    if embedding is not None and tuple(embedding.original_size) != image.size:
        raise PromptError(f"the embedding must be of an image of {image.size}, got one of {embedding.original_size}")
    return embedding


def _check_adapter(text_encoder: TextEncoder | None, segmenter: Segmenter) -> None:
    """Raise ConfigError unless the segmenter was trained with embeddings of this width."""
    if text_encoder is None:
        raise ConfigError("text_prompt 'adapter' needs a text encoder, got none")
    text_dim = segmenter.model.config.text_dim if isinstance(segmenter, Predictor) else None
    if text_dim is None:
        raise ConfigError("this segmenter has no text prompt of its own: use text_prompt 'dense-clip', or mode 'box'")
    if text_dim != text_encoder.dim:
        raise ConfigError(
            f"the text encoder must give embeddings of width {text_dim}, "
            f"which the segmenter was trained with, got {text_encoder.dim}"
        )
