"""Records beside the truth: which answer is measured against what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from grounded.errors import ResultError
from grounded.evaluation.naming import ClassNames
from grounded.evaluation.truth import Box, TrueObject, Truth
from grounded.labelling.records import Record
from segany.utils.rle import RLE


@dataclass(frozen=True)
class Answer:
    """One instance that was found, under the class of the truth that its phrase asks for."""

    label: str
    phrase: str
    score: float  # nan where unknown
    box: Box
    mask: RLE


@dataclass(frozen=True)
class Case:
    """One picture: what was asked, what is there, and what was answered."""

    file: str  # as the truth names it
    source: str | None  # the file as the record names it, None for a picture without a record
    size: tuple[int, int]  # (height, width)
    asked: Mapping[str, str]  # phrase -> class
    truths: tuple[TrueObject, ...]  # of all classes, also those that were not asked
    answers: tuple[Answer, ...]

    @property
    def wanted(self) -> tuple[TrueObject, ...]:
        """The true objects of the classes that were asked."""
        labels = set(self.asked.values())
        return tuple(thing for thing in self.truths if thing.label in labels)


@dataclass(frozen=True)
class Paired:
    """All cases, and what could not be measured."""

    cases: tuple[Case, ...]
    asked: Mapping[str, str]  # phrase -> class, of all pictures together
    unknown_phrases: Mapping[str, int]  # asked, but the truth has no such class -> instances, which are left out
    classes_not_asked: tuple[str, ...]
    missing: tuple[str, ...]  # pictures of the truth without a record
    without_truth: tuple[str, ...]  # records of pictures that are not in the truth
    other_size: tuple[str, ...]  # pictures whose size differs in the truth, which are left out
    missing_counted: bool = field(default=True)  # whether those pictures are among the cases


def pair(
    records: Iterable[Record],
    truth: Truth,
    names: ClassNames,
    phrases: Sequence[str] = (),
    count_missing: bool = True,
) -> Paired:
    """Put each record beside the truth of its picture.

    A record and a picture of the truth belong together when their names are equal, or when one of them is the other
    with folders before it. Truth and answers of a picture are kept for those classes that were asked there.

    Args:
        records: of a run; read once, one after the other.
        truth: what is to be found.
        names: finds the class of a phrase.
        phrases: of the run; those of the records are added. Asked of the pictures that have no record.
        count_missing: whether a picture without a record counts as one in which nothing was found.

    Raises:
        ResultError: two records are of one picture, or an annotation of the truth is damaged.
    """
    by_name: dict[str, list[str]] = {}
    for name in truth.sizes:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    everything = {phrase: names.of(phrase) for phrase in phrases}
    unknown: dict[str, int] = {phrase: 0 for phrase, label in everything.items() if label is None}
    cases: dict[str, Case] = {}
    without_truth: list[str] = []
    sources: dict[str, str] = {}
    other_size: list[str] = []
    for record in records:
        source = record.image.file
        file = _same_picture(source, truth, by_name)
        if file is None:
            without_truth.append(source)
            continue
        if file in sources:
            raise ResultError(f"{sources[file]} and {source} would both be measured against {file} of the truth")
        sources[file] = source
        if truth.sizes[file] != record.instances.image_size:
            other_size.append(file)
            continue
        everything |= {phrase: names.of(phrase) for phrase in record.instances.phrases}
        cases[file] = _case(record, file, truth.objects(file), names, unknown)
    asked = {phrase: label for phrase, label in everything.items() if label is not None}
    missing = tuple(name for name in truth.sizes if name not in sources)
    if count_missing:
        cases |= {name: Case(name, None, truth.sizes[name], asked, truth.objects(name), ()) for name in missing}
    return Paired(
        cases=tuple(cases[name] for name in truth.sizes if name in cases),
        asked=asked,
        unknown_phrases=unknown,
        classes_not_asked=tuple(name for name in truth.classes if name not in asked.values()),
        missing=missing,
        without_truth=tuple(without_truth),
        other_size=tuple(other_size),
        missing_counted=count_missing,
    )


def _same_picture(source: str, truth: Truth, by_name: Mapping[str, Sequence[str]]) -> str | None:
    """The picture of the truth that a record is of."""
    if source in truth.sizes:
        return source
    for file in by_name.get(PurePosixPath(source).name, ()):
        if f"/{source}".endswith(f"/{file}") or f"/{file}".endswith(f"/{source}"):
            return file
    return None


def _case(
    record: Record, file: str, truths: tuple[TrueObject, ...], names: ClassNames, unknown: dict[str, int]
) -> Case:
    """The case of one record. Instances of phrases without a class are counted in `unknown`."""
    instances = record.instances
    labels = {phrase: names.of(phrase) for phrase in instances.phrases}
    for phrase, label in labels.items():
        if label is None:
            unknown.setdefault(phrase, 0)
    answers = []
    rows = zip(instances.phrase_ids, instances.scores, instances.boxes, instances.rles, strict=True)
    for phrase_id, score, box, mask in rows:
        phrase = instances.phrases[phrase_id]
        label = labels[phrase]
        if label is None:
            unknown[phrase] += 1
        else:
            x0, y0, x1, y1 = (float(side) for side in box)
            answers.append(Answer(label, phrase, float(score), (x0, y0, x1, y1), mask))
    asked = {phrase: label for phrase, label in labels.items() if label is not None}
    return Case(file, record.image.file, instances.image_size, asked, truths, tuple(answers))
