"""The pipeline: image + text -> detections -> prompts -> masks -> instances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Bool

from grounded.config import load, override
from grounded.data.clicks import validate_points
from grounded.data.detections import Detections
from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.data.protocols import DensePrompter, Detector, MaskPromptable, RegionScorer, Segmenter, TextEncoder
from grounded.errors import ConfigError, PromptError
from grounded.interactive import corrections
from grounded.interactive import everything as naming
from grounded.models import build
from grounded.settings import PipelineConfig
from grounded.stages.cache import StageCache
from grounded.stages.question import Clicks, Question
from grounded.utils.timing import Stopwatch
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
    dense_prompter: DensePrompter | None = None  # for a segmenter without a text prompt of its own

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
        elif self.dense_prompter is None or not isinstance(self.segmenter, MaskPromptable):
            raise ConfigError("text_prompt 'dense-clip' needs a heat prompter, and a segmenter with mask prompts")

    @classmethod
    def from_config(
        cls,
        source: str | PathLike[str] | PipelineConfig = "tiny",
        *,
        load_all: bool = False,
        **overrides: Any,
    ) -> "Pipeline":
        """Load the models that a configuration names and has a use for.

        Args:
            source: a preset ("tiny"), the path of a YAML file, or a configuration.
            load_all: load the others too, so that `with_config` can switch on what uses them.
            overrides: fields to replace, as in `grounded.config.override`: `box_threshold=0.4`, `mode="text"`,
                `device="cuda"`, `detector={"checkpoint": "folder"}`, `filtering={"enabled": True}`.

        Raises:
            ConfigError: the configuration is wrong, or its parts do not fit together.
            segany.CheckpointError: weights are missing or do not fit.
        """
        config = override(load(source), **overrides)
        device = build.pick_device(config.device)
        clip = build.load_clip(config, device) if load_all or config.needs_clip else None
        text_prompt = config.prompting.text_prompt if load_all or config.needs_text_prompt else "none"
        return cls(
            detector=build.load_detector(config, device) if load_all or config.needs_detector else None,
            text_encoder=clip if text_prompt == "adapter" else None,
            segmenter=build.load_segmenter(config, device),
            config=config,
            scorer=build.region_scorer(clip, config) if clip and (load_all or config.needs_scores) else None,
            dense_prompter=build.dense_clip(clip, config) if clip and text_prompt == "dense-clip" else None,
        )

    def with_config(self, **overrides: Any) -> "Pipeline":
        """Return the same models under other settings of prompting, filtering, refinement and the fallback.

        Args:
            overrides: as in `from_config`.

        Raises:
            ConfigError: a setting is wrong, needs a part that was not loaded, or is one that models are loaded with.
        """
        config = override(self.config, **overrides)
        for name in ("detector", "clip", "segmenter", "scoring", "device"):
            if getattr(config, name) != getattr(self.config, name):
                raise ConfigError(f"{name} is what models were loaded with: use Pipeline.from_config to change it")
        return replace(self, config=config)

    @property
    def models(self) -> dict[str, str | None]:
        """The checkpoint of each stage as configured, None for a stage that has nothing to do."""
        return self.config.models

    def segment(
        self,
        image: ImageLike | SourceImage,
        text: Text,
        stopwatch: Stopwatch | None = None,
        *,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        embedding: ImageEmbedding | None = None,
        box_threshold: float | None = None,
        kept: StageCache | None = None,
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
            box_threshold: drops detections of a lower score. It has an effect above the detector's own threshold, and
                the detector need not run again for it.
            kept: what the stages answered about this image before; they run again only where their input changed.

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
        kept = self._turned(kept, opened)
        detections = None
        if self.config.needs_detector:
            detections = kept.answer("detect", phrases, lambda: self._detect([opened], [phrases], watch)[0])
        if detections is not None and box_threshold is not None:
            detections = detections[detections.score >= box_threshold]
        return Question(self, opened, phrases, watch, clicks, _checked(embedding, opened), kept).answer(detections)

    def segment_batch(
        self,
        images: Sequence[ImageLike | SourceImage],
        texts: str | Sequence[Text],
        stopwatch: Stopwatch | None = None,
    ) -> list[Instances]:
        """Find what each text names in its image, as one at a time would; the detector sees several together.

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

    def encode(
        self, image: ImageLike | SourceImage, kept: StageCache | None = None, stopwatch: Stopwatch | None = None
    ) -> Any:
        """Return the segmenter's embedding of an image, to be held for `segment` and `refine`.

        With `kept`, as in `segment`, it is made once for each picture.
        """
        opened = open_image(image)
        return Question(self, opened, (), stopwatch or Stopwatch(), cache=self._turned(kept, opened)).embedding

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
        kept: StageCache | None = None,
    ) -> Instances:
        """Correct the mask of one instance by clicks and strokes; the others, and the order of all, stay as they are.

        A CLIP score, where it has one, is that of the new mask.

        Give all clicks and strokes so far, not the last alone: a mask does not tell where it was corrected.

        Args:
            image: the one that `instances` belong to.
            index: which instance.
            points: (k, 2), all clicks on the instance so far, in pixels.
            point_labels: (k), 1 foreground and 0 background; None where all are foreground.
            brush: pixels painted as belonging to the instance.
            eraser: pixels painted as not belonging to it.
            embedding: of this image, as `encode` returned it; None encodes the image.
            kept: as in `segment`; with `zoom` it holds the embedding of the window around the instance.

        Raises:
            IndexError: there is no such instance.
            PromptError: nothing to correct with, or it does not fit the image.
        """
        opened = open_image(image)
        clicks = _clicks(points, point_labels, opened.size)
        return corrections.correct(
            self,
            opened,
            instances,
            index,
            clicks,
            brush,
            eraser,
            kept_embedding=_checked(embedding, opened),
            cache=self._turned(kept, opened),
        )

    def candidates(
        self,
        image: ImageLike | SourceImage,
        phrase: str,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        embedding: ImageEmbedding | None = None,
    ) -> Instances:
        """What a user who shows something by clicks or a box may mean: three masks for one click, else one.

        Args:
            image: any that the pipeline takes.
            phrase: what it is called.
            points: (k, 2) clicks on one object, in pixels.
            point_labels: (k), 1 foreground and 0 background; None where all are foreground.
            box: (4), xyxy in pixels.
            embedding: of this image, as `encode` returned it; None encodes the image.

        Returns:
            one to three instances of `phrase` with the source "point" or "box", by predicted IoU; they exclude one
            another, so keep one. Empty masks are left out.

        Raises:
            PromptError: neither a foreground point nor a box, or they do not fit the image.
        """
        opened = open_image(image)
        clicks = _clicks(points, point_labels, opened.size)
        return corrections.candidates(self, opened, phrase, clicks, box, kept_embedding=_checked(embedding, opened))

    def everything(
        self,
        image: ImageLike | SourceImage,
        words: Text = (),
        stopwatch: Stopwatch | None = None,
        *,
        naming_threshold: float = 0.3,
        embedding: ImageEmbedding | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Instances:
        """Masks of everything in the image, named by CLIP where it recognises one of the words.

        Args:
            image: any that the pipeline takes.
            words: names to choose from, as the text of `segment`; none names nothing.
            stopwatch: receives the seconds of each stage.
            naming_threshold: least CLIP score of a name; other masks are called "unnamed".
            embedding: of this image, as `encode` returned it; None encodes the image.
            progress: called with (points done, points in all) while masks are made; what it raises ends the search.
            options: of `segany.AutomaticMaskGenerator`.

        Returns:
            instances with the source "automatic"; without words all are "unnamed", by predicted IoU.

        Raises:
            ConfigError: the segmenter is not segany's, or naming needs a region scorer and there is none.
            PromptError: the text holds no phrase.
            ValueError: an option is out of range.
        """
        opened = open_image(image)
        names = parse(words) if words else ()
        watch = stopwatch or Stopwatch()
        return naming.everything(
            self, opened, names, naming_threshold, watch, _checked(embedding, opened), options, progress
        )

    def _turned(self, kept: StageCache | None, image: SourceImage) -> StageCache:
        """What was kept, if it is about this image and of these models; else empty."""
        if kept is None:
            return StageCache()
        models = self.detector, self.text_encoder, self.segmenter, self.scorer, self.dense_prompter
        kept.reset_for(image.pixels, *models)
        return kept

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
