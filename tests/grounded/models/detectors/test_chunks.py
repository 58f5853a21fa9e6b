import pytest

from grounded.models.detectors.chunks import split_phrases


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "expected"),
    [
        pytest.param([], 10, [], id="empty"),
        pytest.param([3], 10, [range(1)], id="one phrase"),
        pytest.param([7], 10, [range(1)], id="one phrase that just fits"),
        pytest.param([3, 3], 10, [range(2)], id="two that just fit"),
        pytest.param([3, 4], 10, [range(1), range(1, 2)], id="one token too many"),
        pytest.param([1, 1, 1, 1, 1], 8, [range(3), range(3, 5)], id="filled in order"),
        pytest.param([5, 5, 5], 8, [range(1), range(1, 2), range(2, 3)], id="one each"),
        pytest.param([1, 7, 1], 10, [range(1), range(1, 2), range(2, 3)], id="long one between short ones"),
    ],
)
def test_split_phrases(lengths: list[int], max_tokens: int, expected: list[range]):
    assert split_phrases(lengths, max_tokens) == expected


def test_no_prompt_is_too_long():
    lengths = [1 + i * 7 % 11 for i in range(50)]
    runs = split_phrases(lengths, 20)
    assert [i for run in runs for i in run] == list(range(50))
    assert all(2 + sum(lengths[i] + 1 for i in run) <= 20 for run in runs)


def test_a_phrase_that_never_fits():
    with pytest.raises(ValueError, match="phrase 1 has 8 tokens, at most 7 fit"):
        split_phrases([2, 8], 10)
