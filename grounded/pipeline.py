"""The pipeline: detect, prompt, segment, refine, zoom, verify, fall back. The main entry from Python."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from os import PathLike
from typing import Any

import numpy as np

from grounded.config import PipelineConfig, load, override
from grounded.data.clicks import Clicks
from grounded.data.detections import Detections
from grounded.data.display import ImageReference
from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.data.protocols import (
    DensePrompter,
    Detector,
    EmbeddingDetector,
    MaskPromptable,
    ObjectDetector,
    RegionScorer,
    Segmenter,
    TextEncoder,
)
from grounded.errors import ConfigError, PromptError
from grounded.interactive.correct import Stroke, candidates, correct
from grounded.interactive.everything import everything
from grounded.models import build
from grounded.models.checkpoints import resolve_models
from grounded.stages.cache import StageCache
from grounded.stages.detect import detect, detect_embedded, detect_objects, note_unread, select
from grounded.stages.encode import check_embedding, encode, encode_window
from grounded.stages.fallback import accept, automatic_masks, missing_phrases, object_masks
from grounded.stages.prompt import (
    PromptGroup,
    TextPrompts,
    dense_prompts,
    embed_text,
    prompt_boxes,
    prompt_phrases,
    prompt_stray_clicks,
)
from grounded.stages.refine import clean
from grounded.stages.segment import segment
from grounded.stages.verify import distinct_rows, keep_recognised, score
from grounded.stages.zoom import zoom
from grounded.utils.timing import Stopwatch
from segany import ImageEmbedding, Predictor
from segany.precision import own_precision
from segany.prompts import ArrayLike

Text = str | Sequence[str]
Run = Callable[..., Any]  # runs a stage unless the cache knows its result, see `StageCache.run`


@dataclass(frozen=True)
class _Origin:
    """What `Pipeline.from_config` loaded and from where, so that another process can load the same."""

    config: PipelineConfig
    load_all: bool
    parts: tuple[object, ...]


@dataclass(frozen=True)
class Pipeline:
    """Free-form text in, labelled instance masks out. Holds models and settings; nothing is remembered between calls.

    Parts that the configuration has no use for may be None. The `detector`, `clip` and `segmenter` sections of the
    configuration describe the parts; here only the other sections are followed.

    A pipeline from `from_config` can be pickled, for workers of any kind. The pickle is small: it holds the
    configuration, and the models are loaded again on the other side, once per process.

    Raises:
        ConfigError: a part is missing, or the text embeddings do not fit the segmenter.
    """

    detector: Detector | None
    text_encoder: TextEncoder | None  # for a segmenter with a text prompt of its own
    segmenter: Segmenter
    config: PipelineConfig = field(default_factory=PipelineConfig)
    scorer: RegionScorer | None = None  # for filtering and the fallback
    dense_prompter: DensePrompter | None = None  # for a segmenter without a text prompt of its own
    _origin: _Origin | None = field(default=None, repr=False, compare=False)

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
            raise ConfigError("text_prompt 'dense-clip' needs a dense prompter, and a segmenter with mask prompts")

    @classmethod
    @own_precision()
    def from_config(
        cls,
        source: str | PathLike[str] | PipelineConfig | None = None,
        *,
        load_all: bool = False,
        **overrides: Any,
    ) -> "Pipeline":
        """Load the models that a configuration names and has a use for.

        Args:
            source: a preset ("base"), the path of a YAML file, or a configuration. None is the preset `photo`, or what
                the environment variable GROUNDED_CONFIG names.
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
        needs_detector = load_all or config.needs_detector
        detector, segmenter = build.load_detector_and_segmenter(config, device, clip, needs_detector)
        pipeline = cls(
            detector=detector,
            text_encoder=clip if text_prompt == "adapter" else None,
            segmenter=segmenter,
            config=config,
            scorer=build.region_scorer(clip, config) if clip and (load_all or config.needs_scores) else None,
            dense_prompter=build.dense_clip(clip, config) if clip and text_prompt == "dense-clip" else None,
        )
        return replace(pipeline, _origin=_Origin(config, load_all, pipeline._parts))

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
    def _parts(self) -> tuple[object, ...]:
        return self.detector, self.text_encoder, self.segmenter, self.scorer, self.dense_prompter

    def __reduce__(self) -> tuple[Callable[..., "Pipeline"], tuple[Any, ...]]:
        origin = self._origin
        if origin is None or any(part is not loaded for part, loaded in zip(self._parts, origin.parts, strict=True)):
            raise pickle.PicklingError(
                "a pipeline is pickled as its configuration, from which Pipeline.from_config loads the models again, "
                "and this one holds models that were given as objects: build it on the other side instead"
            )
        return _load_again, (build.resolve_paths(origin.config), origin.load_all, self.config)

    @property
    def models(self) -> dict[str, str | None]:
        """The checkpoint of each stage, with its commit if it is from the hub; None for a stage with nothing to do."""
        return resolve_models(self.config)

    @own_precision()
    def segment(
        self,
        image: ImageLike | SourceImage,
        text: Text,
        stopwatch: Stopwatch | None = None,
        *,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        detections: Detections | None = None,
        embedding: ImageEmbedding | None = None,
        box_threshold: float | None = None,
        cache: StageCache | None = None,
    ) -> Instances:
        """Find what `text` names in `image`.

        Args:
            image: a path, an address, an open file, a PIL image, an array or a tensor, as `open_image` takes it; EXIF
                orientation is applied.
            text: a string, which `grounded.data.phrases.parse` splits, or a sequence of phrases.
            stopwatch: receives the seconds of each stage.
            points: (k, 2) clicks in pixels. A foreground click belongs to the smallest detection around it, a
                background click to all around it, and a foreground click outside all of them is an instance of its
                own.
            point_labels: (k), 1 foreground and 0 background; None where all are foreground.
            detections: boxes for these phrases, from elsewhere; None runs the detector.
            embedding: of this image, as `encode` returned it; None encodes the image.
            box_threshold: drops detections whose phrase has no token of such a score. It has an effect above the
                detector's own threshold, and the detector need not run again for it.
            cache: results of earlier calls about this image; stages run again only where their input changed.

        Returns:
            the instances, best first; none where nothing was found. Their `notes` name phrases that the detector cannot
            read.

        Raises:
            ImageError: the image cannot be read.
            PromptError: the text holds no phrase, points do not lie in the image, a click outside all detections may
                stand for any of several phrases, detections are of another number of phrases, or the embedding is of
                an image of another size.
        """
        watch, phrases, config = stopwatch or Stopwatch(), parse(text), self.config
        with watch.stage("open"):
            given, image = image, open_image(image)
        clicks = Clicks.read(points, point_labels, image.size)
        check_embedding(embedding, image)
        cache, image = (StageCache(), image) if cache is None else (cache, cache.recall(image))
        run = partial(cache.run, watch=watch)

        if not config.needs_detector:
            detections = None
        else:
            if detections is None and isinstance(self.detector, EmbeddingDetector):
                embedding = run(encode, self.segmenter, image) if embedding is None else embedding
                detections = run(detect_embedded, self.detector, embedding, phrases)
            elif detections is None:
                detections = run(detect, self.detector, image, phrases)
            detections = select(detections, phrases, box_threshold)
        instances = []
        for group in self._prompt(image, phrases, detections, clicks, run):
            # An image that nothing prompts is never encoded, but for a detector that works on the embedding.
            embedding = run(encode, self.segmenter, image) if embedding is None else embedding
            rounds = config.refinement.refine_rounds
            part = run(segment, self.segmenter, embedding, group, phrases, group.multimask_output, rounds)
            instances.append(self._improve(part, group, image, run))
        found = self._verify(Instances.concatenate([Instances.empty(phrases, image.size), *instances]), image, run)
        notes = note_unread(self.detector, phrases) if config.needs_detector else ()
        found = replace(found, notes=notes, image_source=ImageReference.of(given, image))
        missing = missing_phrases(found)
        if detections is None or config.fallback.source == "none" or not missing:
            return found
        embedding = run(encode, self.segmenter, image) if embedding is None else embedding
        return Instances.concatenate([found, self._fall_back(image, embedding, phrases, missing, run)]).sorted()

    def _prompt(
        self, image: SourceImage, phrases: tuple[str, ...], detections: Detections | None, clicks: Clicks, run: Run
    ) -> list[PromptGroup]:
        """Return the prompts for boxes or for phrases, by the mode, and those of clicks outside all boxes."""
        prompting, groups = self.config.prompting, []
        needs_text = detections is None or (prompting.mode == "box+text" and len(detections) > 0)
        text = self._text_prompts(image, phrases, run) if needs_text else None
        if detections is not None and len(detections):
            groups.append(prompt_boxes(detections, clicks, text, prompting.multimask_output))
        elif text is not None:
            groups.append(prompt_phrases(text, range(len(phrases)), prompting.multimask_output))
        strays = prompt_stray_clicks(detections, clicks, phrases, can_choose=self.scorer is not None)
        return [*groups, strays] if len(strays) else groups

    def _text_prompts(self, image: SourceImage, phrases: tuple[str, ...], run: Run) -> TextPrompts:
        if self.config.prompting.text_prompt == "adapter":
            return run(embed_text, self.text_encoder, phrases)
        return run(dense_prompts, self.dense_prompter, image, phrases)

    def _improve(self, instances: Instances, group: PromptGroup, image: SourceImage, run: Run) -> Instances:
        """Zoom in on detections, choose a phrase for stray clicks, and remove small regions."""
        config = self.config
        if config.refinement.zoom is not None and group.source == "detector":
            instances = run(
                zoom,
                self.segmenter,
                instances,
                group.prompts,
                config.refinement.zoom,
                config.prompting.mask_nms_threshold,
                config.prompting.mask_containment_threshold,
                # Its time is part of the zoom.
                encode=lambda window: run(encode_window, self.segmenter, image, window.corners, watch=None),
            )
        if group.source == "point" and len(instances.phrases) > 1:
            likeliest = run(score, self.scorer, image, instances.rles, instances.phrases).argmax(axis=1)
            instances = replace(instances, phrase_ids=likeliest)
        area = config.refinement.min_mask_region_area
        return run(clean, instances, area) if area else instances

    def _verify(self, instances: Instances, image: SourceImage, run: Run) -> Instances:
        """With filtering, drop what CLIP does not recognise; then drop empty masks and duplicates. Best first."""
        config = self.config
        if config.filtering.enabled and len(instances):
            probabilities = run(score, self.scorer, image, instances.rles, instances.phrases)
            instances = keep_recognised(instances, probabilities, config.filtering.clip_threshold)
        prompting = config.prompting
        rows = distinct_rows(instances, prompting.mask_nms_threshold, prompting.mask_containment_threshold)
        return instances[rows]

    def _fall_back(
        self, image: SourceImage, embedding: Any, phrases: tuple[str, ...], missing: list[int], run: Run
    ) -> Instances:
        """Return instances for phrases that have none, where CLIP recognises the phrase in a mask."""
        config, wanted = self.config.fallback, tuple(phrases[i] for i in missing)
        area = self.config.refinement.min_mask_region_area
        if config.source == "text":
            text = self._text_prompts(image, wanted, run)
            group = prompt_phrases(text, missing, self.config.prompting.multimask_output)
            candidates = run(segment, self.segmenter, embedding, group, phrases, group.multimask_output)
            candidates = run(clean, candidates, area) if area else candidates
        elif config.source == "objects":
            objects = run(detect_objects, self.detector, embedding, config.max_objects)
            candidates = run(object_masks, self.segmenter, embedding, objects, image, area)
        else:
            grid = config.points_per_side, config.pred_iou_thresh, config.stability_score_thresh
            candidates = run(automatic_masks, self.segmenter, embedding, image, *grid, area)
        probabilities = run(score, self.scorer, image, candidates.rles, wanted)
        if config.source == "text":  # each mask stands for its own phrase only
            probabilities = np.where(candidates.phrase_ids[:, None] == np.array(missing), probabilities, 0)
        return accept(candidates, probabilities, phrases, missing, config)

    @own_precision()
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
        detections: Sequence[Detections | None] = [None] * len(images)
        together = self.config.needs_detector and not isinstance(self.detector, EmbeddingDetector)
        if self.detector is not None and together and images:
            with watch.stage("detect"):
                detections = self.detector.detect([image.pixels for image in opened], queries)
        return [
            replace(self.segment(image, phrases, watch, detections=found), image_source=ImageReference.of(given, image))
            for given, image, phrases, found in zip(images, opened, queries, detections, strict=True)
        ]

    @own_precision()
    def encode(
        self, image: ImageLike | SourceImage, cache: StageCache | None = None, stopwatch: Stopwatch | None = None
    ) -> Any:
        """Return the segmenter's embedding of an image, to be held for `segment` and `refine`.

        With `cache`, as in `segment`, it is made once for each image.
        """
        opened = open_image(image)
        cache, opened = (StageCache(), opened) if cache is None else (cache, cache.recall(opened))
        return cache.run(encode, self.segmenter, opened, watch=stopwatch)

    @own_precision()
    def refine(
        self,
        image: ImageLike | SourceImage,
        instances: Instances,
        index: int,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        *,
        brush: Stroke | None = None,
        eraser: Stroke | None = None,
        embedding: ImageEmbedding | None = None,
        cache: StageCache | None = None,
    ) -> Instances:
        """Correct the mask of one instance by clicks and strokes; the others, and the order of all, stay as they are.

        Give all clicks and strokes so far, not the last alone. Arguments and errors are those of
        `grounded.interactive.correct.correct`; segmenter, scorer and zoom are the pipeline's.
        """
        return correct(
            self.segmenter,
            image,
            instances,
            index,
            points,
            point_labels,
            brush=brush,
            eraser=eraser,
            embedding=embedding,
            scorer=self.scorer,
            zoom=self.config.refinement.zoom,
            cache=cache,
        )

    @own_precision()
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
        """Return the masks that clicks or a box on a new object may stand for: three for one click, else one.

        Arguments and errors are those of `grounded.interactive.correct.candidates`.
        """
        return candidates(self.segmenter, image, phrase, points, point_labels, box=box, embedding=embedding)

    @own_precision()
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
        """Return masks of everything in the image, named by CLIP where it recognises one of the words.

        Arguments and errors are those of `grounded.interactive.everything.everything`.
        """
        return everything(
            self.segmenter,
            image,
            words,
            stopwatch,
            scorer=self.scorer,
            detector=self.detector if isinstance(self.detector, ObjectDetector) else None,
            naming_threshold=naming_threshold,
            embedding=embedding,
            progress=progress,
            **options,
        )


# Some libraries pickle the pipeline with every task: a worker must still load it only once.
@lru_cache(maxsize=1)
def _load_again(config: PipelineConfig, load_all: bool, settings: PipelineConfig) -> Pipeline:
    return replace(Pipeline.from_config(config, load_all=load_all), config=settings)


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
