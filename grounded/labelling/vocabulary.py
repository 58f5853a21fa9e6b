"""Vocabulary of a data set: classes, the phrases that mean each of them, and negative phrases for look-alikes.

It is read from text, in which every phrase is a class, or from YAML:

    threshold: 0.2
    classes:
      dog:                                  # found by its name
      cat: a cat                            # found by another phrase
      car: [car, taxi, van]                 # found by several
      bus:
        phrases: [bus, {phrase: minibus, threshold: 0.5}]
        threshold: 0.3
    negatives: [toy car]

`classes` may also be a list, whose entries are names, or mappings with a `name` beside the keys above.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Bool, Int64

from grounded.data.instances import Instances
from grounded.data.phrases import parse, phrase_key, shortened
from grounded.errors import ConfigError, PromptError
from grounded.stages.verify import suppress
from grounded.utils.validation import Fraction, TextTuple, checked_dataclass, read_as, typed_repr
from segany.utils.rle import rle_iou

# Masks, unlike boxes, of two objects hardly overlap: with more than half in common they are of the same one.
_SAME_OBJECT_IOU = 0.5


@checked_dataclass
class ClassPhrase:
    """One phrase of a class, and the lowest score of an instance that it finds; None for any."""

    phrase: str
    threshold: Fraction | None = None


@dataclass(frozen=True)
class LabelClass:
    """A class of the data set, and the phrases that mean it, at least one."""

    name: str
    phrases: tuple[ClassPhrase, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the class is found by its own name alone, at any score."""
        return self.phrases == (ClassPhrase(self.name),)


@dataclass(frozen=True)
class Vocabulary:
    """Classes in the order of their ids, and negatives: phrases that only catch look-alikes.

    The pipeline is run with `queries`; `to_classes` turns the instances that it finds into instances of the classes.

    Raises:
        ConfigError: there is no class, or the same words name two classes, or are phrases of two.
    """

    classes: tuple[LabelClass, ...]
    negatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes must hold at least one class, got none")
        _check_distinct("the name", ((one.name, "classes") for one in self.classes))
        phrases = [(entry.phrase, f"class {one.name!r}") for one in self.classes for entry in one.phrases]
        _check_distinct("the phrase", [*phrases, *((phrase, "negatives") for phrase in self.negatives)])

    @classmethod
    def from_text(cls, text: str | Sequence[str]) -> "Vocabulary":
        """Make every phrase of the text a class of its own; text is split as in `Pipeline.segment`.

        Raises:
            PromptError: the text holds no phrase.
        """
        return cls(tuple(LabelClass(phrase, (ClassPhrase(phrase),)) for phrase in parse(text)))

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> "Vocabulary":
        """Read a YAML file.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or is wrong; the message names file and key.
        """
        try:
            data = yaml.load(Path(path).read_bytes(), Loader=_VocabularyLoader)
        except OSError as error:
            raise ConfigError(f"cannot read vocabulary {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a number of 5,000 digits
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        return cls.from_dict({} if data is None else data, where=str(path))

    @classmethod
    def from_dict(cls, data: Any, where: str = "vocabulary") -> "Vocabulary":
        """Read nested mappings, as YAML and JSON hold them; `where` starts every error message.

        Raises:
            ConfigError: unknown key, wrong type, a threshold out of range, words that appear twice, or no class.
        """
        top = read_as(_FileKeys, data, where)
        entries = _class_entries(top.classes, where)
        classes = tuple(_read_class(name, entry, key, top.threshold) for name, entry, key in entries)
        negatives = tuple(_read_words(text, f"{where}: negatives") for text in top.negatives)
        try:
            return cls(classes, negatives)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, the same for however the vocabulary was written.

        `classes` is a list in it, because their order matters; `from_dict` reads it back.
        """
        classes = [{"name": one.name, "phrases": [dict(vars(entry)) for entry in one.phrases]} for one in self.classes]
        return {"classes": classes, "negatives": list(self.negatives)}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The c labels of the data set."""
        return tuple(one.name for one in self.classes)

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """The q phrases to run the pipeline with: those of each class in turn, then the negatives."""
        return (*(entry.phrase for entry in self._class_phrases), *self.negatives)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """For each query the number of its class; each negative has a number of its own, from c upwards."""
        of_phrases = [number for number, one in enumerate(self.classes) for _ in one.phrases]
        return (*of_phrases, *range(len(self.classes), len(self.classes) + len(self.negatives)))

    @cached_property
    def _class_phrases(self) -> tuple[ClassPhrase, ...]:
        return tuple(entry for one in self.classes for entry in one.phrases)

    def to_classes(self, instances: Instances) -> Instances:
        """Turn instances of `queries` into instances of the classes, best first.

        Dropped are instances

        - that score less than the threshold of their phrase,
        - of a negative,
        - that the detector scores higher for a negative than for any phrase of their class,
        - whose mask is also that of a better instance of a negative,
        - whose mask is also that of a better instance of their class, found by another of its phrases.

        The score for a class is the highest among its phrases. Where classes are nothing but phrases, the instances
        are returned as they are.

        Raises:
            ValueError: the instances are not of `queries`.
        """
        if instances.phrases != self.queries:
            expected, actual = shortened(repr(self.queries)), shortened(repr(instances.phrases))
            raise ValueError(f"instances must be of the phrases {expected}, got {actual}")
        if not self.negatives and all(one.is_plain for one in self.classes):
            return instances
        groups, class_count = np.array(self.groups), len(self.classes)
        is_positive = groups[instances.phrase_ids] < class_count
        positive, negative = instances[is_positive], instances[~is_positive]
        thresholds = np.array(
            [-np.inf if entry.threshold is None else entry.threshold for entry in self._class_phrases]
        )
        positive = positive[~(positive.scores < thresholds[positive.phrase_ids])]  # an unknown score is not below

        columns = [positive.phrase_scores[:, groups == number] for number in range(class_count)]
        class_scores = np.stack([np.fmax.reduce(column, axis=1) for column in columns], axis=1)  # (n, c)
        negative_scores = np.fmax.reduce(positive.phrase_scores[:, groups >= class_count], axis=1, initial=-np.inf)
        class_ids = groups[positive.phrase_ids]
        labelled = replace(positive, phrases=self.class_names, phrase_ids=class_ids, phrase_scores=class_scores)
        labelled = labelled[~(negative_scores > class_scores[np.arange(len(labelled)), class_ids])]
        labelled = labelled[~_is_outscored(labelled, negative)]
        return labelled[self._without_duplicates(labelled)]

    def _without_duplicates(self, instances: Instances) -> Int64[np.ndarray, "m"]:
        """Indices of the instances that no other phrase of their class has found with a higher score, best first.

        The pipeline has removed the duplicates within one phrase, so classes of a single phrase are left as they are.
        """
        has_synonyms = np.array([len(one.phrases) > 1 for one in self.classes])[instances.phrase_ids]
        rivals = np.where(has_synonyms, instances.phrase_ids, len(self.classes) + np.arange(len(instances)))
        return suppress(instances.rles, instances.scores, rivals, _SAME_OBJECT_IOU)


def _is_outscored(instances: Instances, others: Instances) -> Bool[np.ndarray, "n"]:
    """Whether one of the others has the same mask as an instance, and a higher score."""
    same_mask = rle_iou(instances.rles, others.rles) > _SAME_OBJECT_IOU  # (n, m)
    return np.any(same_mask & (others.scores > instances.scores[:, None]), axis=1)


@checked_dataclass
class _FileKeys:
    """The keys of a file. A value of type `object` may have several forms, and is read by a function below."""

    classes: object = ()
    negatives: TextTuple = ()
    threshold: Fraction | None = None  # of classes that state none


@checked_dataclass
class _ClassKeys:
    """The keys of a class."""

    phrases: object = None
    threshold: Fraction | None = None  # of phrases that state none


def _class_entries(classes: object, where: str) -> Iterator[tuple[str, object, str]]:
    """Yield the name of each class, its entry, and the place for error messages."""
    if isinstance(classes, Mapping):
        for name, entry in classes.items():
            yield _read_words(name, f"{where}: classes"), entry, f"{where}: classes.{name}"
    elif isinstance(classes, (list, tuple)):
        for i, entry in enumerate(classes):
            key = f"{where}: classes[{i}]"
            if isinstance(entry, Mapping):
                if "name" not in entry:
                    raise ConfigError(f"{key} must have the key name, got {', '.join(map(str, entry)) or 'none'}")
                yield _read_words(entry["name"], f"{key}.name"), {k: v for k, v in entry.items() if k != "name"}, key
            else:
                yield _read_words(entry, key), None, key
    else:
        raise ConfigError(f"{where}: classes must be a mapping or a list, got {typed_repr(classes)}")


def _read_class(name: str, entry: object, where: str, default_threshold: float | None) -> LabelClass:
    if not isinstance(entry, Mapping):
        entry = {} if entry is None else {"phrases": entry}
    keys = read_as(_ClassKeys, entry, where)
    threshold = default_threshold if keys.threshold is None else keys.threshold
    phrases = name if keys.phrases is None else keys.phrases
    if not isinstance(phrases, (list, tuple)):
        phrases = [phrases]
    if not phrases:
        raise ConfigError(f"{where}: phrases must hold at least one phrase, got none")
    return LabelClass(name, tuple(_read_phrase(phrase, f"{where}: phrases", threshold) for phrase in phrases))


def _read_phrase(entry: object, where: str, default_threshold: float | None) -> ClassPhrase:
    if not isinstance(entry, Mapping):
        return ClassPhrase(_read_words(entry, where), default_threshold)
    if "phrase" not in entry:
        raise ConfigError(f"{where} must each have the key phrase, got {', '.join(map(str, entry)) or 'none'}")
    words = _read_words(entry["phrase"], f"{where}.phrase")
    phrase = read_as(ClassPhrase, {**entry, "phrase": words}, where)
    return ClassPhrase(words, default_threshold if phrase.threshold is None else phrase.threshold)


def _read_words(text: object, where: str) -> str:
    """A name or phrase without needless white space."""
    if not isinstance(text, str):
        # YAML reads bare numbers as something else, and 007 as 7.
        raise ConfigError(f"{where} must be text, got {typed_repr(text)}: put it in quotes")
    try:
        return parse([text])[0]
    except PromptError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_distinct(kind: str, words: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError for words that come twice, compared by `phrase_key`.

    Args:
        kind: of the words, for the message: "the phrase".
        words: each with its place in the vocabulary.
    """
    seen: dict[str, tuple[str, str]] = {}
    for text, place in words:
        key = phrase_key(text)
        if key in seen:
            first, other = seen[key]
            places = place if place == other else f"{other} and {place}"
            raise ConfigError(f"{kind} {text!r} appears twice, in {places}: the first is {first!r}")
        seen[key] = text, place


class _VocabularyLoader(yaml.SafeLoader):
    """YAML for words: bare `no`, `on` and dates are text as they are written.

    A key stated twice is refused: of two classes of one name, the first would be lost silently.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012, as the base class has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []  # a list, because the loader itself reports keys that cannot be hashed
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
