"""What the detectors on `transformers` have in common: loading, input, and scores that become detections."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from grounded.data.detections import Detections
from grounded.data.image import ImageLike
from grounded.errors import GroundedError
from grounded.models.detectors.checkpoint import Family, load_parts
from grounded.models.detectors.inputs import open_inputs
from grounded.models.detectors.postprocess import select
from grounded.settings import DetectorConfig

_Self = TypeVar("_Self", bound="HubDetector")


class HubDetector(ABC):
    """A `Detector` out of a folder in the layout of the Hugging Face hub. It keeps nothing of pictures between calls.

    Args:
        model: a network of `transformers`, in eval mode, on its device.
        image_processor: its saved image processor.
        tokenizer: its tokenizer.
        config: thresholds and picture size; `kind` and `checkpoint` are not looked at.
        batch_size: most passes in one forward, which is what memory grows with.
        name: what results state as their detector; None for the family's.
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

    @classmethod
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
        model, image_processor, tokenizer = load_parts(source, dtype, cls.family)
        network = cls._prepared(model, config).to(device)
        return cls(network, image_processor, tokenizer, config, batch_size, name=str(source))

    @classmethod
    def _prepared(cls, model: nn.Module, config: DetectorConfig) -> nn.Module:
        """A network that was just loaded, with such parts exchanged as can be bettered."""
        return model

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
            b Detections in pixels of their pictures, best first; p may differ between pictures.

        Raises:
            ValueError: not one list of phrases per picture.
            ImageError: a picture is not one.
            PromptError: a phrase has no word, or is too long for the detector: it is not cut, because a detection's
                label is the phrase, and a phrase that lost its end would be another phrase.
        """
        return self._search(*open_inputs(images, phrases))

    @abstractmethod
    def _search(self, pictures: Sequence[Image.Image], asked: Sequence[tuple[str, ...]]) -> list[Detections]:
        """Find the phrases that were asked of each picture."""

    def _pixels(self, pictures: Sequence[Image.Image], **options: Any) -> Float[Tensor, "b 3 h w"]:
        """Resized to one size and normalised by the saved image processor."""
        # The order of axes is stated, because it would be guessed wrongly for pictures of 1 or 3 pixels a side.
        processed = self.image_processor(
            images=[np.asarray(picture) for picture in pictures],
            input_data_format="channels_last",
            return_tensors="pt",
            **options,
        )
        pixels: Tensor = processed["pixel_values"]
        return pixels.to(self.device, self.model.dtype)

    def _check_answer(self, *answers: Tensor) -> None:
        if any(answer.isnan().any() for answer in answers):
            raise GroundedError(f"the detector's answer is not a number in {self.model.dtype}; use float32")

    def _select(self, boxes: Float[Tensor, "q 4"], scores: Float[Tensor, "q p"]) -> Detections:
        """The queries that become detections; boxes in pixels."""
        chosen, phrase_ids = select(
            boxes,
            scores,
            box_threshold=self.config.box_threshold,
            nms_threshold=self.config.nms_threshold,
            cross_phrase_nms=self.config.cross_phrase_nms,
            max_detections=self.config.max_detections,
        )
        return Detections(boxes[chosen].cpu().numpy(), scores[chosen].cpu().numpy(), phrase_ids.cpu().numpy())
