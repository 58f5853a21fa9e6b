"""Phrases as the token ids of one prompt, with the place of each phrase in them.

Each phrase is tokenised by itself and the prompt is put together from the ids, so that the spans are exact by
construction. Looking phrases up in the text or in the ids of a whole prompt goes wrong where one is part of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grounded.errors import PromptError


@dataclass(frozen=True)
class Delimiters:
    """Token ids at the start and the end of a prompt, after each phrase, and behind a prompt shorter than others."""

    start: int
    end: int
    stop: int
    padding: int

    @classmethod
    def of(cls, tokenizer: Any) -> "Delimiters":
        """The delimiters of a BERT tokenizer: [CLS], [SEP], "." and [PAD]."""
        stop = tokenizer.convert_tokens_to_ids(".")
        return cls(tokenizer.cls_token_id, tokenizer.sep_token_id, stop, tokenizer.pad_token_id)


@dataclass(frozen=True)
class Query:
    """One prompt for the detector.

    Attributes:
        input_ids: token ids, "[CLS] a cat . a red mug . [SEP]".
        spans: for each of its k phrases the first token and the one after the last, delimiters excluded.
        phrase_ids: for each of its k phrases the index into the phrases that were asked.
    """

    input_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    phrase_ids: tuple[int, ...]


def normalise(phrase: str) -> str:
    """A phrase as the detector reads it: lower case, single spaces, and none of the marks that would cut it in two.

    Grounding DINO ends a phrase at "." and "?", so these become spaces: "a 3.5 inch disk" is read as "a 3 5 inch disk".
    """
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split())


def tokenise_phrases(tokenizer: Any, phrases: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each phrase by itself, without delimiters.

    Raises:
        PromptError: a phrase has no tokens, such as "?".
    """
    texts = [normalise(phrase) for phrase in phrases]
    tokens = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    for phrase, ids in zip(phrases, tokens, strict=True):
        if not ids:
            raise PromptError(f"a phrase must hold at least one word, got {phrase!r}")
    return tokens


def join_phrases(tokens: Sequence[tuple[int, ...]], phrase_ids: Sequence[int], delimiters: Delimiters) -> Query:
    """Put the phrases of `phrase_ids` together to one prompt, in that order. `tokens` holds the ids of all phrases."""
    input_ids = [delimiters.start]
    spans = []
    for phrase_id in phrase_ids:
        spans.append((len(input_ids), len(input_ids) + len(tokens[phrase_id])))
        input_ids += [*tokens[phrase_id], delimiters.stop]
    return Query((*input_ids, delimiters.end), tuple(spans), tuple(phrase_ids))
