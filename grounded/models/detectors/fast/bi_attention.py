"""Grounding DINO's bi-attention between image and text, with the projections of the image absorbed into the text.

Each of the n feature vectors of an image (ten thousand) and each of the t tokens of a prompt (ten) attend to one
another with the same h heads of width d. As `transformers` has it, every feature vector v of width c is projected to a
query, to a value and back, three products of n · c · hd. But a product may be taken in any order, and the side of the
tokens is small:

    scores       (v Wq + bq) · k  =  v · (Wq k) + bq · k
    text side    sum_n a_n (v_n Wv + bv)  =  (sum_n a_n v_n) Wv + bv        since the weights a sum to 1
    image side   (sum_t a_t u_t) Wo  =  sum_t a_t (u_t Wo)

for each head, with k the key and u the value of a token, and Wo that head's rows of the output projection. What is left
over the image are three products of n · c · ht. Exact but for rounding.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoBiMultiHeadAttention
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import MMGroundingDinoBiMultiHeadAttention

from grounded.models.detectors.fast import replace_modules

_REPLACED = (GroundingDinoBiMultiHeadAttention, MMGroundingDinoBiMultiHeadAttention)
# Of logits below the highest one, as `transformers` has it: half precision has no room for more.
_LOWEST = -50000.0


class AbsorbedBiAttention(GroundingDinoBiMultiHeadAttention):
    """Bi-attention with the parameters of the plain one, the same interface, and the same output.

    It computes the plain form while training, because there is dropout then, and for prompts so long that absorbing is
    not cheaper. MM Grounding DINO has a class of its own with the same formulas.
    """

    def __init__(self, plain: GroundingDinoBiMultiHeadAttention | MMGroundingDinoBiMultiHeadAttention):
        nn.Module.__init__(self)
        self.embed_dim, self.num_heads, self.head_dim = plain.embed_dim, plain.num_heads, plain.head_dim
        self.vision_dim, self.text_dim = plain.vision_dim, plain.text_dim
        self.scale, self.dropout = plain.scale, plain.dropout
        self.vision_proj, self.text_proj = plain.vision_proj, plain.text_proj
        self.values_vision_proj, self.values_text_proj = plain.values_vision_proj, plain.values_text_proj
        self.out_vision_proj, self.out_text_proj = plain.out_vision_proj, plain.out_text_proj
        self.train(plain.training)

    def is_cheaper(self, locations: int, tokens: int) -> bool:
        """Whether absorbing takes fewer multiplications, for n = `locations` and t = `tokens`.

        Plain are 3 (nc·hd + tc·hd + nt·hd), absorbed 3 (nt·hc + 2 tc·hd).
        """
        width, joint = self.vision_dim, self.embed_dim
        saved = locations * width * joint
        added = tokens * (locations * (self.num_heads * width - joint) + width * joint)
        return saved > added

    def forward(
        self,
        vision_features: Float[Tensor, "b n c"],
        text_features: Float[Tensor, "b t e"],
        vision_attention_mask: Bool[Tensor, "b n"] | None = None,
        text_attention_mask: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Let image and text attend to each other.

        Args:
            vision_features: of the image.
            text_features: of the prompt.
            vision_attention_mask: True where the image is padded.
            text_attention_mask: True where the prompt is padded.

        Returns:
            for the image its output (b, n, c) and the weights (b h, n, t), for the text its output (b, t, e) and the
            weights (b h, t, n).
        """
        if self.training or not self.is_cheaper(vision_features.shape[1], text_features.shape[1]):
            plain: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] = super().forward(
                vision_features, text_features, vision_attention_mask, text_attention_mask
            )
            return plain
        logits = self._logits(vision_features, text_features)  # (b, h, t, n)
        over_text = _softmax(logits, None if text_attention_mask is None else text_attention_mask[:, None, :, None], 2)
        over_image = _softmax(
            logits, None if vision_attention_mask is None else vision_attention_mask[:, None, None, :], 3
        )
        image = self._image_output(over_text, text_features)
        text = self._text_output(over_image, vision_features)
        return (image, over_text.flatten(0, 1).transpose(1, 2)), (text, over_image.flatten(0, 1))

    def _logits(self, vision: Float[Tensor, "b n c"], text: Float[Tensor, "b t e"]) -> Float[Tensor, "b h t n"]:
        keys = self._split(self.text_proj(text)) * self.scale  # (b, h, t, d)
        weight, bias = self._by_head(self.vision_proj)
        absorbed = keys @ weight  # (b, h, t, c)
        logits = (absorbed.flatten(1, 2) @ vision.transpose(1, 2)).view(*absorbed.shape[:3], -1)
        logits = logits + keys @ bias[..., None]
        return (logits - logits.max()).clamp_(min=_LOWEST)

    def _image_output(self, weights: Float[Tensor, "b h t n"], text: Float[Tensor, "b t e"]) -> Float[Tensor, "b n c"]:
        values = self._split(self.values_text_proj(text))  # (b, h, t, d)
        out = self.out_vision_proj.weight.view(-1, self.num_heads, self.head_dim).permute(1, 2, 0)  # (h, d, c)
        absorbed = (values @ out).flatten(1, 2)  # (b, ht, c)
        return weights.flatten(1, 2).transpose(1, 2) @ absorbed + self.out_vision_proj.bias

    def _text_output(self, weights: Float[Tensor, "b h t n"], vision: Float[Tensor, "b n c"]) -> Float[Tensor, "b t e"]:
        attended = (weights.flatten(1, 2) @ vision).view(*weights.shape[:3], -1)  # (b, h, t, c)
        weight, bias = self._by_head(self.values_vision_proj)
        values = attended @ weight.transpose(1, 2) + bias[:, None]  # (b, h, t, d)
        text: Tensor = self.out_text_proj(values.transpose(1, 2).flatten(2))
        return text

    def _split(self, joint: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        return joint.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _by_head(self, projection: nn.Linear) -> tuple[Float[Tensor, "h d c"], Float[Tensor, "h d"]]:
        """Weights and biases of a projection of the image, by head."""
        heads = (self.num_heads, self.head_dim)
        return projection.weight.unflatten(0, heads), projection.bias.view(heads)


def replace_bi_attention(model: nn.Module) -> None:
    """Replace each bi-attention of a Grounding DINO of `transformers` by an `AbsorbedBiAttention` of its parameters.

    The names of parameters stay as they are. Any other network is left alone.
    """
    replace_modules(model, _REPLACED, AbsorbedBiAttention)


def _softmax(
    logits: Float[Tensor, "b h t n"], mask: Bool[Tensor, "b 1 ..."] | None, dim: int
) -> Float[Tensor, "b h t n"]:
    """Softmax over `dim`, 0 where `mask` is True."""
    return (logits if mask is None else logits.masked_fill(mask, -torch.inf)).softmax(dim)
