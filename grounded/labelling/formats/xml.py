"""XML element by element, written and read, since CVAT's one file holds all images.

By hand, because the standard library writes whole trees only, and reads what should be refused: a document type
declares entities, which may stand for gigabytes or for other files.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from grounded.errors import ResultError

_DEPTH = 50  # of elements in one another
_CHUNK = 1 << 16  # bytes read at once

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_element(tag: str, content: str = "", /, **attributes: object) -> str:
    """Return an element, <tag a="..."/> or around `content`; characters that XML does not have become U+FFFD."""
    text = "".join(f" {key}={quoteattr(xml_text(str(value)))}" for key, value in attributes.items())
    return f"<{tag}{text}>{content}</{tag}>" if content else f"<{tag}{text}/>"


def xml_text(text: str) -> str:
    """Return text with U+FFFD for characters that XML does not have."""
    return _NO_XML.sub("\ufffd", text)


def read_elements(path: Path, tags: Collection[str]) -> Iterator[ET.Element]:
    """Yield each element of some tags when it is complete, with all that is in it.

    Elements in an element that is yielded are not yielded once more. The first element of a file is yielded too, when
    it begins and without what is in it.

    Raises:
        ResultError: the file cannot be read, is not XML, or has a document type.
    """
    try:
        with path.open("rb") as file:
            elements = _Elements(tags)
            while chunk := file.read(_CHUNK):
                yield from elements.feed(chunk)
            yield from elements.feed(b"", is_last=True)
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except expat.ExpatError as error:
        raise ResultError(f"{path} is not XML: {error}") from error
    except (LookupError, ValueError) as error:  # an unknown encoding, or one of several bytes
        raise ResultError(f"cannot read {path}: {error}") from error


class _Elements:
    """Elements of some tags in a file that comes in parts."""

    def __init__(self, tags: Collection[str]) -> None:
        self._tags = tags
        self._depth = 0
        self._open: list[ET.Element] = []  # those in one another, the outermost one of `tags`
        self._complete: list[ET.Element] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def feed(self, chunk: bytes, is_last: bool = False) -> list[ET.Element]:
        """Return the elements that are complete now."""
        self._parser.Parse(chunk, is_last)
        complete, self._complete = self._complete, []
        return complete

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type (<!DOCTYPE ...>) is not taken, as it may stand for anything")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEPTH:
            raise ValueError(f"there are more than {_DEPTH} elements in one another")
        element = ET.Element(tag, attributes)
        if self._open:
            self._open[-1].append(element)
            self._open.append(element)
        elif tag in self._tags:
            self._open.append(element)
        elif self._depth == 1:
            self._complete.append(element)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._open:
            element = self._open.pop()
            if not self._open:
                self._complete.append(element)

    def _text(self, text: str) -> None:
        if self._open and not len(self._open[-1]):  # text behind a child is white space in these formats
            self._open[-1].text = (self._open[-1].text or "") + text
