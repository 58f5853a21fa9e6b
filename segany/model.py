"""SegAny: image encoder, prompt encoder and mask decoder in one module."""

import hashlib
import json
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.modeling.efficientnet_lite import EfficientNetLiteEncoder
from segany.modeling.hq_decoder import HQMaskDecoder
from segany.modeling.image_encoder import ImageEncoder
from segany.modeling.mask_decoder import MaskDecoder
from segany.modeling.prompt_encoder import PromptEncoder
from segany.modeling.tiny_vit import TinyViT
from segany.prompts import Prompts


class SegAny(nn.Module):
    """Segment Anything (Kirillov et al., 2023), optionally with a text prompt.

    The state dict has the keys of Meta's published checkpoints, or of MobileSAM's if `config.tiny_vit` is set, and
    those of two more modules if `config.text_dim` is set. With `config.efficientnet_lite` the backbone has timm's keys.
    With `config.hq` it is SAM-HQ (Ke et al., 2023), and `encode_image_hq` takes the place of `encode_image`.
    """

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = _build_image_encoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = HQMaskDecoder(config) if config.hq else MaskDecoder(config)
        # The arguments with which `segany.load` loaded these weights, so that another process can load them too.
        self.loaded_with: dict[str, Any] | None = None

    def encode_image(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        """Encode images that were resized, normalised and padded to the square model frame.

        Raises:
            ValueError: the side of the frame is not `config.image_size` pixels.
        """
        return self.image_encoder(self._as_input(pixels))

    def encode_image_hq(
        self, pixels: Float[Tensor, "b 3 s s"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k lh lw"] | None]:
        """As `encode_image`, with the HQ features that the decoder of SAM-HQ needs too; None for other models.

        Raises:
            ValueError: the side of the frame is not `config.image_size` pixels.
        """
        if not isinstance(self.mask_decoder, HQMaskDecoder):
            return self.encode_image(pixels), None
        assert isinstance(self.image_encoder, ImageEncoder | TinyViT)  # as the configuration has checked
        features, early = self.image_encoder.forward_early(self._as_input(pixels))
        assert early is not None
        dtype = self.mask_decoder.mask_tokens.weight.dtype
        return features, self.mask_decoder.fuse(features.to(dtype), early.to(dtype))

    def _as_input(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        side = self.config.image_size
        if pixels.shape[-1] != side:
            raise ValueError(f"pixels must be (b, 3, {side}, {side}), got {tuple(pixels.shape)}")
        return pixels.to(next(self.image_encoder.parameters()).dtype)

    def decode(
        self,
        features: Float[Tensor, "b c h w"],
        prompts: Prompts,
        multimask_output: bool | None,
        hq_features: Float[Tensor, "b k lh lw"] | None = None,
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]:
        """Predict low-resolution mask logits and IoU for n prompts in model-frame pixels; differentiable.

        Args:
            features: one image for all prompts (b = 1) or one image per prompt (b = n).
            prompts: n prompts.
            multimask_output: True for the masks of an ambiguous prompt, False for the single mask of an unambiguous
                one, None for all of them with the single mask first, as needed for training.
            hq_features: those of the same images, for SAM-HQ alone.

        Raises:
            ValueError: b is neither 1 nor n, or SAM-HQ is given no HQ features.
            PromptError: the prompts do not fit this model.
        """
        n = len(prompts)
        if features.shape[0] not in (1, n):
            raise ValueError(f"features must hold 1 image or one for each of {n} prompts, got {features.shape[0]}")
        features = features.to(self.mask_decoder.mask_tokens.weight.dtype)
        if n == 0:
            outputs = self.mask_decoder.count_outputs(multimask_output)
            side = self.config.low_res_size
            return features.new_zeros(0, outputs, side, side), features.new_zeros(0, outputs)
        position_code = self.prompt_encoder.dense_position_code().to(features.dtype)
        fine = {"hq_features": hq_features} if self.config.hq else {}
        return self.mask_decoder(features, position_code, self.prompt_encoder(prompts), multimask_output, **fine)

    def fingerprint(self) -> str:
        """Short hash of configuration and weights. Models with the same fingerprint have interchangeable embeddings.

        Reads every weight, about a second per gigabyte: compute it once and store it.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


def _build_image_encoder(config: SegAnyConfig) -> nn.Module:
    if config.tiny_vit is not None:
        return TinyViT(config)
    return ImageEncoder(config) if config.efficientnet_lite is None else EfficientNetLiteEncoder(config)
