"""Phrases of a free-form text: "a cat. the red mug" has "a cat" and "the red mug". For every entry point."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from grounded.data.wrapping import DOUBLE_QUOTES, without_emoji, without_markup, without_wrapping
from grounded.errors import PromptError

# Full stop, comma and semicolon in Latin, Chinese and Japanese, Arabic and Devanagari.
_STOPS = ".,;" + "。，；、．｡､" + "،؛۔" + "।"
_LINE_END = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_SEPARATOR = re.compile(
    # Between two digits a stop belongs to a number: "a 3.5 inch disk", "1,000 coins".
    rf"(?<!\d)[{_STOPS}]|[{_STOPS}](?!\d)"
    # The end of a sentence. A mark inside a word is part of it; the last of several splits, and the rest is stripped.
    r"|[?!](?=\s|$)|[？！؟…‥]"
    r"|[\t|¦｜•‣◦▪●]"
    # Between phrases in quotation marks a space is enough: "a dog" "a pizza".
    rf"|(?<=[{DOUBLE_QUOTES}])\s+(?=[{DOUBLE_QUOTES}])"
    # Between letters these belong to a word: "AC/DC", and the Catalan "col·lecció".
    r"|(?<!\S)[/／](?!\S)|(?<!\w)·|·(?!\w)"
)
# "1. " and "1) " begin an entry of a list. The stop would split the number off.
_ENTRY_NUMBER = re.compile(r"\s*\d{1,3}[.)]\s+(?=\S)")
_PLAIN = re.compile("[A-Za-z0-9]+(?:[ '-][A-Za-z0-9]+)*")  # nothing to clean, as in most vocabularies
# Marks without a glyph: soft hyphen, direction marks, word joiner, byte order mark. The joiners U+200C and U+200D stay,
# for they tell words and emoji apart.
_INVISIBLE = re.compile("[\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
# Control characters, the zero-width space, and halves of surrogate pairs, which no file can hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\ud800-\udfff]")


def parse(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the distinct phrases of `text`, in the order in which they appear.

    A string is split at `.` `,` `;` `|`, at ` / ` between spaces, tabs, bullets, line ends, and at `?` and `!` where
    a word ends; at counterparts in other scripts (`。` `，` `；` `、` and more) too; never between digits. A sequence
    holds one phrase per entry and is not split.

    In both, what wraps or ends a phrase is removed: quotation marks, brackets, markup of HTML and Markdown, numbers and
    dashes of lists, closing marks, and emoji where words remain. So are white space and invisible marks around it;
    control characters count as white space. Entries with nothing but punctuation are dropped, and of phrases that
    differ in upper and lower case alone the first is kept, since the models read both as the same words. The phrase ids
    of a result are indices of the phrases that are returned here, and the words of a phrase are never changed.

    Raises:
        PromptError: nothing is left, or an entry is not a string.
    """
    if isinstance(text, str):
        parts: Sequence[str] = list(_split(without_markup(_INVISIBLE.sub("", text))))
    elif isinstance(text, Sequence) and not isinstance(text, (bytes, bytearray)):
        parts = text
    else:
        raise PromptError(f"text must be a string or a sequence of strings, got {type(text).__name__}")

    phrases: dict[str, str] = {}
    for position, part in enumerate(parts):
        if not isinstance(part, str):
            raise PromptError(f"phrases must be strings, got {type(part).__name__} at position {position}")
        phrase = _clean(part)
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


def listed(phrases: Sequence[str], limit: int = 20) -> str:
    """Return phrases in quotation marks for messages: “a dog”, “pizza” and 3 more; at most `limit` of them."""
    quoted = ", ".join(f"“{shortened(phrase)}”" for phrase in phrases[:limit])
    return quoted if len(phrases) <= limit else f"{quoted} and {len(phrases) - limit} more"


def _split(text: str) -> Iterator[str]:
    for line in _LINE_END.split(text):
        number = _ENTRY_NUMBER.match(line)
        yield from _SEPARATOR.split(line[number.end() :] if number else line)


def _clean(part: str) -> str:
    """Return a phrase without wrapping, such that cleaning it again changes nothing."""
    part = part.strip()
    if not part or _PLAIN.fullmatch(part):
        return part
    previous, phrase = None, part
    # What is removed may uncover more: an emoji before a dash, an asterisk within a tag. Rarely more than two rounds.
    while phrase != previous:
        previous = phrase
        phrase = " ".join(_CONTROL.sub(" ", _INVISIBLE.sub("", phrase)).split())
        phrase = without_wrapping(without_markup(phrase))
        worded = without_emoji(phrase)
        if _has_content(worded):  # a phrase of nothing but emoji stays: it is what was asked for
            phrase = " ".join(worded.split())
    return phrase


def _has_content(phrase: str) -> bool:
    """Whether anything besides punctuation, separators, control characters and marks on other letters is there."""
    return any(unicodedata.category(character)[0] not in "PZCM" for character in phrase)
