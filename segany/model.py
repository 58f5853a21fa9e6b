"""SegAny: image encoder, prompt encoder and mask decoder in one module."""

import hashlib
import json

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.modeling.efficientnet_lite import EfficientNetLiteEncoder
from segany.modeling.image_encoder import ImageEncoder
from segany.modeling.mask_decoder import MaskDecoder, output_slice
from segany.modeling.prompt_encoder import PromptEncoder
from segany.modeling.tiny_vit import TinyViT
from segany.prompts import Prompts


class SegAny(nn.Module):
    """Segment Anything (Kirillov et al., 2023), optionally with a text prompt.

    The state dict has the keys of Meta's published checkpoints, or of MobileSAM's if `config.tiny_vit` is set, and
    those of two more modules if `config.text_dim` is set. With `config.efficientnet_lite` the backbone has timm's keys.
    """

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = _build_image_encoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def encode_image(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        """Encode images that were resized, normalised and padded to the square model frame.

        Raises:
            ValueError: the side of the frame is not `config.image_size` pixels.
        """
        side = self.config.image_size
        if pixels.shape[-1] != side:
            raise ValueError(f"pixels must be (b, 3, {side}, {side}), got {tuple(pixels.shape)}")
        return self.image_encoder(pixels.to(next(self.image_encoder.parameters()).dtype))

    def decode(
        self, features: Float[Tensor, "b c h w"], prompts: Prompts, multimask_output: bool | None
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]:
        """Predict low-resolution mask logits and IoU for n prompts in model-frame pixels; differentiable.

        Args:
            features: one image for all prompts (b = 1) or one image per prompt (b = n).
            prompts: n prompts.
            multimask_output: True for the masks of an ambiguous prompt, False for the single mask of an unambiguous
                one, None for all of them with the single mask first, as needed for training.

        Raises:
            ValueError: b is neither 1 nor n.
            PromptError: the prompts do not fit this model.
        """
        n = len(prompts)
        if features.shape[0] not in (1, n):
            raise ValueError(f"features must hold 1 image or one for each of {n} prompts, got {features.shape[0]}")
        features = features.to(self.mask_decoder.mask_tokens.weight.dtype)
        if n == 0:
            outputs = len(range(1 + self.config.num_multimask_outputs)[output_slice(multimask_output)])
            side = self.config.low_res_size
            return features.new_zeros(0, outputs, side, side), features.new_zeros(0, outputs)
        position_code = self.prompt_encoder.dense_position_code().to(features.dtype)
        return self.mask_decoder(features, position_code, self.prompt_encoder(prompts), multimask_output)

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
