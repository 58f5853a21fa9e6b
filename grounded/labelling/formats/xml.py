"""XML elements as text, for files that are written element by element.

By hand, because the standard library writes whole trees only, and CVAT's one file of all images would need one.
"""

import re
from xml.sax.saxutils import quoteattr

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_element(tag: str, content: str = "", /, **attributes: object) -> str:
    """Return an element, <tag a="..."/> or around `content`; characters that XML does not have become U+FFFD."""
    text = "".join(f" {key}={quoteattr(xml_text(str(value)))}" for key, value in attributes.items())
    return f"<{tag}{text}>{content}</{tag}>" if content else f"<{tag}{text}/>"


def xml_text(text: str) -> str:
    """Return text with U+FFFD for characters that XML does not have."""
    return _NO_XML.sub("\ufffd", text)
