import pytest

from grounded.errors import PromptError
from grounded.models.detectors.prompt_tokens import (
    Delimiters,
    build_prompt,
    find_content,
    normalise,
    split_phrases,
    tokenise_phrases,
)
from tests.grounded import builders


@pytest.fixture(scope="module")
def tokenizer():
    return builders.bert_tokenizer()


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("a cat", "a cat"),
        ("  The RED\tMug ", "the red mug"),
        ("a 3.5 inch disk", "a 3 5 inch disk"),
        ("a cat?", "a cat"),
        ("what?is this.", "what is this"),
        ("?.", ""),
    ],
)
def test_normalise(phrase: str, expected: str):
    assert normalise(phrase) == expected


PHRASES = [
    pytest.param(["a cat"], id="one"),
    pytest.param(["dog", "hot dog", "hot"], id="one inside another"),
    pytest.param(["zebra", "a xylophone", "cat"], id="word pieces"),
    pytest.param(["an ice-cream", "the dog's ball", "a [SEP] token"], id="punctuation and a delimiter's name"),
    pytest.param(["a 3.5 inch disk", "Red, or blue?"], id="marks that end a phrase"),
    pytest.param(["Café", "🐈", "猫"], id="accents and unknown characters"),
]


@pytest.mark.parametrize("phrases", PHRASES)
def test_ids_are_those_of_the_joined_text(tokenizer, phrases: list[str]):
    prompt = build_prompt(
        tokenise_phrases(tokenizer, phrases), range(len(phrases)), Delimiters.from_tokenizer(tokenizer)
    )
    joined = ". ".join(map(normalise, phrases)) + "."
    assert list(prompt.input_ids) == tokenizer(joined)["input_ids"]


@pytest.mark.parametrize("phrases", PHRASES)
def test_spans_hold_the_tokens_of_their_phrases(tokenizer, phrases: list[str]):
    tokens = tokenise_phrases(tokenizer, phrases)
    order = list(reversed(range(len(phrases))))
    prompt = build_prompt(tokens, order, Delimiters.from_tokenizer(tokenizer))
    assert prompt.phrase_ids == tuple(order)
    assert [prompt.input_ids[first:end] for first, end in prompt.spans] == [tokens[i].ids for i in order]
    for content, (first, end), i in zip(prompt.content, prompt.spans, order, strict=True):
        assert set(content) <= set(range(first, end))
        assert [position - first for position in content] == list(tokens[i].content)
    outside = set(range(len(prompt.input_ids))) - {i for first, end in prompt.spans for i in range(first, end)}
    assert {prompt.input_ids[i] for i in outside} == {101, 102, 1012}


@pytest.mark.parametrize(
    ("pieces", "content"),
    [
        pytest.param(["red", "mug"], [0, 1], id="all"),
        pytest.param(["the", "dog", "with", "a", "collar"], [1, 4], id="function words"),
        pytest.param(["a"], [0], id="nothing but a function word"),
        pytest.param(["the", "a"], [0, 1], id="nothing but function words"),
        pytest.param(["a", "##nt", "hill"], [0, 1, 2], id="a piece that looks like a function word"),
        pytest.param(["t", "-", "shirt"], [0, 2], id="punctuation"),
        pytest.param(["red", "[UNK]"], [0], id="an unknown word"),
        pytest.param(["[UNK]", "[UNK]"], [], id="unknown words"),
        pytest.param(["a", "[UNK]"], [], id="an article and an unknown word"),
        pytest.param(["dog", "without", "collar"], [0, 1, 2], id="a word that turns the phrase round"),
    ],
)
def test_what_counts_of_a_phrase(pieces: list[str], content: list[int]):
    assert list(find_content(pieces, "[UNK]")) == content


@pytest.mark.parametrize(
    ("phrase", "readable", "complete"),
    [
        ("a dog", True, True),
        ("\u732b", False, False),
        ("a \u732b", False, False),
        ("red \u732b", True, False),
        ("zebra", True, True),
    ],
)
def test_what_can_be_read_of_a_phrase(tokenizer, phrase: str, readable: bool, complete: bool):
    (tokens,) = tokenise_phrases(tokenizer, [phrase])
    assert (len(tokens.content) > 0, tokens.is_complete) == (readable, complete)


def test_no_phrases(tokenizer):
    assert tokenise_phrases(tokenizer, []) == []
    assert build_prompt([], [], Delimiters.from_tokenizer(tokenizer)).input_ids == (101, 102)


@pytest.mark.parametrize("phrase", ["", "  ", "?", "..."])
def test_a_phrase_without_words(tokenizer, phrase: str):
    with pytest.raises(PromptError, match="at least one word"):
        tokenise_phrases(tokenizer, ["a cat", phrase])


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
def test_phrases_are_split_into_prompts(lengths: list[int], max_tokens: int, expected: list[range]):
    assert split_phrases(lengths, max_tokens) == expected


def test_no_prompt_is_too_long():
    lengths = [1 + i * 7 % 11 for i in range(50)]
    runs = split_phrases(lengths, 20)
    assert [i for run in runs for i in run] == list(range(50))
    assert all(2 + sum(lengths[i] + 1 for i in run) <= 20 for run in runs)


def test_a_phrase_that_never_fits():
    with pytest.raises(ValueError, match="phrase 1 has 8 tokens, at most 7 fit"):
        split_phrases([2, 8], 10)
