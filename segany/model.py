"""SegAny: the image encoder, the prompt encoder and the mask decoder in one module."""

import hashlib
import json

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.modeling.image_encoder import ImageEncoder
from segany.modeling.mask_decoder import MaskDecoder, output_slice
from segany.modeling.prompt_encoder import PromptEncoder
from segany.modeling.tiny_vit import TinyViT
from segany.prompts import Prompts


class SegAny(nn.Module):
    """Segment Anything (Kirillov et al., 2023), optionally with a text prompt.

    Its state dict has the keys of Meta's published checkpoints, or of MobileSAM's where `config.tiny_vit` is set, and
    two more modules where `config.text_dim` is set.
    """

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config) if config.tiny_vit is None else TinyViT(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def encode_image(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        """Embed pixels that were resized, normalised and padded to the square model frame.

        Raises ValueError where the frame is not `config.image_size` pixels a side.
        """
        side = self.config.image_size
        if pixels.shape[-1] != side:
            raise ValueError(f"pixels must be (b, 3, {side}, {side}), got {tuple(pixels.shape)}")
        return self.image_encoder(pixels.to(next(self.image_encoder.parameters()).dtype))

    def decode(
        self, features: Float[Tensor, "b c h w"], prompts: Prompts, multimask_output: bool | None
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]:
        """Answer n prompts in model-frame pixels with low-resolution mask logits and predicted IoU; differentiable.

        `features` is one image for all prompts (b = 1) or one image per prompt (b = n).
        `multimask_output`: True for the masks of an ambiguous prompt, False for the single mask of an unambiguous one,
        None for all of them, the single one first, as training needs.

        Raises ValueError where b is neither 1 nor n, and PromptError for prompts that do not fit this model.
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
        """Short hash of configuration and weights. Two models with the same one give interchangeable embeddings.

        Reads every weight (about a second per gigabyte): compute it once and keep it.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]
