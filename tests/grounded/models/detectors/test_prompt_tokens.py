import pytest

from grounded.errors import PromptError
from grounded.models.detectors.prompt_tokens import Delimiters, join_phrases, normalise, tokenise_phrases
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
    query = join_phrases(tokenise_phrases(tokenizer, phrases), range(len(phrases)), Delimiters.of(tokenizer))
    joined = ". ".join(map(normalise, phrases)) + "."
    assert list(query.input_ids) == tokenizer(joined)["input_ids"]


@pytest.mark.parametrize("phrases", PHRASES)
def test_spans_hold_the_tokens_of_their_phrases(tokenizer, phrases: list[str]):
    tokens = tokenise_phrases(tokenizer, phrases)
    order = list(reversed(range(len(phrases))))
    query = join_phrases(tokens, order, Delimiters.of(tokenizer))
    assert query.phrase_ids == tuple(order)
    assert [query.input_ids[first:end] for first, end in query.spans] == [tokens[i] for i in order]
    outside = set(range(len(query.input_ids))) - {i for first, end in query.spans for i in range(first, end)}
    assert {query.input_ids[i] for i in outside} == {101, 102, 1012}


def test_no_phrases(tokenizer):
    assert tokenise_phrases(tokenizer, []) == []
    assert join_phrases([], [], Delimiters.of(tokenizer)).input_ids == (101, 102)


@pytest.mark.parametrize("phrase", ["", "  ", "?", "..."])
def test_a_phrase_without_words(tokenizer, phrase: str):
    with pytest.raises(PromptError, match="at least one word"):
        tokenise_phrases(tokenizer, ["a cat", phrase])
