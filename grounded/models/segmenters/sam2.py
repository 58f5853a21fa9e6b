"""SAM 2 and SAM 2.1 (Ravi et al., 2024) as a segmenter for images, by the network of transformers."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grounded.errors import PromptError
from grounded.models.sam2_checkpoint import SAM2_IMAGE, load_checkpoint, model_size
from segany import ForeignEmbeddingError, MaskPrediction, Prompts
from segany.precision import own_precision, resolve_dtype
from segany.utils.images import ImageLike, read_image
from segany.utils.points import NO_POINT
from segany.utils.transforms import ResizeFrame

# Prompts decoded together: each has its own copy of the image features, 12 MB in the published models.
_PROMPTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Sam2Embedding:
    """The embedding of one image.

    features       feature maps from fine to coarse, (1, c, h, w) each, in float32
    original_size  (height, width) of the image in pixels
    fingerprint    of the model that made the embedding; no other model can use it
    """

    features: tuple[Float[Tensor, "1 _ _ _"], ...]
    original_size: tuple[int, int]
    fingerprint: str


class Sam2Segmenter:
    """A `MaskPromptable` segmenter. It keeps nothing of an image between calls.

    Args:
        model: a `Sam2Model` of transformers, in eval mode, on its device.
        image_processor: makes its input.
        dtype: of the image encoder; everything else is computed in float32.
        compile: compile the image encoder on first use, which takes minutes and needs a C++ compiler.
    """

    def __init__(
        self, model: Any, image_processor: Any, dtype: torch.dtype = torch.float32, compile: bool = False
    ) -> None:
        self.model, self.image_processor = model, image_processor
        self.dtype, self.compile = dtype, compile
        self.image_size = model_size(model)
        self.fingerprint = _fingerprint(model)
        encode = model.get_image_embeddings
        self._encode = torch.compile(encode, dynamic=False) if compile else encode

    @classmethod
    @own_precision()
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        compile: bool = False,
    ) -> "Sam2Segmenter":
        """Load a checkpoint: a folder in the layout of the Hugging Face hub, one of Meta's `.pt` files, or a hub id.

        Raises:
            CheckpointError: files are missing, damaged or unreachable, or the weights do not fill the model.
            ConfigError: there are no bundled weights.
        """
        model, image_processor = load_checkpoint(source, SAM2_IMAGE)
        return cls(model.to(device), image_processor, resolve_dtype(dtype, device), compile)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    @own_precision()
    def encode(self, image: ImageLike) -> Sam2Embedding:
        """Encode one image, which is resized to a square as SAM 2 does, whatever its aspect ratio.

        Raises:
            ImageError: the image cannot be read.
        """
        pixels = read_image(image).pixels
        processed = self.image_processor(
            images=[np.array(pixels)],
            input_data_format="channels_last",
            size={"height": self.image_size, "width": self.image_size},
            return_tensors="pt",
        )
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features = self._encode(processed["pixel_values"].to(self.device))
        return Sam2Embedding(tuple(map_.float() for map_ in features), (pixels.height, pixels.width), self.fingerprint)

    @torch.no_grad()
    @own_precision()
    def predict(self, embedding: Sam2Embedding, prompts: Prompts, multimask_output: bool = True) -> MaskPrediction:
        """Predict the masks of n independent prompts, which are given in original pixels.

        Args:
            embedding: from `encode` of this model.
            prompts: points, boxes and masks, in any combination; n may be 0.
            multimask_output: three masks for ambiguous prompts, or one mask.

        Raises:
            ForeignEmbeddingError: the embedding was made by another model.
            PromptError: the prompts hold text, for which SAM 2 has no prompt.
        """
        frame = self._frame(embedding)
        if prompts.text is not None:
            raise PromptError("SAM 2 has no text prompt: use points, boxes or masks")
        prompts = prompts.to(self.device)
        side = self.model.prompt_encoder.mask_input_size[0]
        count = self.model.config.mask_decoder_config.num_multimask_outputs if multimask_output else 1
        logits = torch.zeros(len(prompts), count, side, side, device=self.device)
        predicted_iou = torch.zeros(len(prompts), count, device=self.device)
        for rows, points, labels in _alike(prompts):
            part = prompts[rows]
            output = self.model(
                image_embeddings=[map_.to(self.device).expand(len(rows), -1, -1, -1) for map_ in embedding.features],
                input_points=None if points is None else frame.resize_points(points)[:, None],
                input_labels=None if labels is None else labels[:, None],
                input_boxes=None if part.boxes is None else frame.resize_boxes(part.boxes)[:, None],
                input_masks=part.masks,
                multimask_output=multimask_output,
            )
            logits[rows], predicted_iou[rows] = output.pred_masks[:, 0], output.iou_scores[:, 0]
        # The logits cover the image alone, and SAM 2 resizes them to it in one step.
        return MaskPrediction(logits, predicted_iou, embedding.original_size, (side, side), side)

    @torch.no_grad()
    @own_precision()
    def mask_prompts(
        self, embedding: Sam2Embedding, masks: Float[Tensor, "n h w"] | Bool[Tensor, "n h w"]
    ) -> Float[Tensor, "n 1 l l"]:
        """Return masks of the whole original image, as logits or bool at any resolution, as mask prompts.

        Raises:
            ForeignEmbeddingError: the embedding was made by another model.
            PromptError: the masks have no pixel.
        """
        if 0 in masks.shape[1:]:
            raise PromptError(f"masks must be (n, h, w) with at least one pixel each, got {tuple(masks.shape)}")
        return self._frame(embedding).mask_prompts(masks.to(self.device), self.model.prompt_encoder.mask_input_size[0])

    def _frame(self, embedding: Sam2Embedding) -> ResizeFrame:
        if embedding.fingerprint != self.fingerprint:
            raise ForeignEmbeddingError(
                f"the embedding was made by model {embedding.fingerprint}, this segmenter is {self.fingerprint}"
            )
        return ResizeFrame(embedding.original_size, (self.image_size, self.image_size), self.image_size)


def _alike(
    prompts: Prompts,
) -> Iterator[tuple[Int[Tensor, "k"], Float[Tensor, "k p 2"] | None, Int[Tensor, "k p"] | None]]:
    """Yield the rows of prompts that have equally many points, a few at a time, with these points.

    Padding would not be without effect: the network has a token for each point, also for one that means nothing.
    """
    points, labels = prompts.points, prompts.point_labels
    every = torch.arange(len(prompts))
    if points is None or labels is None:
        yield from ((rows, None, None) for rows in every.split(_PROMPTS_AT_ONCE) if len(rows))
        return
    is_point = labels != NO_POINT
    counts = is_point.sum(1).cpu()
    for count in counts.unique().tolist():
        for rows in every[counts == count].split(_PROMPTS_AT_ONCE):
            chosen = is_point[rows]
            if count == 0:
                yield rows, None, None
            else:
                shape = (len(rows), count)
                yield rows, points[rows][chosen].unflatten(0, shape), labels[rows][chosen].unflatten(0, shape)


def _fingerprint(model: Any) -> str:
    """A short hash of the weights, in a second per gigabyte."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
