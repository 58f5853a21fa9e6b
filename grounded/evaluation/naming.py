"""Which class of a truth a phrase asks for."""

import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from grounded.errors import ConfigError

_ARTICLES = ("a ", "an ", "the ")


def normalised(name: str) -> str:
    """Return what names are compared by: "The Fire_Hydrant" and "a fire hydrant" are one."""
    text = " ".join(unicodedata.normalize("NFC", str(name)).casefold().replace("_", " ").split())
    article = next((article for article in _ARTICLES if text.startswith(article)), "")
    return text[len(article) :]


class ClassNames:
    """Finds the class that a phrase asks for: the one of the same name, or the one that it is mapped to.

    Args:
        classes: of the truth.
        mapping: phrase -> class, for phrases that are called otherwise; it goes before names that are equal.

    Raises:
        ConfigError: the mapping names a class that the truth does not have.
    """

    def __init__(self, classes: Iterable[str], mapping: Mapping[str, str] | None = None) -> None:
        self._classes = {normalised(name): name for name in classes}
        for phrase, name in (mapping or {}).items():
            if normalised(name) not in self._classes:
                near = get_close_matches(normalised(name), self._classes, 1)
                hint = f"; there is {self._classes[near[0]]!r}" if near else ""
                raise ConfigError(f"cannot map {phrase!r} to {name!r}: the truth has no such class{hint}")
        self._mapped = {normalised(p): self._classes[normalised(name)] for p, name in (mapping or {}).items()}
        self._known: dict[str, str | None] = {}

    def of(self, phrase: str) -> str | None:
        """Return the class that a phrase asks for, None for a phrase that the truth knows nothing of."""
        if phrase not in self._known:  # the same few phrases come with every picture
            name = normalised(phrase)
            self._known[phrase] = self._mapped.get(name, self._classes.get(name))
        return self._known[phrase]
