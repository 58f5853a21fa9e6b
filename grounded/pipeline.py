"""The pipeline: image + text -> detections -> prompts -> masks -> instances."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from pycocotools import mask as coco_mask
from torch import Tensor

from grounded import loading, prompts
from grounded.config import load, override
from grounded.errors import ConfigError, PromptError
from grounded.images import ImageLike, SourceImage, open_image
from grounded.phrases import parse
from grounded.settings import PipelineConfig
from grounded.suppression import suppress
from grounded.timing import Stopwatch
from grounded.types import Detections, Detector, Instances, Segmenter, TextEncoder
from segany import MaskPrediction, Predictor
from segany.masks import RLE, encode_rle

Text = str | Sequence[str]

# Full-size masks are made for this many pixels at a time: 100 masks of a 12-megapixel image would be 5 GB of logits.
_PIXELS_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class Pipeline:
    """Free-form text in, labelled instance masks out. Holds models and settings, and nothing of what it has seen.

    Parts that `config.prompting.mode` has no use for may be None: the detector in mode "text", the text encoder in
    mode "box". The `detector`, `clip` and `segmenter` sections of the configuration describe the parts; here only
    `prompting` is followed.

    Raises:
        ConfigError: a part is missing, or the text embeddings do not fit the segmenter.
    """

    detector: Detector | None
    text_encoder: TextEncoder | None
    segmenter: Segmenter
    config: PipelineConfig = field(default_factory=PipelineConfig)

    def __post_init__(self) -> None:
        mode = self.config.prompting.mode
        if self.config.prompting.needs_detector and self.detector is None:
            raise ConfigError(f"mode {mode!r} needs a detector, got none")
        if not self.config.prompting.needs_text:
            return
        if self.text_encoder is None:
            raise ConfigError(f"mode {mode!r} needs a text encoder, got none")
        text_dim = _text_dim(self.segmenter)
        if text_dim is None:
            raise ConfigError(f"mode {mode!r} needs a segmenter with a text prompt, this one has none: use mode 'box'")
        if text_dim != self.text_encoder.dim:
            raise ConfigError(
                f"the text encoder must give embeddings of width {text_dim}, "
                f"which the segmenter was trained with, got {self.text_encoder.dim}"
            )

    @classmethod
    def from_config(cls, source: str | PathLike[str] | PipelineConfig = "tiny", **overrides: Any) -> "Pipeline":
        """Load the models that a configuration names and its mode needs.

        Args:
            source: a preset ("tiny"), the path of a YAML file, or a configuration.
            overrides: fields to replace, as in `grounded.config.override`: `box_threshold=0.4`, `mode="text"`,
                `device="cuda"`, `detector={"checkpoint": "folder"}`.

        Raises:
            ConfigError: the configuration is wrong, or its parts do not fit together.
            segany.CheckpointError: the segmenter's weights are missing or do not fit.
        """
        config = override(load(source), **overrides)
        device = loading.pick_device(config.device)
        return cls(
            detector=loading.load_detector(config, device) if config.prompting.needs_detector else None,
            text_encoder=loading.load_text_encoder(config, device) if config.prompting.needs_text else None,
            segmenter=loading.load_segmenter(config, device),
            config=config,
        )

    @property
    def models(self) -> dict[str, str | None]:
        """The checkpoint of each stage as configured, None for a stage that the mode does not use."""
        prompting = self.config.prompting
        return {
            "detector": self.config.detector.checkpoint if prompting.needs_detector else None,
            "clip": self.config.clip.checkpoint if prompting.needs_text else None,
            "segmenter": self.config.segmenter.checkpoint,
        }

    def segment(self, image: ImageLike | SourceImage, text: Text, stopwatch: Stopwatch | None = None) -> Instances:
        """Find what `text` names in `image`.

        Args:
            image: a path, a PIL image or a uint8 RGB array (h, w, 3); EXIF orientation is applied.
            text: a string, split at `.` `,` `;` and line ends, or a sequence of phrases.
            stopwatch: receives the seconds of the stages "open", "detect", "text", "encode" and "decode".

        Returns:
            the instances, best first; none where nothing was found.

        Raises:
            ImageError: the image cannot be read.
            PromptError: the text holds no phrase.
        """
        return self.segment_batch([image], [text], stopwatch)[0]

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
            sources = [open_image(image) for image in images]
        detections: Sequence[Detections | None] = [None] * len(sources)
        if self.config.prompting.needs_detector and self.detector is not None and sources:
            with watch.stage("detect"):
                detections = self.detector.detect([source.pixels for source in sources], queries)
        return [
            self._segment_one(source, phrases, found, watch)
            for source, phrases, found in zip(sources, queries, detections, strict=True)
        ]

    def _segment_one(
        self, source: SourceImage, phrases: tuple[str, ...], detections: Detections | None, watch: Stopwatch
    ) -> Instances:
        """From the detections of one image to its instances; without detections, from the phrases alone."""
        if detections is not None and len(detections) == 0:
            return Instances.empty(phrases, source.size)
        with watch.stage("text"):
            embeddings = self._embed(phrases)
        with watch.stage("encode"):
            embedding = self.segmenter.encode(source.pixels)
        with watch.stage("decode"):
            prompting = self.config.prompting
            questions = prompts.build(detections, embeddings, prompting.mode)
            prediction = self.segmenter.predict(embedding, questions, multimask_output=prompting.multimask_output)
            best = prediction.best()
            rles = _encode_masks(best, source.size)
        predicted_iou = best.predicted_iou[:, 0].float().cpu().numpy()
        if detections is None:
            instances = _from_text(phrases, source.size, rles, predicted_iou)
        else:
            instances = _from_detections(phrases, source.size, rles, predicted_iou, detections)
        return self._filter(instances)

    def _embed(self, phrases: Sequence[str]) -> Float[Tensor, "p c"] | None:
        if self.text_encoder is None or not self.config.prompting.needs_text:
            return None
        return self.text_encoder.encode(phrases)

    def _filter(self, instances: Instances) -> Instances:
        """Drop empty masks, then all but the best of masks that nearly coincide; best first."""
        prompting = self.config.prompting
        instances = instances[[i for i, rle in enumerate(instances.rles) if coco_mask.area(rle) > 0]]
        kept = suppress(
            instances.rles,
            instances.scores,
            instances.phrase_ids,
            prompting.mask_nms_threshold,
            prompting.mask_containment_threshold,
        )
        return instances[kept]


def _text_dim(segmenter: Segmenter) -> int | None:
    """Width of the text embeddings that a segmenter was trained with; None for one without a text prompt."""
    return segmenter.model.config.text_dim if isinstance(segmenter, Predictor) else None


def _from_detections(
    phrases: tuple[str, ...],
    image_size: tuple[int, int],
    rles: Sequence[RLE],
    predicted_iou: Float32[np.ndarray, "n"],
    detections: Detections,
) -> Instances:
    """One instance per detection, ranked by the detector."""
    return Instances(
        phrases=phrases,
        image_size=image_size,
        phrase_ids=detections.phrase_ids,
        boxes=detections.boxes,
        rles=tuple(rles),
        scores=detections.score,
        detector_scores=detections.score,
        clip_scores=np.full_like(predicted_iou, np.nan),
        predicted_iou=predicted_iou,
        score_matrix=detections.scores,
        sources=np.array(["detector"] * len(rles), dtype=np.str_),
    )


def _from_text(
    phrases: tuple[str, ...],
    image_size: tuple[int, int],
    rles: Sequence[RLE],
    predicted_iou: Float32[np.ndarray, "p"],
) -> Instances:
    """One instance per phrase, ranked by predicted IoU: no detector has scored it."""
    unknown = np.full_like(predicted_iou, np.nan)
    return Instances(
        phrases=phrases,
        image_size=image_size,
        phrase_ids=np.arange(len(phrases)),
        boxes=_tight_boxes(rles),
        rles=tuple(rles),
        scores=predicted_iou,
        detector_scores=unknown,
        clip_scores=unknown,
        predicted_iou=predicted_iou,
        score_matrix=np.full((len(phrases), len(phrases)), np.nan, dtype=np.float32),
        sources=np.array(["text"] * len(rles), dtype=np.str_),
    )


def _tight_boxes(rles: Sequence[RLE]) -> Float32[np.ndarray, "n 4"]:
    """Xyxy boxes around the pixels of each mask; the far sides lie behind the last pixel."""
    xywh = np.array([coco_mask.toBbox(rle) for rle in rles], dtype=np.float32).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _encode_masks(prediction: MaskPrediction, image_size: tuple[int, int]) -> list[RLE]:
    """Run-length encode the first mask of every prompt, a few at full size at a time."""
    height, width = image_size
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    return [rle for i in range(0, len(prediction), step) for rle in encode_rle(prediction[i : i + step].masks[:, 0])]
