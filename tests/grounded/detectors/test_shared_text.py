import torch
from torch import nn

from grounded.detectors.shared_text import DistinctPromptEncoder
from tests.grounded import builders


class CountingEncoder(nn.Module):
    """Passes on to `encoder` and counts the prompts that it is given."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.prompts = encoder, 0

    def forward(self, input_ids, *rest):
        self.prompts += len(input_ids)
        return self.encoder(input_ids, *rest)


def inputs(rows: list[list[int]]) -> tuple[torch.Tensor, ...]:
    ids = torch.tensor(rows)
    mask = (ids[:, None, :] == ids[:, :, None])[:, None]  # any mask that depends on the ids alone
    return ids, mask, torch.zeros_like(ids), torch.arange(ids.shape[1]).expand_as(ids)


def test_equal_prompts_are_encoded_once_and_features_stay_the_same():
    plain = builders.detector_model().model.text_backbone
    counting = CountingEncoder(plain)
    shared = DistinctPromptEncoder(counting)
    batch = inputs([[101, 7, 102], [101, 9, 102], [101, 7, 102], [101, 9, 102], [101, 8, 102]])
    with torch.inference_mode():
        torch.testing.assert_close(shared(*batch).last_hidden_state, plain(*batch).last_hidden_state)
        assert counting.prompts == 3
        for i in range(5):
            alone = shared(*(value[i : i + 1] for value in batch)).last_hidden_state
            torch.testing.assert_close(alone, plain(*batch).last_hidden_state[i : i + 1])
