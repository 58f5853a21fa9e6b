"""The mask decoder of Segment Anything for inference: the answers of `MaskDecoder`, in a fraction of the time.

Three things make the difference, each exact but for rounding:

- What the image contributes before any prompt has changed it is computed once per picture (`FastDecoder.share`).
- Attention between tokens and image is absorbed into the tokens (`segany.fast.absorbed_attention`).
- Predicted IoU needs the tokens alone, so it comes first, and only masks that are asked for are upscaled
  (`Proposals.low_res_logits`), on the part of the frame that shows the picture.

The order of work is that of `MaskDecoder` and `TwoWayTransformer`, which are the reference, and used for training.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segany.fast.absorbed_attention import ImageToTokens, SharedImage, TokensToImage, pays
from segany.fast.upscaling import Upscaling
from segany.model import SegAny
from segany.modeling.mask_decoder import output_slice, to_cells
from segany.modeling.transformer import TwoWayBlock
from segany.prompts import Prompts

Extent = tuple[int, int]  # (height, width) in cells


class FastDecoder:
    """Decodes prompts with the weights that `model` has when this is built; rebuild it when they change.

    `dtype` is that of the work on image cells. Tokens, predicted IoU and the resulting logits are float32.
    """

    def __init__(self, model: SegAny, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model, dtype
        transformer = model.mask_decoder.transformer
        self.position_code = model.prompt_encoder.dense_position_code()
        code = to_cells(self.position_code)[0]
        self.blocks = [_Block(layer, code, dtype) for layer in transformer.layers if isinstance(layer, TwoWayBlock)]
        self.final_look = TokensToImage(transformer.final_attn_token_to_image, code, dtype)
        self.upscaling = Upscaling(model.mask_decoder.output_upscaling, dtype)

    @property
    def device(self) -> torch.device:
        return self.position_code.device

    def share(self, features: Float[Tensor, "1 c h w"]) -> SharedImage:
        """What all prompts about one image share, unless they come with a mask prompt."""
        cells = to_cells(features.float() + self.model.prompt_encoder.no_mask_embed.weight[:, :, None, None])
        first = self.blocks[0]
        return SharedImage(
            cells=cells.to(self.dtype),
            keys=first.look.scores.project_image(cells[0]),
            values=first.look.project_values(cells[0]).to(self.dtype),
            queries=first.write.scores.project_image(cells[0]),
        )

    def propose(
        self,
        features: Float[Tensor, "1 c h w"],
        shared: SharedImage,
        prompts: Prompts,
        multimask_output: bool,
        visible: Extent,
    ) -> "Proposals":
        """Answer n > 0 prompts in model-frame pixels, all but the masks themselves.

        Args:
            features: the image embedding.
            shared: `share` of it.
            multimask_output: as for `SegAny.decode`.
            visible: the part of the frame, from the top left, on which masks will be wanted.
        """
        decoder = self.model.mask_decoder
        encoded = self.model.prompt_encoder(prompts)
        tokens, valid = decoder.add_output_tokens(encoded)
        if not pays(tokens.shape[1], decoder.transformer.final_attn_token_to_image):
            tokens, cells = decoder.attend(features.float(), self.position_code, encoded)
        else:
            mask_prompted = prompts.masks is not None
            image = to_cells(features.float() + encoded.dense).to(self.dtype) if mask_prompted else shared
            tokens, cells = self._attend(tokens, image, valid)
        outputs = output_slice(multimask_output)
        return Proposals(
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
        tokens = self.model.mask_decoder.transformer.norm_final_attn(tokens + self.final_look(tokens + code, image))
        return tokens, image


@dataclass(frozen=True, eq=False)
class Proposals:
    """Answers to n prompts whose masks are not computed yet.

    They hold the image as each prompt sees it, some megabytes a prompt: ask for the masks and let go.
    """

    predicted_iou: Float[Tensor, "n m"]
    mask_tokens: Float[Tensor, "n m c"]
    cells: Float[Tensor, "n h w c"]
    visible: Extent
    decoder: FastDecoder
    outputs: range  # which of the model's outputs the m masks are

    def low_res_logits(self, wanted: Bool[Tensor, "n m"]) -> Float[Tensor, "k vh vw"]:
        """Low-resolution logits of the wanted masks, prompt by prompt, on the visible part of the frame, in float32."""
        asked = wanted.any(1)
        height, width = self.visible
        if not bool(asked.any()):
            return self.predicted_iou.new_zeros(0, 4 * height, 4 * width)
        tokens, cells = (x if bool(asked.all()) else x[asked] for x in (self.mask_tokens, self.cells))
        heads = self.decoder.model.mask_decoder.output_hypernetworks_mlps
        kernels = torch.stack([heads[output](tokens[:, i]) for i, output in enumerate(self.outputs)], 1)
        logits = self.decoder.upscaling(cells[:, :height, :width], kernels)
        return logits[wanted[asked]]


class _Block:
    """`TwoWayBlock` with absorbed attention."""

    def __init__(self, block: TwoWayBlock, code: Float[Tensor, "l c"], dtype: torch.dtype) -> None:
        self.block = block
        self.look = TokensToImage(block.cross_attn_token_to_image, code, dtype)
        self.write = ImageToTokens(block.cross_attn_image_to_token, block.norm4, code, dtype)

    def __call__(
        self,
        tokens: Float[Tensor, "n t c"],
        image: SharedImage | Float[Tensor, "n l c"],
        code: Float[Tensor, "n t c"],
        valid: Bool[Tensor, "n t"] | None,
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n l c"]]:
        block = self.block
        tokens = block.norm1(block.attend_to_tokens(tokens, code, valid))
        tokens = block.norm2(tokens + self.look(tokens + code, image))
        tokens = block.norm3(tokens + block.mlp(tokens))
        return tokens, self.write(image, tokens + code, tokens, valid)
