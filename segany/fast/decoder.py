"""The mask decoder of Segment Anything for inference: the results of `MaskDecoder` in a fraction of the time.

Three changes make it fast, each exact up to rounding:

- Projections of the image that do not depend on a prompt are computed once per image (`FastDecoder.project_image`).
- Attention between tokens and image is absorbed into the tokens (`segany.fast.absorbed_attention`).
- Predicted IoU depends on the tokens alone, so it is computed first. Only selected masks are upscaled, and only on the
  part of the model frame that shows the image (`DeferredPrediction.low_res_logits`).

The order of operations is that of `MaskDecoder` and `TwoWayTransformer`, the reference, which is used for training.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segany.fast.absorbed_attention import (
    ImageToTokenAttention,
    SharedImage,
    TokenToImageAttention,
    is_absorbing_cheaper,
)
from segany.fast.upscaling import Upscaling
from segany.model import SegAny
from segany.modeling.hq_decoder import HQMaskDecoder
from segany.modeling.mask_decoder import TwoWayBlock, to_cells
from segany.precision import own_precision
from segany.prompts import Prompts

Extent = tuple[int, int]  # (height, width) in cells of the image embedding


class FastDecoder:
    """Decode prompts with the weights that `model` has when the decoder is built; build a new one when they change.

    Image features are processed in `dtype`. Tokens, predicted IoU and mask logits are float32.
    """

    def __init__(self, model: SegAny, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model, dtype
        transformer = model.mask_decoder.transformer
        self.position_code = model.prompt_encoder.dense_position_code()
        code = to_cells(self.position_code)[0]
        self.blocks = [
            _AbsorbedBlock(layer, code, dtype) for layer in transformer.layers if isinstance(layer, TwoWayBlock)
        ]
        self.final_token_to_image = TokenToImageAttention(transformer.final_attn_token_to_image, code, dtype)
        self.upscaling = Upscaling(model.mask_decoder.output_upscaling, dtype)

    @property
    def device(self) -> torch.device:
        return self.position_code.device

    def project_image(self, features: Float[Tensor, "1 c h w"]) -> SharedImage:
        """Compute the part of decoding that all prompts of one image share, unless they have dense codes."""
        cells = to_cells(features.float() + self.model.prompt_encoder.no_mask_embed.weight[:, :, None, None])
        first = self.blocks[0]
        return SharedImage(
            cells=cells.to(self.dtype),
            keys=first.token_to_image.scores.project_image(cells[0]),
            values=first.token_to_image.project_values(cells[0]).to(self.dtype),
            queries=first.image_to_token.scores.project_image(cells[0]),
        )

    def predict_deferred(
        self,
        features: Float[Tensor, "1 c h w"],
        shared: SharedImage,
        prompts: Prompts,
        multimask_output: bool,
        visible: Extent,
        hq_features: Float[Tensor, "1 k lh lw"] | None = None,
    ) -> "DeferredPrediction":
        """Decode n > 0 prompts in model-frame pixels up to, but not including, the upscaling of the masks.

        Args:
            features: the image embedding.
            shared: the result of `project_image(features)`.
            prompts: n prompts.
            multimask_output: as for `SegAny.decode`.
            visible: the part of the model frame, from the top left, on which masks can be computed later.
            hq_features: of the image, for SAM-HQ alone.

        Raises:
            ValueError: SAM-HQ is given no HQ features.
        """
        decoder = self.model.mask_decoder
        encoded = self.model.prompt_encoder(prompts)
        tokens, valid = decoder.add_output_tokens(encoded)
        if not is_absorbing_cheaper(tokens.shape[1], decoder.transformer.final_attn_token_to_image):
            tokens, cells = decoder.attend(features.float(), self.position_code, encoded)
        else:
            has_dense = self.model.prompt_encoder.has_dense(prompts)
            image = to_cells(features.float() + encoded.dense).to(self.dtype) if has_dense else shared
            tokens, cells = self._attend(tokens, image, valid)
        kernels, predicted_iou = decoder.predict_kernels(tokens, multimask_output)
        return DeferredPrediction(
            predicted_iou=predicted_iou,
            kernels=kernels,
            cells=cells.to(self.dtype).unflatten(1, features.shape[-2:]),
            visible=visible,
            decoder=self,
            fine=self._fine_mask(tokens, hq_features),
        )

    def _fine_mask(
        self, tokens: Float[Tensor, "n t c"], hq_features: Float[Tensor, "1 k lh lw"] | None
    ) -> "FineMask | None":
        decoder = self.model.mask_decoder
        if not isinstance(decoder, HQMaskDecoder):
            return None
        if hq_features is None:
            raise ValueError("SAM-HQ needs the HQ features of the image, see SegAny.encode_image_hq")
        return FineMask(decoder.hq_kernels(tokens), hq_features, decoder)

    def _attend(
        self,
        tokens: Float[Tensor, "n t c"],
        image: SharedImage | Float[Tensor, "n l c"],
        valid: Bool[Tensor, "n t"] | None,
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n l c"]]:
        code = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, code, valid)
        assert isinstance(image, Tensor)
        update = self.final_token_to_image(tokens + code, image)
        return self.model.mask_decoder.transformer.norm_final_attn(tokens + update), image


@dataclass(frozen=True, eq=False)
class DeferredPrediction:
    """The decoder's output for n prompts before the masks are upscaled; `low_res_logits` computes selected masks.

    It holds the image features of every prompt, some megabytes each: compute the masks you need, then delete it.

    predicted_iou  of each of the m masks
    kernels        of the masks, to be applied to the upscaled image
    cells          image features of each prompt, after attention to its tokens
    visible        the part of the model frame on which `low_res_logits` computes masks
    decoder        made this prediction, and upscales the masks
    fine           the mask of high quality, for SAM-HQ
    """

    predicted_iou: Float[Tensor, "n m"]
    kernels: Float[Tensor, "n m k"]
    cells: Float[Tensor, "n h w c"]
    visible: Extent
    decoder: FastDecoder
    fine: "FineMask | None" = None

    @own_precision()
    def low_res_logits(self, selected: Bool[Tensor, "n m"]) -> Float[Tensor, "k vh vw"]:
        """Low-resolution float32 logits of the selected masks, prompt by prompt, on the visible part of the frame."""
        prompts = selected.any(1)
        height, width = self.visible
        if not bool(prompts.any()):
            return self.predicted_iou.new_zeros(0, 4 * height, 4 * width)
        kernels, cells = (x if bool(prompts.all()) else x[prompts] for x in (self.kernels, self.cells))
        if self.fine is not None:
            logits = self.fine.logits(prompts, kernels, cells, self.visible, self.decoder.upscaling)
        else:
            logits = self.decoder.upscaling(cells[:, :height, :width], kernels)
        return logits[selected[prompts]]


@dataclass(frozen=True, eq=False)
class FineMask:
    """What SAM-HQ adds to a prediction: the kernel of each prompt's mask of high quality, and the HQ features."""

    kernels: Float[Tensor, "n 1 k"]
    features: Float[Tensor, "1 k lh lw"]
    decoder: HQMaskDecoder

    def logits(
        self,
        prompts: Bool[Tensor, "n"],
        kernels: Float[Tensor, "p m k"],
        cells: Float[Tensor, "p h w c"],
        visible: Extent,
        upscaling: Upscaling,
    ) -> Float[Tensor, "p m vh vw"]:
        """Logits of the p prompts out of n, on the visible part of the frame.

        The two 3 x 3 convolutions look two pixels beyond it, so one more cell of four pixels is computed and cut off.
        """
        height, width = (min(side, seen + 1) for side, seen in zip(cells.shape[1:3], visible, strict=True))
        features = self.features[:, :, : 4 * height, : 4 * width]
        one_hot = torch.eye(kernels.shape[-1], dtype=torch.float32, device=cells.device)[None]
        parts = []
        # Prompt by prompt, because the upscaled image of one takes megabytes.
        for kernel, fine_kernel, image in zip(
            kernels.split(1), self.kernels[prompts].split(1), cells.split(1), strict=True
        ):
            upscaled = upscaling(image[:, :height, :width], one_hot)
            logits = self.decoder.masks(upscaled, kernel, fine_kernel, features)
            parts.append(logits[:, :, : 4 * visible[0], : 4 * visible[1]])
        return torch.cat(parts)


class _AbsorbedBlock:
    """`TwoWayBlock` with absorbed attention."""

    def __init__(self, block: TwoWayBlock, code: Float[Tensor, "l c"], dtype: torch.dtype) -> None:
        self.block = block
        self.token_to_image = TokenToImageAttention(block.cross_attn_token_to_image, code, dtype)
        self.image_to_token = ImageToTokenAttention(block.cross_attn_image_to_token, block.norm4, code, dtype)

    def __call__(
        self,
        tokens: Float[Tensor, "n t c"],
        image: SharedImage | Float[Tensor, "n l c"],
        code: Float[Tensor, "n t c"],
        valid: Bool[Tensor, "n t"] | None,
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n l c"]]:
        block = self.block
        tokens = block.norm1(block.attend_to_tokens(tokens, code, valid))
        tokens = block.norm2(tokens + self.token_to_image(tokens + code, image))
        tokens = block.norm3(tokens + block.mlp(tokens))
        return tokens, self.image_to_token(image, tokens + code, tokens, valid)
