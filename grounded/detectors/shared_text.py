"""Running the text encoder once for each distinct prompt of a batch."""

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput


class DistinctPromptEncoder(nn.Module):
    """Wraps the text encoder of a Grounding DINO so that equal prompts in a batch are encoded once.

    `transformers` encodes text inside the detector's forward, once per picture, and takes no ready text features.
    A folder of pictures is usually searched for the same phrases, of which one encoding is enough. The wrapper is
    a pure function of its inputs and keeps nothing between calls.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Bool[Tensor, "b 1 t t"],
        token_type_ids: Int[Tensor, "b t"],
        position_ids: Int[Tensor, "b t"],
        return_dict: bool = True,
    ) -> BaseModelOutput:
        """Text features (b, t, c) as `last_hidden_state`.

        The detector derives masks and positions from the ids alone, so rows with equal ids are equal throughout.
        """
        # int64 "b": for each row, the first row with the same ids
        first = (input_ids[:, None] == input_ids[None, :]).all(-1).int().argmax(dim=1)
        rows, place = first.unique(return_inverse=True)
        features = self.encoder(input_ids[rows], attention_mask[rows], token_type_ids[rows], position_ids[rows])
        return BaseModelOutput(last_hidden_state=features.last_hidden_state[place])
