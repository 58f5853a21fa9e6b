"""Free-form text -> phrases: "a cat. the red mug" -> ("a cat", "the red mug")."""

import re
import unicodedata
from collections.abc import Sequence

from grounded.errors import PromptError

# Between two digits a separator belongs to a number: "a 3.5 inch disk", "1,000 coins".
_SEPARATOR = re.compile(r"(?<!\d)[.,;]|[.,;](?!\d)|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def parse(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the distinct phrases of `text`, in the order in which they appear.

    A string is split at `.` `,` `;` and line ends, never between digits. A sequence holds one phrase per entry and is
    not split. Surrounding and repeated white space is removed, entries with nothing but punctuation are dropped, and
    of phrases that differ in upper and lower case alone the first is kept (the models read both as the same words).

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
        phrase = " ".join(part.split())
        if _has_content(phrase):
            phrases.setdefault(phrase.casefold(), phrase)
    if not phrases:
        raise PromptError(f"the text holds no phrase: expected one or more, such as 'a dog. pizza', got {text!r}")
    return tuple(phrases.values())


def _has_content(phrase: str) -> bool:
    """Whether anything besides punctuation, separators and control characters is there."""
    return any(unicodedata.category(character)[0] not in "PZC" for character in phrase)
