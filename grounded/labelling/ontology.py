"""The written form of a vocabulary: nested mappings, as YAML and JSON hold them, <-> classes and negatives.

    threshold: 0.2
    classes:
      dog:                                  # asked by its name
      cat: a cat                            # asked by other words
      car: [car, taxi, van]                 # asked by several
      bus:
        phrases: [bus, {phrase: minibus, threshold: 0.5}]
        threshold: 0.3
    negatives: [toy car]

`classes` may also be a list, whose entries are names, or mappings with a `name` beside the keys above.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from grounded import schema
from grounded.data.phrases import parse
from grounded.errors import ConfigError, PromptError


@dataclass(frozen=True)
class Asked:
    """One phrase that the models are asked for, and the least score of what it finds; None for any."""

    phrase: str
    threshold: float | None = None

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)


@dataclass(frozen=True)
class LabelClass:
    """What instances are labelled as, and the phrases that mean it, at least one."""

    name: str
    asked: tuple[Asked, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the class is no more than its phrase."""
        return self.asked == (Asked(self.name),)


@dataclass(frozen=True)
class Ontology:
    """Classes in the order of their ids, and phrases that are asked only to catch look-alikes.

    Raises:
        ConfigError: there is no class, or the same words name two classes, or ask for two things.
    """

    classes: tuple[LabelClass, ...]
    negatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes must hold at least one class, got none")
        _check_distinct("the name", ((one.name, "classes") for one in self.classes))
        asked = [(asked.phrase, f"class {one.name!r}") for one in self.classes for asked in one.asked]
        _check_distinct("the phrase", [*asked, *((phrase, "negatives") for phrase in self.negatives)])

    def to_dict(self) -> dict[str, Any]:
        """Return the written form, in which `classes` is a list, for their order matters; `read` takes it back."""
        classes = [{"name": one.name, "phrases": [dict(vars(asked)) for asked in one.asked]} for one in self.classes]
        return {"classes": classes, "negatives": list(self.negatives)}


def load(path: str | PathLike[str]) -> Ontology:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, states a key twice, or as for `read`.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"cannot read vocabulary {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return read({} if data is None else data, where=str(path))


def read(data: Any, where: str) -> Ontology:
    """Build an ontology from its written form; `where` starts every error message.

    Raises:
        ConfigError: unknown key, wrong type, a threshold out of range, words that appear twice, or no class.
    """
    top = schema.read(_File, data, where)
    classes = tuple(_read_class(name, entry, key, top.threshold) for name, entry, key in _entries(top.classes, where))
    negatives = tuple(_words(text, f"{where}: negatives") for text in top.negatives)
    try:
        return Ontology(classes, negatives)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@dataclass(frozen=True)
class _File:
    """The keys of a file. What is `object` has several forms, and is looked at here."""

    classes: object = ()
    negatives: tuple[str, ...] = ()
    threshold: float | None = None  # of classes that state none

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)


@dataclass(frozen=True)
class _Entry:
    """The keys of a class."""

    phrases: object = None
    threshold: float | None = None  # of phrases that state none

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)


def _entries(classes: object, where: str) -> Iterator[tuple[str, object, str]]:
    """The name of each class, what is stated of it, and where."""
    if isinstance(classes, Mapping):
        for name, entry in classes.items():
            yield _words(name, f"{where}: classes"), entry, f"{where}: classes.{name}"
    elif isinstance(classes, (list, tuple)):
        for i, entry in enumerate(classes):
            key = f"{where}: classes[{i}]"
            if isinstance(entry, Mapping):
                if "name" not in entry:
                    raise ConfigError(f"{key} must have the key name, got {', '.join(map(str, entry)) or 'none'}")
                yield _words(entry["name"], f"{key}.name"), {k: v for k, v in entry.items() if k != "name"}, key
            else:
                yield _words(entry, key), None, key
    else:
        raise ConfigError(f"{where}: classes must be a mapping or a list, got {schema.shown(classes)}")


def _read_class(name: str, entry: object, where: str, threshold: float | None) -> LabelClass:
    if not isinstance(entry, Mapping):
        entry = {} if entry is None else {"phrases": entry}
    stated = schema.read(_Entry, entry, where)
    phrases = name if stated.phrases is None else stated.phrases
    if not isinstance(phrases, (list, tuple)):
        phrases = [phrases]
    if not phrases:
        raise ConfigError(f"{where}: phrases must hold at least one phrase, got none")
    least = threshold if stated.threshold is None else stated.threshold
    return LabelClass(name, tuple(_read_asked(phrase, f"{where}: phrases", least) for phrase in phrases))


def _read_asked(entry: object, where: str, threshold: float | None) -> Asked:
    if not isinstance(entry, Mapping):
        return Asked(_words(entry, where), threshold)
    if "phrase" not in entry:
        raise ConfigError(f"{where} must each have the key phrase, got {', '.join(map(str, entry)) or 'none'}")
    phrase = _words(entry["phrase"], f"{where}.phrase")
    asked = schema.read(Asked, {**entry, "phrase": phrase}, where)
    return Asked(phrase, threshold if asked.threshold is None else asked.threshold)


def _words(text: object, where: str) -> str:
    """A phrase as the models are asked for it, without needless white space."""
    if not isinstance(text, str):
        # YAML reads bare yes, no, on, off, numbers and dates as something else.
        raise ConfigError(f"{where} must be text, got {schema.shown(text)}: put it in quotes")
    try:
        return parse([text])[0]
    except PromptError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_threshold(value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ConfigError(f"threshold must lie in [0, 1], got {value}")


def _check_distinct(what: str, words: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError where words come twice, told apart as `grounded.data.phrases.parse` does; each with its place."""
    seen: dict[str, tuple[str, str]] = {}
    for text, place in words:
        key = unicodedata.normalize("NFC", text).casefold()
        if key in seen:
            first, other = seen[key]
            places = place if place == other else f"{other} and {place}"
            raise ConfigError(f"{what} {text!r} appears twice, in {places}: the first is {first!r}")
        seen[key] = text, place


class _Loader(yaml.SafeLoader):
    """YAML of which no key is stated twice: of two classes of one name, the first would be lost unseen."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []  # a list, since what cannot be a key is told by the loader itself
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key, deep=True)
            if value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {value!r} is stated twice", key.start_mark
                )
            seen.append(value)
        return dict(super().construct_mapping(node, deep))
