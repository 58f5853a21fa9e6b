"""Phrases of a free-form text: "a cat. the red mug" has "a cat" and "the red mug". For every entry point."""

import re
import unicodedata
from collections.abc import Sequence

from grounded.errors import PromptError

# Full stop, comma and semicolon in Latin, Chinese and Japanese, Arabic and Devanagari.
_STOPS = ".,;" + "。，；、．｡､" + "،؛۔" + "।"
# Between two digits a separator belongs to a number: "a 3.5 inch disk", "1,000 coins".
_SEPARATOR = re.compile(rf"(?<!\d)[{_STOPS}]|[{_STOPS}](?!\d)|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Marks without a glyph: soft hyphen, direction marks, word joiner, byte order mark. The joiners U+200C and U+200D stay,
# for they tell words and emoji apart.
_INVISIBLE = re.compile("[\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
# Control characters, the zero-width space, and halves of surrogate pairs, which no file can hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\ud800-\udfff]")


def parse(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the distinct phrases of `text`, in the order in which they appear.

    A string is split at `.` `,` `;`, at their counterparts in other scripts (`。` `，` `；` `、` and more), and at line
    ends, never between digits. A sequence holds one phrase per entry and is not split.

    In both, control characters count as white space, surrounding and repeated white space and invisible marks are
    removed, entries with nothing but punctuation are dropped, and of phrases that differ in upper and lower case alone
    the first is kept, since the models read both as the same words. The phrase ids of a result are indices of the
    phrases that are returned here, and the words of a phrase are never changed.

    Raises:
        PromptError: nothing is left, or an entry is not a string.
    """
    if isinstance(text, str):
        parts: Sequence[str] = _SEPARATOR.split(text)
    elif isinstance(text, Sequence) and not isinstance(text, (bytes, bytearray)):
        parts = text
    else:
        raise PromptError(f"text must be a string or a sequence of strings, got {type(text).__name__}")

    phrases: dict[str, str] = {}
    for position, part in enumerate(parts):
        if not isinstance(part, str):
            raise PromptError(f"phrases must be strings, got {type(part).__name__} at position {position}")
        phrase = " ".join(_CONTROL.sub(" ", _INVISIBLE.sub("", part)).split())
        if _has_content(phrase):
            phrases.setdefault(phrase_key(phrase), phrase)
    if not phrases:
        got = shortened(repr(text))
        raise PromptError(f"the text holds no phrase: expected one or more, such as 'a dog. pizza', got {got}")
    return tuple(phrases.values())


def phrase_key(phrase: str) -> str:
    """Return a key that is equal for phrases that differ in upper and lower case or Unicode composition alone."""
    return unicodedata.normalize("NFC", phrase).casefold()


def shortened(text: str, width: int = 60) -> str:
    """Return `text` in at most `width` characters, for messages; a cut is marked."""
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def _has_content(phrase: str) -> bool:
    """Whether anything besides punctuation, separators, control characters and marks on other letters is there."""
    return any(unicodedata.category(character)[0] not in "PZCM" for character in phrase)
