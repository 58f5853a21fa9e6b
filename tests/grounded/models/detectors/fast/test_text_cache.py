import torch
from torch import nn

from grounded.models.detectors.fast.text_cache import CachedTextEncoder
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
    cached = CachedTextEncoder(counting)
    batch = inputs([[101, 7, 102], [101, 9, 102], [101, 7, 102], [101, 9, 102], [101, 8, 102]])
    with torch.inference_mode():
        together = cached(*batch).last_hidden_state
        torch.testing.assert_close(together, plain(*batch).last_hidden_state)
        assert counting.prompts == 3
        for i in range(5):
            own = [value[i : i + 1] for value in batch]
            assert torch.equal(cached(*own).last_hidden_state, plain(*own).last_hidden_state)
            assert torch.equal(together[i], plain(*own).last_hidden_state[0])
    assert counting.prompts == 3  # those of the first call were cached


def test_the_least_recently_used_prompts_are_dropped():
    counting = CountingEncoder(builders.detector_model().model.text_backbone)
    cached = CachedTextEncoder(counting, capacity=2)
    with torch.inference_mode():
        for token in (7, 8, 9, 9, 8, 7):
            cached(*inputs([[101, token, 102]]))
    assert counting.prompts == 4


def test_prompts_beyond_the_capacity_in_one_batch():
    plain = builders.detector_model().model.text_backbone
    batch = inputs([[101, token, 102] for token in range(5, 10)])
    with torch.inference_mode():
        torch.testing.assert_close(
            CachedTextEncoder(plain, capacity=2)(*batch).last_hidden_state, plain(*batch).last_hidden_state
        )


def test_nothing_is_cached_while_gradients_are_computed():
    counting = CountingEncoder(builders.detector_model().model.text_backbone)
    cached = CachedTextEncoder(counting)
    batch = inputs([[101, 7, 102], [101, 7, 102]])
    with torch.inference_mode():
        cached(*batch)
    cached(*batch).last_hidden_state.sum().backward()
    assert counting.prompts == 2
    assert any(parameter.grad is not None for parameter in counting.parameters())
