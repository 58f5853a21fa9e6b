"""A text encoder that encodes each distinct prompt once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from grounded.models.embedding_cache import EmbeddingCache


class CachedTextEncoder(nn.Module):
    """Wraps the text encoder of a Grounding DINO so that a prompt is encoded once for all images.

    `transformers` encodes text inside the detector's forward, once per image, and takes no text features from outside.
    A folder of images is usually searched for the same phrases, of which one encoding is enough: those of the last
    prompts are cached. A prompt is encoded by itself, so that its features are the same bit for bit, whatever else is
    in the batch. While gradients are computed nothing is cached, since weights may change then.

    Args:
        encoder: the text encoder, in eval mode and with weights that stay as they are.
        capacity: most prompts whose features are cached.
    """

    def __init__(self, encoder: nn.Module, capacity: int = 64):
        super().__init__()
        self.encoder = encoder
        self._cache = EmbeddingCache(capacity)

    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Bool[Tensor, "b 1 t t"],
        token_type_ids: Int[Tensor, "b t"],
        position_ids: Int[Tensor, "b t"],
        return_dict: bool = True,
    ) -> BaseModelOutput:
        """Return the text features (b, t, c) as `last_hidden_state`.

        The detector derives masks and positions from the ids alone, so rows with equal ids are equal throughout.
        """
        keys = [" ".join(map(str, ids)) for ids in input_ids.tolist()]
        use_cache = not torch.is_grad_enabled()
        features = self._cache.find(keys) if use_cache else {}
        new: dict[str, Float[Tensor, tc]] = {}
        for row, key in enumerate(keys):
            if key not in features:
                own = slice(row, row + 1)
                output = self.encoder(input_ids[own], attention_mask[own], token_type_ids[own], position_ids[own])
                features[key] = new[key] = output.last_hidden_state.flatten()
        if use_cache:
            self._cache.store(new)
        joined = torch.stack([features[key].to(input_ids.device) for key in keys])  # (b, tc)
        return BaseModelOutput(last_hidden_state=joined.unflatten(1, (input_ids.shape[1], -1)))
