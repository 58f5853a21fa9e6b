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
from segany.modeling.mask_decoder import TwoWayBlock, output_slice, to_cells
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
        """Compute the part of decoding that all prompts of one image share, unless they have a mask prompt."""
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
    ) -> "DeferredPrediction":
        """Decode n > 0 prompts in model-frame pixels up to, but not including, the upscaling of the masks.

        Args:
            features: the image embedding.
            shared: the result of `project_image(features)`.
            prompts: n prompts.
            multimask_output: as for `SegAny.decode`.
            visible: the part of the model frame, from the top left, on which masks can be computed later.
        """
        decoder = self.model.mask_decoder
        encoded = self.model.prompt_encoder(prompts)
        tokens, valid = decoder.add_output_tokens(encoded)
        if not is_absorbing_cheaper(tokens.shape[1], decoder.transformer.final_attn_token_to_image):
            tokens, cells = decoder.attend(features.float(), self.position_code, encoded)
        else:
            has_mask_prompt = prompts.masks is not None
            image = to_cells(features.float() + encoded.dense).to(self.dtype) if has_mask_prompt else shared
            tokens, cells = self._attend(tokens, image, valid)
        outputs = output_slice(multimask_output)
        return DeferredPrediction(
            predicted_iou=decoder.iou_prediction_head(tokens[:, 0])[:, outputs],
            mask_tokens=tokens[:, 1 : 1 + len(decoder.output_hypernetworks_mlps)][:, outputs],
            cells=cells.to(self.dtype).unflatten(1, features.shape[-2:]),
            visible=visible,
            decoder=self,
            outputs=range(len(decoder.output_hypernetworks_mlps))[outputs],
        )

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
    mask_tokens    output tokens of the masks
    cells          image features of each prompt, after attention to its tokens
    visible        the part of the model frame on which `low_res_logits` computes masks
    decoder        made this prediction, and upscales the masks
    outputs        indices of the m masks among the model's mask outputs
    """

    predicted_iou: Float[Tensor, "n m"]
    mask_tokens: Float[Tensor, "n m c"]
    cells: Float[Tensor, "n h w c"]
    visible: Extent
    decoder: FastDecoder
    outputs: range

    def low_res_logits(self, selected: Bool[Tensor, "n m"]) -> Float[Tensor, "k vh vw"]:
        """Low-resolution float32 logits of the selected masks, prompt by prompt, on the visible part of the frame."""
        prompts = selected.any(1)
        height, width = self.visible
        if not bool(prompts.any()):
            return self.predicted_iou.new_zeros(0, 4 * height, 4 * width)
        tokens, cells = (x if bool(prompts.all()) else x[prompts] for x in (self.mask_tokens, self.cells))
        heads = self.decoder.model.mask_decoder.output_hypernetworks_mlps
        kernels = torch.stack([heads[output](tokens[:, i]) for i, output in enumerate(self.outputs)], 1)
        logits = self.decoder.upscaling(cells[:, :height, :width], kernels)
        return logits[selected[prompts]]


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
