"""What people write around a phrase: quotation marks, brackets, markup, list markers, closing marks, emoji.

Each function takes one step over the text in linear time and raises nothing; `phrases.parse` combines them.
"""

import html
import re
from collections import defaultdict, deque

# By name, so that "<a dog>" and "a < b" are no tags. Other text between < and > counts as in brackets.
_TAGS = (
    "a abbr article b big blockquote body br button center cite code dd del div dl dt em font footer h1 h2 h3 h4 h5 h6 "
    "head header hr html i img input ins kbd label li main mark nav ol option p pre q s samp section select small span "
    "strike strong sub sup table tbody td th thead title tr tt u ul var"
)
_TAG = re.compile(rf"</?(?:{'|'.join(_TAGS.split())})(\s[^<>]*|/)?>", re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:blockquote|br|dd|div|dt|h[1-6]|hr|li|ol|option|p|pre|section|table|td|th|tr|ul)\b", re.I)
# html.unescape as a whole fails on numbers of thousands of digits.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LINK_TARGET = re.compile(r"(?<=\])\((?:https?:|mailto:|www\.|[#/.])[^()\s]*\)")
# Of Markdown: on one side of a word, for "snake_case" and "5*3" are words.
_EMPHASIS = re.compile(r"(?<![\w*_`~])(?:[*_`]|~~)+(?=[^\s*_`~])|(?<=[^\s*_`~])(?:[*_`]|~~)+(?![\w*_`~])")

_KEYCAP = "[#*0-9]\ufe0f?\u20e3"
# Signs that are text unless the selector U+FE0F makes emoji of them: "Lego®" is a word.
_SELECTED = "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u25a0-\u25ff\u3030\u303d\u3297\u3299]\ufe0f"
_PICTOGRAPH = (
    "[\u231a\u231b\u2328\u23cf\u23e9-\u23fa\u2600-\u275a\u275f-\u2767\u2776-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
)
_MODIFIERS = "[\u200d\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"  # skin tones, joiners, flags
_EMOJI = re.compile(f"{_KEYCAP}|{_SELECTED}|{_PICTOGRAPH}{_MODIFIERS}|[\ufe0e\ufe0f\u20e3\U000e0020-\U000e007f]")

_BRACKETS = dict(zip("([{<（［｛＜【〔〖〈《「『｢⟨❨", ")]}>）］｝＞】〕〗〉》」』｣⟩❩", strict=True))
_OPENING = {closing: opening for opening, closing in _BRACKETS.items()}
# Marks of one kind close one another, however they lean: “a dog", »a dog«, `a dog'.
DOUBLE_QUOTES, _SINGLE = '"“”„‟«»″‶＂〝〞〟❝❞', "'‘’‚‛‹›′‵`´＇❛❜"
_QUOTES = {**dict.fromkeys(DOUBLE_QUOTES, '"'), **dict.fromkeys(_SINGLE, "'")}
_ENDS = "?!:…‥‽⁉⁈？！：؟¿¡"
_STOPS = ".,;。，；、．｡､،؛۔।"
_BULLETS = "•‣◦▪●○■□·|¦｜"
_MARKER = re.compile(r"(?:[-–—*+>/／\\.]{1,8}|\#{1,8}|\(?\d{1,3}\)|\d{1,3}\.|\[[ xX]?\])\s+(?=\S)|\#{1,8}(?=[^\W\d])")
_FINAL_MARKERS = "-–—*+/／\\# "
# "D.C." keeps its stop; of constant length, to be looked for again and again.
_ABBREVIATION = re.compile(r"\.\w{1,4}\.\Z")


def without_markup(text: str) -> str:
    """Return text without the tags of HTML and the emphasis and links of Markdown.

    In text with a tag, entities such as `&amp;` stand for their characters. Tags of blocks end a line.
    """
    text = _LINK_TARGET.sub("", _EMPHASIS.sub("", text))
    if not ("<" in text and any(map(_is_tag, _TAG.finditer(text)))):
        return text
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return _TAG.sub(_replace_tag, text)


def without_emoji(text: str) -> str:
    """Return text with white space in place of emoji, with their joiners, skin tones and variation selectors."""
    return text if text.isascii() else _EMOJI.sub(" ", text)


def without_wrapping(phrase: str) -> str:
    """Return a phrase without the quotation marks, brackets, list markers and closing marks around it.

    Brackets and quotation marks go where they hold the whole phrase, or have lost their partner in a split:
    "(red) dog (small)" stays, and of "(a dog" the bracket goes.
    """
    partners, quotes = _bracket_partners(phrase), _quote_places(phrase)
    start, end = 0, len(phrase)
    while start < end:
        first, last = phrase[start], phrase[end - 1]
        if first.isspace() or first in _ENDS or first in _BULLETS or first in _STOPS.lstrip("."):
            start += 1
        elif last.isspace() or last in _ENDS or last in _BULLETS or _is_final_stop(phrase, start, end):
            end -= 1
        elif bracketed := _inside_brackets(partners, start, end):
            start, end = bracketed
        elif quoted := _inside_quotes(phrase, quotes, start, end):
            start, end = quoted
        elif marker := _MARKER.match(phrase, start, end):
            start = marker.end()
        elif (cut := _final_marker(phrase, start, end)) < end:
            end = cut
        else:
            break
    return phrase[start:end]


def _is_tag(match: re.Match[str]) -> bool:
    """Whether what follows the name of a tag are attributes, and not words: "<a dog>" is no link."""
    attributes = (match[1] or "").strip().strip("/")
    return not attributes or "=" in attributes


def _replace_tag(match: re.Match[str]) -> str:
    if not _is_tag(match):
        return match[0]
    return "\n" if _BLOCK.match(match[0]) else " "


def _bracket_partners(phrase: str) -> dict[int, int | None]:
    """Return for the place of each bracket that of its partner, None for one without."""
    partners: dict[int, int | None] = {}
    opened = defaultdict[str, list[int]](list)  # for each kind, so that "(a < b)" is a pair
    for place, character in enumerate(phrase):
        if character in _BRACKETS:
            partners[place] = None
            opened[character].append(place)
        elif character in _OPENING:
            places = opened[_OPENING[character]]
            partners[place] = places.pop() if places else None
            if (partner := partners[place]) is not None:
                partners[partner] = place
    return partners


def _inside_brackets(partners: dict[int, int | None], start: int, end: int) -> tuple[int, int] | None:
    """Return the span inside brackets around a span, or without one at its edge that has no partner in it."""
    if start in partners:
        partner = partners[start]
        if partner == end - 1:
            return start + 1, end - 1
        if partner is None or not start < partner < end:
            return start + 1, end
    if end - 1 in partners:
        partner = partners[end - 1]
        if partner is None or not start <= partner < end - 1:
            return start, end - 1
    return None


def _quote_places(phrase: str) -> dict[str, deque[int]]:
    """Return where quotation marks of each kind are. Between two letters a mark is part of a word: "dog's"."""
    places = defaultdict[str, deque[int]](deque)
    for place, character in enumerate(phrase):
        if character in _QUOTES and not (
            phrase[place - 1 : place].isalnum() and phrase[place + 1 : place + 2].isalnum()
        ):
            places[_QUOTES[character]].append(place)
    return places


def _inside_quotes(phrase: str, quotes: dict[str, deque[int]], start: int, end: int) -> tuple[int, int] | None:
    """Return the span inside quotation marks around a span, or without one at its edge that has no partner in it."""
    opening, closing = _QUOTES.get(phrase[start]), _QUOTES.get(phrase[end - 1])
    for kind in filter(None, (opening, closing)):
        places = quotes[kind]
        while places and places[0] < start:
            places.popleft()
        while places and places[-1] >= end:
            places.pop()
    if opening and opening == closing and end - start > 1:
        second = quotes[opening][1]
        # In '"dog" and "cat"' the second mark closes what the first has opened.
        closes_early = not phrase[second - 1].isspace() and not phrase[second + 1 : second + 2].isalnum()
        return None if second < end - 1 and second > start + 1 and closes_early else (start + 1, end - 1)
    # Single ones. The "'90s" and a pipe of 6" keep theirs.
    if opening and len(quotes[opening]) == 1 and not (opening == "'" and phrase[start + 1 : start + 2].isdigit()):
        return start + 1, end
    if closing and len(quotes[closing]) == 1 and not phrase[end - 2 : end - 1].isdigit():
        return start, end - 1
    return None


def _is_final_stop(phrase: str, start: int, end: int) -> bool:
    last = phrase[end - 1]
    return last in _STOPS and not (last == "." and _ABBREVIATION.search(phrase, max(start, end - 8), end))


def _final_marker(phrase: str, start: int, end: int) -> int:
    """Return where dashes and the like at the end begin, with the space before them; `end` where there are none."""
    words = len(phrase[start:end].rstrip(_FINAL_MARKERS)) + start
    space = phrase.find(" ", words, end)
    return end if space < 0 else space
