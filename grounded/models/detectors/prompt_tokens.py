"""Prompts of Grounding DINO: phrases as token ids, with the tokens of each phrase, in as many prompts as they need.

Each phrase is tokenised by itself and a prompt is put together from the ids, so that the spans are exact by
construction. Looking phrases up in the text or in the ids of a whole prompt goes wrong where one is part of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grounded.errors import PromptError

# Words that say nothing of an object by themselves: determiners, prepositions of place and possession, conjunctions.
# Words that turn a phrase round, such as "without", are none of them.
FUNCTION_WORDS = frozenset(
    "a an the this that these those some my your his her its our their of with in on at by for from to into as and or "
    "is are".split()
)


@dataclass(frozen=True)
class Delimiters:
    """Token ids at the start and the end of a prompt, after each phrase, and behind a prompt shorter than others."""

    start: int
    end: int
    stop: int
    padding: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "Delimiters":
        """Return the delimiters of a BERT tokenizer: [CLS], [SEP], "." and [PAD]."""
        stop = tokenizer.convert_tokens_to_ids(".")
        return cls(tokenizer.cls_token_id, tokenizer.sep_token_id, stop, tokenizer.pad_token_id)


@dataclass(frozen=True)
class PhraseTokens:
    """A phrase by itself, without delimiters."""

    ids: tuple[int, ...]
    content: tuple[int, ...]  # positions of the tokens that count in its mean score; none where no word is known
    is_complete: bool  # whether all its words are known


@dataclass(frozen=True)
class Prompt:
    """One text prompt for the detector, of k phrases."""

    input_ids: tuple[int, ...]  # "[CLS] a cat . a red mug . [SEP]"
    spans: tuple[tuple[int, int], ...]  # of each phrase the first token and the one after the last, without delimiters
    content: tuple[tuple[int, ...], ...]  # of each phrase the tokens that count in its mean score
    phrase_ids: tuple[int, ...]  # of each phrase its index among all phrases of the image


def normalise(phrase: str) -> str:
    """Return a phrase as the detector reads it: lower case, single spaces, and no mark that would cut it in two.

    Grounding DINO ends a phrase at "." and "?", so these become spaces: "a 3.5 inch disk" is read as "a 3 5 inch disk".
    """
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split())


def tokenise_phrases(tokenizer: Any, phrases: Sequence[str]) -> list[PhraseTokens]:
    """Return the tokens of each phrase by itself.

    Raises:
        PromptError: a phrase has no tokens, such as "?".
    """
    tokenised = []
    for phrase in phrases:
        ids = tuple(tokenizer(normalise(phrase), add_special_tokens=False)["input_ids"])
        if not ids:
            raise PromptError(f"a phrase must hold at least one word, got {phrase!r}")
        pieces = tokenizer.convert_ids_to_tokens(list(ids))
        content = find_content(pieces, tokenizer.unk_token)
        tokenised.append(PhraseTokens(ids, content, tokenizer.unk_token not in pieces))
    return tokenised


def find_content(pieces: Sequence[str], unknown: str) -> tuple[int, ...]:
    """Return the positions of the word pieces that count in the mean score of a phrase.

    Function words and punctuation do not count unless the phrase has nothing else: detectors score them low, so that
    "the dog with a collar" would score less than "dog collar". Unknown words never count.

    Args:
        pieces: of a phrase; those that go on with a word begin with "##".
        unknown: the piece that stands for words that the tokenizer cannot spell.
    """
    continued = [*(piece.startswith("##") for piece in pieces[1:]), False]
    content = [
        i
        for i, piece in enumerate(pieces)
        if any(character.isalnum() for character in piece) and (continued[i] or piece not in FUNCTION_WORDS)
    ]
    return tuple(i for i in content or range(len(pieces)) if pieces[i] != unknown)


def split_phrases(lengths: Sequence[int], max_tokens: int) -> list[range]:
    """Split a list of phrases into runs whose prompts fit into the text length of a detector, never inside a phrase.

    A prompt takes the tokens of its phrases, one delimiter after each of them, and two more at its ends.
    Runs are filled in order, so that the phrases of an image share a prompt as far as possible.

    Args:
        lengths: number of tokens of each phrase, each of which must fit into a prompt by itself.
        max_tokens: tokens of the longest prompt.

    Returns:
        consecutive ranges of indices into `lengths` which cover all of them; none for no phrases.

    Raises:
        ValueError: a phrase is longer than `max_tokens` allows.
    """
    runs: list[range] = []
    start, used = 0, 2
    for i, length in enumerate(lengths):
        if length + 3 > max_tokens:
            raise ValueError(f"phrase {i} has {length} tokens, at most {max_tokens - 3} fit into a prompt")
        if used + length + 1 > max_tokens:
            runs.append(range(start, i))
            start, used = i, 2
        used += length + 1
    if lengths:
        runs.append(range(start, len(lengths)))
    return runs


def build_prompt(tokens: Sequence[PhraseTokens], phrase_ids: Sequence[int], delimiters: Delimiters) -> Prompt:
    """Join the phrases of `phrase_ids` to one prompt, in that order. `tokens` holds those of all phrases."""
    input_ids = [delimiters.start]
    spans, content = [], []
    for phrase_id in phrase_ids:
        start, own = len(input_ids), tokens[phrase_id]
        spans.append((start, start + len(own.ids)))
        content.append(tuple(start + position for position in own.content))
        input_ids += [*own.ids, delimiters.stop]
    return Prompt((*input_ids, delimiters.end), tuple(spans), tuple(content), tuple(phrase_ids))
