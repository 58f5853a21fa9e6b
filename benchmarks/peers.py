"""segany and the two public implementations of Segment Anything on the same random weights, behind one interface.

Automatic masks start from an embedding that is there already, so that the encoder is timed once and by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from torch import Tensor, nn
from transformers import SamConfig, SamImageProcessor, SamModel, SamVisionConfig
from transformers.pipelines.mask_generation import MaskGenerationPipeline

from segany import PRESETS, AutomaticMaskGenerator, Predictor, Prompts, SegAny
from segany.state_dict import from_hugging_face
from segany.utils.rle import RLE


@dataclass(frozen=True)
class Found:
    """Automatic masks: where each came from, and its run lengths; no points where the peer does not tell them."""

    points: np.ndarray | None  # (n, 2)
    rles: list[RLE]


class Peer(Protocol):
    name: str

    def encode(self) -> Tensor: ...  # (1, c, h, w)
    def decode(self, points: np.ndarray) -> Tensor: ...  # (n, 2) -> low-resolution logits (n, 3, h, w)
    def automatic(self, points_per_side: int, pred_iou_thresh: float) -> Found: ...


def random_weights(preset: str) -> tuple[SamModel, dict[str, Tensor]]:
    """A model of transformers with random weights, and those weights under Meta's names.

    Plain initial weights give every point the same mask; with some more noise masks and scores vary.
    """
    torch.manual_seed(0)
    config = PRESETS[preset]
    vision = SamVisionConfig(
        hidden_size=config.encoder_dim,
        num_hidden_layers=config.encoder_depth,
        num_attention_heads=config.encoder_heads,
        global_attn_indexes=list(config.global_blocks),
        initializer_range=0.02,
    )
    settings = SamConfig(vision_config=vision)
    settings.mask_decoder_config.layer_norm_eps = 1e-5  # as in the published implementation
    model = SamModel(settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("mask_decoder") and parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif parameter.ndim == 2 and "rel_pos" in name:
                nn.init.normal_(parameter, std=0.02)
        # Scores above zero: a threshold of zero or less means no filter.
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(1.0)
    return model, from_hugging_face(model.state_dict())


class Segany:
    """This package, with `dtype` for the work on the image."""

    def __init__(
        self,
        state: dict[str, Tensor],
        preset: str,
        image: Image.Image,
        device: str,
        dtype: torch.dtype,
        compile: bool = False,
    ) -> None:
        model = SegAny(PRESETS[preset]).eval()
        model.load_state_dict(state)
        model.image_encoder.to(dtype)
        self.name = f"segany {str(dtype).removeprefix('torch.')}" + (", compiled" if compile else "")
        self.image, self.predictor = image, Predictor(model.to(device), compile=compile)
        self.embedding = self.predictor.encode(image)

    def encode(self) -> Tensor:
        return self.predictor.encode(self.image).features

    def decode(self, points: np.ndarray) -> Tensor:
        return self.predictor.predict(self.embedding, _prompts(points)).low_res_logits

    def scores(self, points: np.ndarray) -> Tensor:
        """Predicted IoU (n, 3) alone."""
        parts = self.predictor.predict_deferred(self.embedding, _prompts(points))
        return torch.cat([part.predicted_iou for part in parts])

    def automatic(self, points_per_side: int, pred_iou_thresh: float) -> Found:
        generator = AutomaticMaskGenerator(
            self.predictor,
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=0,
            box_nms_thresh=1.0,
        )
        found = generator.generate(self.image, embedding=self.embedding)
        return Found(found.points.numpy(), list(found.rles))


class SegmentAnything:
    """The package `segment-anything` 1.0."""

    name = "segment-anything"

    def __init__(self, state: dict[str, Tensor], preset: str, image: Image.Image, device: str) -> None:
        model = sam_model_registry[preset]()
        model.load_state_dict(state)
        self.array, self.predictor = np.asarray(image), SamPredictor(model.eval().to(device))
        self.predictor.set_image(self.array)

    def encode(self) -> Tensor:
        self.predictor.set_image(self.array)
        return self.predictor.get_image_embedding()

    def decode(self, points: np.ndarray) -> Tensor:
        coordinates = self.predictor.transform.apply_coords(points, self.array.shape[:2])
        given = torch.as_tensor(coordinates, dtype=torch.float32, device=self.predictor.device)[:, None]
        labels = torch.ones(given.shape[:2], dtype=torch.int, device=given.device)
        # `predict_torch` also brings every mask to full size, which the others do not do here.
        sparse, dense = self.predictor.model.prompt_encoder((given, labels), None, None)
        with torch.no_grad():
            return self.predictor.model.mask_decoder(
                image_embeddings=self.predictor.features,
                image_pe=self.predictor.model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )[0]

    def automatic(self, points_per_side: int, pred_iou_thresh: float) -> Found:
        generator = SamAutomaticMaskGenerator(
            self.predictor.model,
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=0,
            box_nms_thresh=1.0,
            output_mode="coco_rle",
        )
        generator.predictor = _EncodedBefore(self.predictor)
        found = generator.generate(self.array)
        points = np.array([record["point_coords"][0] for record in found]).reshape(-1, 2)
        return Found(points, [record["segmentation"] for record in found])


class Transformers:
    """`SamModel` and the mask-generation pipeline of the package `transformers`."""

    name = "transformers"

    def __init__(self, model: SamModel, image: Image.Image, device: str) -> None:
        self.image, self.model, self.processor = image, model.to(device), SamImageProcessor()
        self.embedding = self.encode()

    @torch.no_grad()
    def encode(self) -> Tensor:
        pixels = self.processor(self.image, return_tensors="pt")["pixel_values"].to(self.model.device)
        return self.model.get_image_embeddings(pixels)

    @torch.no_grad()
    def decode(self, points: np.ndarray) -> Tensor:
        scale = 1024 / max(self.image.size)
        given = torch.as_tensor(points * scale, dtype=torch.float32, device=self.model.device)[None, :, None]
        labels = torch.ones(given.shape[:3], dtype=torch.int, device=given.device)
        return self.model(image_embeddings=self.embedding, input_points=given, input_labels=labels).pred_masks[0]

    def automatic(self, points_per_side: int, pred_iou_thresh: float) -> Found:
        pipeline = MaskGenerationPipeline(model=self.model, image_processor=self.processor, device=self.model.device)
        encode: Callable[..., Any] = self.model.get_image_embeddings
        self.model.get_image_embeddings = lambda *_: self.embedding
        try:
            found = pipeline(
                self.image,
                points_per_crop=points_per_side,
                points_per_batch=64,
                pred_iou_thresh=pred_iou_thresh,
                stability_score_thresh=0,
                crops_nms_thresh=1.0,
                output_rle_mask=True,
            )
        finally:
            self.model.get_image_embeddings = encode
        return Found(None, found["rle_mask"])


class _EncodedBefore:
    """A `SamPredictor` that keeps the image it has."""

    def __init__(self, predictor: SamPredictor) -> None:
        self._predictor = predictor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def set_image(self, image: np.ndarray) -> None: ...
    def reset_image(self) -> None: ...


def _prompts(points: np.ndarray) -> Prompts:
    return Prompts(points=points[:, None].astype(np.float32), point_labels=np.ones((len(points), 1), np.int64))
