"""What a person changed in an annotation tool -> reviews of a run."""

import unicodedata
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

from grounded.data.phrases import parse
from grounded.errors import PromptError, ResultError
from grounded.labelling import store
from grounded.labelling.formats.image_names import PictureNames
from grounded.labelling.formats.importing import Annotated, Annotation, Notes, Reader
from grounded.labelling.formats.marks import mark
from grounded.labelling.records import Record
from grounded.labelling.review import apply, log
from grounded.labelling.review.log import Key, Review
from segany.utils.rle import RLE, decode_rle

UNCHANGED_IOU = 0.999
SAME_IOU = 0.5  # least IoU at which a mask without a mark is taken for a changed one
_ROUNDED_IOU = 0.8  # of masks that differ at the outline alone: small ones are nothing but outline
_AT_ONCE = 256  # reviews appended together

UNKNOWN = "pictures that the run does not have, left out"
AMBIGUOUS = "pictures whose name fits several of the run, left out"
MISSING = "pictures of the run that are not annotated, left as they are"
NEW_LABELS = "labels that the run was not asked for, taken as they are"


@dataclass(frozen=True)
class Known:
    """An instance as it stands after the reviews so far, rejected ones included."""

    key: Key
    phrase: str
    rle: RLE
    marks: frozenset[str]  # what exports may have called it, before and after reviews
    is_kept: bool = True
    is_seen: bool = False  # whether a person has looked at the mask


@dataclass(frozen=True)
class Corrected:
    """What came of an import: pictures compared, reviews by action, and pictures refused with the reason."""

    pictures: int
    actions: Counter[str]
    refused: dict[str, str] = field(default_factory=dict)


def import_corrections(
    folder: str | PathLike[str], reader: Reader, source: str, notes: Notes, keep_missing: bool = False
) -> Corrected:
    """Compare annotations with a run's records as they are reviewed so far, and append the differences as reviews.

    What is as it was is accepted, and what is missing from an annotated picture is rejected. Importing the same file
    again adds nothing.

    Args:
        folder: of the run.
        reader: of the annotations.
        source: name of the tool, for the reviews.
        notes: is told of what is left out.
        keep_missing: reject nothing, as where only a part of the instances was exported. LabelMe's and Label Studio's
            files tell by themselves which those were.

    Raises:
        ResultError: the folder holds no run, or the annotations cannot be read.
        OutputError: the reviews cannot be written.
    """
    phrases = {_key(phrase) for phrase in store.Run.read(folder).phrases}
    index, said = store.record_index(folder), log.by_file(log.read(folder))
    names, done, refused = PictureNames(index), set[str](), dict[str, str]()
    actions: Counter[str] = Counter()
    waiting: list[Review] = []
    for annotated in reader.pictures(notes):
        if annotated.error:
            refused[annotated.names[0]] = annotated.error
            continue
        file = found(annotated, names, notes)
        if file is None:
            continue
        try:
            if file in done:
                raise ResultError("the picture is annotated twice; the first counts")
            record = store.record_at(*index[file])
            check(annotated, record)
            exported = frozenset[str]() if keep_missing else annotated.exported
            made = compare(record, said.get(file, []), annotated.annotations, source, exported)
        except ResultError as error:
            refused[annotated.names[0]] = str(error)
            continue
        done.add(file)
        for annotation in annotated.annotations:
            if _key(annotation.label) not in phrases:
                notes.add(NEW_LABELS, annotation.label)
        actions.update(review.action for review in made)
        waiting += made
        if len(waiting) >= _AT_ONCE:
            log.append(folder, *waiting)
            waiting.clear()
    if waiting:
        log.append(folder, *waiting)
    notes.add(MISSING, count=len(index) - len(done))
    return Corrected(len(done), actions, refused)


def found(annotated: Annotated, names: PictureNames, notes: Notes) -> str | None:
    """The picture of the run that is meant; None, which `notes` is told of, where that cannot be said."""
    candidates = names.candidates(annotated.names)
    if len(candidates) == 1:
        return candidates[0]
    notes.add(AMBIGUOUS if candidates else UNKNOWN, annotated.names[0])
    return None


def check(annotated: Annotated, record: Record) -> None:
    """Raise ResultError where annotations cannot be compared with a record."""
    for annotation in annotated.annotations:
        try:
            parse([annotation.label])
        except PromptError as error:
            raise ResultError(f"a label must be a phrase, got {annotation.label!r}") from error
    size = record.instances.image_size
    if annotated.image_size in (None, size):
        return
    expected, got = (f"{width} x {height}" for height, width in (size, annotated.image_size or size))
    turned = annotated.image_size == size[::-1] and record.image.orientation > 4
    hint = ": it was annotated as stored, and not upright as its EXIF orientation tells" if turned else ""
    raise ResultError(f"the picture must be of {expected} pixels, got {got}{hint}")


def compare(
    record: Record,
    said: Sequence[Review],
    annotations: Sequence[Annotation],
    source: str,
    exported: Set[str] | None = None,
) -> list[Review]:
    """Return the reviews that lead from a record as it is reviewed so far to what is annotated.

    Args:
        record: of a picture.
        said: the reviews of that picture so far.
        annotations: of that picture, all there are.
        source: name of the tool.
        exported: marks of the instances that the tool was given, None for all that have pixels. What it was not given
            is not missing.

    Raises:
        ResultError: a review does not fit the record.
    """
    known = standing(record, said)
    made: list[Review] = []

    def review(action: log.Action, key: Key, phrase: str | None = None, mask: RLE | None = None) -> None:
        row, name = (key, None) if isinstance(key, int) else (None, key)
        file, config = record.image.file, record.config
        made.append(
            Review(
                file=file, action=action, instance=row, id=name, phrase=phrase, mask=mask, source=source, config=config
            )
        )

    pairs = paired(known, annotations)
    for i, before in enumerate(known):
        if i not in pairs:
            was_given = coco_mask.area(before.rle) > 0 if exported is None else bool(before.marks & exported)
            if before.is_kept and was_given:
                review("reject", before.key)
            continue
        after = annotations[pairs[i]]
        is_changed = not is_same(before.rle, after)
        if not is_changed and not (before.is_seen and before.is_kept):
            review("accept", before.key)
        if is_changed:
            review("redraw", before.key, mask=after.rle)
        if _key(after.label) != _key(before.phrase):
            review("relabel", before.key, phrase=after.label)
    taken = {before.key for before in known}
    for j in sorted(set(range(len(annotations))) - set(pairs.values())):
        key = _new_key(annotations[j], source, taken)
        taken.add(key)
        review("add", key, annotations[j].label, annotations[j].rle)
    return made


def standing(record: Record, said: Sequence[Review]) -> list[Known]:
    """The instances of a record as they stand after reviews, then those that a person added."""
    given = apply.of(record, said)
    found = []
    for row, (rle, label) in enumerate(zip(record.instances.rles, record.instances.labels.tolist(), strict=True)):
        verdict = given.get(row)
        phrase, mask = (verdict.phrase or label, verdict.mask or rle) if verdict else (label, rle)
        marks = frozenset(mark(one, name) for one in (rle, mask) for name in (label, phrase))
        kept, seen = (verdict.kept, verdict.mask_seen) if verdict else (True, False)
        found.append(Known(row, phrase, mask, marks, kept, seen))
    for key, verdict in given.items():
        if isinstance(key, str) and verdict.phrase is not None and verdict.mask is not None:
            marks = frozenset({mark(verdict.mask, verdict.phrase)})
            found.append(Known(key, verdict.phrase, verdict.mask, marks, verdict.kept, verdict.mask_seen))
    return found


def paired(known: Sequence[Known], annotations: Sequence[Annotation]) -> dict[int, int]:
    """Return which annotation each instance has become: the one of its mark, or else the one of the best IoU.

    Where several bear the same mark, as copies do, the one of the best IoU is meant. Of equal ones, labels that are
    alike go together, and instances that are kept go before rejected ones.
    """
    if not known or not annotations:
        return {}
    ious = coco_mask.iou([a.rle for a in annotations], [k.rle for k in known], [0] * len(known))
    alike = np.array([[_key(a.label) == _key(k.phrase) for k in known] for a in annotations])
    fit = ious + 1e-6 * alike + 1e-7 * np.array([k.is_kept for k in known])
    marked = np.array([[a.mark in k.marks for k in known] for a in annotations])
    pairs: dict[int, int] = {}
    for allowed in (marked & ((ious > 0) | alike), ious >= SAME_IOU):
        for j, i in sorted(zip(*np.nonzero(allowed), strict=True), key=lambda pair: -fit[pair]):
            if i not in pairs and j not in pairs.values():
                pairs[int(i)] = int(j)
    return pairs


def is_same(before: RLE, after: Annotation) -> bool:
    """Whether a mask came back as it was.

    A rounded one may differ by pixels that touch the outline, which is all that another way of drawing changes.
    """
    iou = float(coco_mask.iou([after.rle], [before], [0])[0, 0])
    both_empty = not coco_mask.area(before) and not coco_mask.area(after.rle)
    if iou >= UNCHANGED_IOU or both_empty:
        return True
    if not after.is_rounded or iou < _ROUNDED_IOU:
        return False
    old, new = decode_rle([before, after.rle]).numpy()
    around = np.ones((3, 3), dtype=bool)
    widest, narrowest = ndimage.binary_dilation(old, around), ndimage.binary_erosion(old, around, border_value=1)
    return bool((new <= widest).all() and (narrowest <= new).all())


def _new_key(annotation: Annotation, source: str, taken: set[Key]) -> str:
    """An id that is the same when the same annotation is imported again."""
    name = f"{source}-{mark(annotation.rle, annotation.label)}"
    number = 2
    key = name
    while key in taken:
        key, number = f"{name}-{number}", number + 1
    return key


def _key(phrase: str) -> str:
    """Equal for labels that are the same phrase."""
    return unicodedata.normalize("NFC", " ".join(phrase.split())).casefold()
