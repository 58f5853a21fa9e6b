"""Base of the detectors on `transformers`: loading, input, and the step from scores to detections.

`open_inputs`, `to_pixels` and `select` serve detectors of any origin.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from grounded.config import DetectorConfig
from grounded.data.detections import Detections
from grounded.data.image import ImageLike, open_image
from grounded.errors import GroundedError, PromptError
from grounded.models.detectors.checkpoint import Family, load_checkpoint
from segany.precision import own_precision
from segany.utils.boxes import batched_nms, clip_boxes, cxcywh_to_xyxy, nms

_Self = TypeVar("_Self", bound="HubDetector")


class HubDetector(ABC):
    """A `Detector` from a folder in the layout of the Hugging Face hub. It keeps nothing of an image between calls.

    Args:
        model: a network of `transformers`, in eval mode, on its device.
        image_processor: its saved image processor.
        tokenizer: its tokenizer.
        config: thresholds and image size; `kind` and `checkpoint` are ignored.
        batch_size: most images or passes in one forward, with which memory grows.
        name: of the detector, as results state it; None for the family's.
    """

    family: ClassVar[Family]
    default_name: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        image_processor: Any,
        tokenizer: Any,
        config: DetectorConfig | None = None,
        batch_size: int = 4,
        name: str | None = None,
    ):
        self.model: Any = model
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.config = config or DetectorConfig()
        self.batch_size = batch_size
        self.name = name or self.default_name
        self._prepare()

    @classmethod
    @own_precision()
    def from_pretrained(
        cls: type[_Self],
        source: str | PathLike[str],
        config: DetectorConfig | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 4,
    ) -> _Self:
        """Load a checkpoint: "bundled:NAME", a folder in the layout of the Hugging Face hub, or a hub id.

        Raises:
            CheckpointError: files are missing, damaged or unreachable, or the weights do not fill the model.
            ConfigError: no bundled weights of that name, or a setting that the model cannot follow.
        """
        config = config or DetectorConfig()
        model, image_processor, tokenizer = load_checkpoint(source, dtype, cls.family)
        network = cls.accelerate(model, config).to(device)
        return cls(network, image_processor, tokenizer, config, batch_size, name=str(source))

    @classmethod
    def accelerate(cls, model: nn.Module, config: DetectorConfig) -> nn.Module:
        """Hook: replace modules of a loaded network by faster ones that compute the same."""
        return model

    @abstractmethod
    def _prepare(self) -> None:
        """Check that model, tokenizer and configuration fit together, and set attributes that depend on them."""

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    @own_precision()
    def detect(self, images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        """Find the phrases of each image in it.

        Args:
            images: b images: PIL images, uint8 RGB arrays (h, w, 3) or paths.
            phrases: for each image its p phrases; an image without phrases has no detections.

        Returns:
            b Detections in pixels of their images, best first; p may differ between images.

        Raises:
            ValueError: not one list of phrases per image.
            ImageError: an image is not one.
            PromptError: a phrase has no word, or is too long for the detector: it is not cut, because a detection's
                label is the phrase, and a phrase that lost its end would be another phrase.
        """
        return self._detect(*open_inputs(images, phrases))

    @abstractmethod
    def _detect(self, images: Sequence[Image.Image], phrases: Sequence[tuple[str, ...]]) -> list[Detections]:
        """Find the phrases of each upright RGB image in it."""

    def _preprocess(self, images: Sequence[Image.Image], **options: Any) -> Float[Tensor, "b 3 h w"]:
        """Resize images to one size and normalise them with the saved image processor."""
        # The order of axes is stated, because it would be guessed wrongly for images of 1 or 3 pixels a side.
        processed = self.image_processor(
            images=[np.asarray(image) for image in images],
            input_data_format="channels_last",
            return_tensors="pt",
            **options,
        )
        pixels: Tensor = processed["pixel_values"]
        return pixels.to(self.device, self.model.dtype)

    def _check_no_nan(self, *outputs: Tensor) -> None:
        if any(output.isnan().any() for output in outputs):
            raise GroundedError(f"the detector's answer is not a number in {self.model.dtype}; use float32")

    def _select(
        self, boxes: Float[Tensor, "q 4"], scores: Float[Tensor, "q p"], best_token_scores: Float[Tensor, "q p"]
    ) -> Detections:
        """Select detections by the thresholds of the configuration; boxes are xyxy pixels."""
        chosen, phrase_ids = select(
            boxes,
            scores,
            best_token_scores,
            box_threshold=self.config.threshold,
            nms_threshold=self.config.nms_threshold,
            cross_phrase_nms=self.config.cross_phrase_nms,
            max_detections=self.config.max_detections,
        )
        found = (boxes[chosen], scores[chosen], phrase_ids, best_token_scores[chosen, phrase_ids])
        return Detections(*(values.cpu().numpy() for values in found))


def open_inputs(
    images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]
) -> tuple[list[Image.Image], list[tuple[str, ...]]]:
    """Return upright RGB images, and for each of them its phrases.

    Raises:
        ValueError: not one list of phrases per image.
        ImageError: an image is not one.
        PromptError: a text in the place of a sequence of phrases.
    """
    if len(images) != len(phrases):
        raise ValueError(f"phrases must be one list per image, got {len(phrases)} for {len(images)} images")
    for own in phrases:
        if isinstance(own, str):
            raise PromptError(f"the phrases of an image must be a sequence of phrases, got {own!r}")
    return [open_image(image).pixels for image in images], [tuple(own) for own in phrases]


def to_pixels(boxes: Float[Tensor, "q 4"], image_size: tuple[int, int]) -> Float[Tensor, "q 4"]:
    """Return relative cxcywh boxes as xyxy pixels, clipped to an image of (height, width)."""
    height, width = image_size
    scale = boxes.new_tensor([width, height, width, height]).float()
    return clip_boxes(cxcywh_to_xyxy(boxes.float()) * scale, image_size)


def select(
    boxes: Float[Tensor, "q 4"],
    scores: Float[Tensor, "q p"],
    best_token_scores: Float[Tensor, "q p"] | None = None,
    *,
    box_threshold: float,
    nms_threshold: float,
    cross_phrase_nms: float | None = None,
    max_detections: int | None = None,
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Select the queries that become detections, best score first. Each belongs to the phrase that it scores highest.

    Non-maximum suppression within a phrase goes by the scores that the threshold applies to: so a higher threshold
    selects the same as if it were applied to what a lower one has selected.

    Args:
        boxes: xyxy pixels; boxes without area are never selected.
        scores: of each query for each of at least one phrase.
        best_token_scores: of the best token of each phrase; None where a phrase has one score.
        box_threshold: lowest score of the best token of a query's own phrase.
        nms_threshold: box IoU above which the weaker of two detections of one phrase is dropped.
        cross_phrase_nms: the same for detections of different phrases; None keeps both.
        max_detections: most detections; None for all.

    Returns:
        indices of the selected queries, and the phrase index of each.
    """
    own_scores, phrase_ids = scores.max(dim=1)
    best = own_scores if best_token_scores is None else best_token_scores.gather(1, phrase_ids[:, None]).squeeze(1)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    chosen = torch.nonzero(has_area & (best >= box_threshold)).squeeze(1)
    chosen = chosen[batched_nms(boxes[chosen], best[chosen], phrase_ids[chosen], nms_threshold)]
    chosen = chosen[own_scores[chosen].argsort(descending=True, stable=True)]
    if cross_phrase_nms is not None:
        chosen = chosen[nms(boxes[chosen], own_scores[chosen], cross_phrase_nms)]
    chosen = chosen[:max_detections]
    return chosen, phrase_ids[chosen]
