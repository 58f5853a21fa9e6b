"""The mask decoder of SAM-HQ: Segment Anything's with one more output token, whose mask sees finer image features.

Follows Ke et al., "Segment Anything in High Quality", section 3. Parameter names are those of published checkpoints.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.fast.upscaling import UpscalingWeights, upscale
from segany.modeling.layers import MLP, LayerNorm2d
from segany.modeling.mask_decoder import MaskDecoder
from segany.modeling.prompt_encoder import PromptTokens


class HQMaskDecoder(MaskDecoder):
    """Predict one mask of high quality, alone or added to the mask of Segment Anything.

    There is one mask of each prompt also where several are asked for: of those the one with the highest predicted IoU.
    """

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__(config)
        dim, out_dim = config.prompt_dim, config.prompt_dim // 8
        self.hq_token_only = config.hq_token_only
        self.hf_token = nn.Embedding(1, dim)
        self.hf_mlp = MLP(dim, dim, out_dim, depth=3)
        self.compress_vit_feat = _upscaling(config.early_dim, dim, out_dim)
        self.embedding_encoder = _upscaling(dim, dim // 4, out_dim)
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(out_dim, dim // 4, kernel_size=3, padding=1),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, out_dim, kernel_size=3, padding=1),
        )

    @property
    def output_tokens(self) -> Float[Tensor, "t c"]:
        """IoU, masks, then the token of high quality."""
        return torch.cat([super().output_tokens, self.hf_token.weight])

    def fuse(self, features: Float[Tensor, "b c h w"], early: Float[Tensor, "b e h w"]) -> Float[Tensor, "b k 4*h 4*w"]:
        """Fuse the image embedding with the early features of the encoder to the HQ features, once per image."""
        return self.embedding_encoder(features) + self.compress_vit_feat(early)

    def forward(
        self,
        features: Float[Tensor, "#n c h w"],
        position_code: Float[Tensor, "#n c h w"],
        prompts: PromptTokens,
        multimask_output: bool | None,
        hq_features: Float[Tensor, "#n k lh lw"] | None = None,
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]:
        """As for `MaskDecoder`, with the result of `fuse`. m is 1 unless `multimask_output` is None.

        Raises:
            ValueError: there are no `hq_features`.
        """
        if hq_features is None:
            raise ValueError("SAM-HQ needs the HQ features of the image, see SegAny.encode_image_hq")
        tokens, cells = self.attend(features, position_code, prompts)
        kernels, predicted_iou = self.predict_kernels(tokens, multimask_output)
        cells = cells.unflatten(1, features.shape[-2:])
        one_hot = torch.eye(kernels.shape[-1], dtype=cells.dtype, device=cells.device)
        upscaled = upscale(cells, one_hot.expand(len(cells), -1, -1), UpscalingWeights.of(self.output_upscaling))
        return self.masks(upscaled, kernels, self.hq_kernels(tokens), hq_features), predicted_iou

    def predict_kernels(
        self, tokens: Float[Tensor, "n t c"], multimask_output: bool | None
    ) -> tuple[Float[Tensor, "n m k"], Float[Tensor, "n m"]]:
        """As for `MaskDecoder`; of several masks the best alone."""
        kernels, predicted_iou = super().predict_kernels(tokens, multimask_output)
        if multimask_output:
            best: Int[Tensor, "n 1"] = predicted_iou.argmax(dim=1, keepdim=True)
            predicted_iou = predicted_iou.gather(1, best)
            kernels = kernels.gather(1, best[:, :, None].expand(-1, -1, kernels.shape[2]))
        return kernels, predicted_iou

    def hq_kernels(self, tokens: Float[Tensor, "n t c"]) -> Float[Tensor, "n 1 k"]:
        """The kernel of the mask of high quality, for each prompt."""
        return self.hf_mlp(tokens[:, 1 + len(self.output_hypernetworks_mlps)])[:, None]

    def masks(
        self,
        upscaled: Float[Tensor, "n k lh lw"],
        kernels: Float[Tensor, "n m k"],
        hq_kernels: Float[Tensor, "n 1 k"],
        hq_features: Float[Tensor, "#n k lh lw"],
    ) -> Float[Tensor, "n m lh lw"]:
        """Mask logits from the upscaled image of each prompt."""
        fine = self.embedding_maskfeature(upscaled) + hq_features
        logits = torch.einsum("nmk,nkyx->nmyx", hq_kernels, fine).expand(-1, kernels.shape[1], -1, -1)
        return logits if self.hq_token_only else logits + torch.einsum("nmk,nkyx->nmyx", kernels, upscaled)

    def count_outputs(self, multimask_output: bool | None) -> int:
        return super().count_outputs(None) if multimask_output is None else 1


def _upscaling(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two transposed convolutions, each of which doubles the resolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_dim, hidden_dim, kernel_size=2, stride=2),
        LayerNorm2d(hidden_dim),
        nn.GELU(),
        nn.ConvTranspose2d(hidden_dim, out_dim, kernel_size=2, stride=2),
    )
