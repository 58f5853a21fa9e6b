"""The tiny detector's vocabulary and targets."""

import pytest

from recipes.tiny.detector_model import FIXED, build_tokenizer, vocabulary
from recipes.tiny.queries import Query
from recipes.tiny.train_detector import encode_query, phrase_ids
from recipes.tiny.vocabulary import nouns


def test_special_tokens_stand_where_the_model_expects_them() -> None:
    known = vocabulary()
    assert {token: known[token] for token in FIXED} == FIXED
    assert sorted(known.values()) == list(range(len(known)))


@pytest.mark.parametrize("noun", nouns())
def test_every_noun_is_whole_words(noun: str) -> None:
    tokens = build_tokenizer().tokenize(noun)
    assert " ".join(tokens) == noun


def test_other_words_are_spelled() -> None:
    assert build_tokenizer().tokenize("Zebu") == ["z", "##e", "##b", "##u"]


def test_spans_hold_the_ids_of_their_phrases() -> None:
    query = Query(("a dog", "hot dogs", "the blue car"), ())
    ids, spans = encode_query(query, 64)
    assert ids == build_tokenizer()("a dog. hot dogs. the blue car.")["input_ids"]
    assert [tuple(ids[start:stop]) for start, stop in spans] == [phrase_ids(phrase) for phrase in query.phrases]
