"""Imports what people changed in an annotation tool, as reviews of a run."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np
import torch
from scipy import ndimage

from grounded.data.phrases import parse, phrase_key
from grounded.errors import PromptError, ResultError
from grounded.labelling import store
from grounded.labelling.formats.annotations import (
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    Notes,
    mark,
    match_images,
)
from grounded.labelling.formats.image_names import ImageNames
from grounded.labelling.records import Record
from grounded.labelling.review.apply import resolve_reviews
from grounded.labelling.review.log import (
    Action,
    InstanceKey,
    Review,
    append_reviews,
    group_by_file,
    read_reviews,
)
from segany.utils.boxes import box_iou
from segany.utils.rle import RLE, decode_rle, rle_area, rle_boxes, rle_intersection, rle_iou, rle_union

UNCHANGED_IOU = 0.999
SAME_IOU = 0.5  # least IoU at which a mask without a mark counts as a changed one
_ROUNDED_IOU = 0.8  # of masks that differ at the outline alone: small ones are nothing but outline
_REVIEWS_AT_ONCE = 256  # appended together

UNKNOWN = "images that the run does not have, left out"
AMBIGUOUS = "images whose name fits several of the run, left out"
INCOMPLETE = "images with annotations that were left out or are boxes alone, in which nothing is rejected"
UNMATCHED_BOXES = "boxes without a mask that overlap no instance, left out"
DAMAGED_RUN = "records and reviews of the run that cannot be read"
MISSING = "images of the run that are not annotated, left as they are"
NEW_LABELS = "labels that the run was not asked for, taken as they are"


@dataclass(frozen=True)
class ReviewedInstance:
    """An instance as it is after the reviews so far, rejected ones included."""

    key: InstanceKey
    phrase: str
    rle: RLE
    marks: frozenset[str]  # that exports may have given it, before and after reviews
    is_kept: bool = True
    is_seen: bool = False  # whether a person has looked at the mask


@dataclass(frozen=True)
class ImportedCorrections:
    """The result of an import: images compared, reviews by action, and images refused with the reason."""

    images: int
    actions: Counter[str]
    refused: dict[str, str] = field(default_factory=dict)


def import_corrections(
    folder: str | PathLike[str], reader: AnnotationReader, source: str, notes: Notes, keep_missing: bool = False
) -> ImportedCorrections:
    """Compare annotations with a run's records as they are reviewed so far, and append the differences as reviews.

    Unchanged instances are accepted, and those missing from an annotated image are rejected. Nothing is rejected in an
    image with an annotation that could not be read, or that is a box alone: what is missing need not have been deleted.
    A box alone stands for the instance whose own box it overlaps with an IoU of `SAME_IOU` or more, which it may
    relabel. Importing the same file again adds nothing.

    Args:
        folder: of the run.
        reader: of the annotations.
        source: name of the tool, for the reviews.
        notes: annotations that are left out are added.
        keep_missing: reject nothing, as where only a part of the instances was exported. LabelMe's and Label Studio's
            files list the exported ones themselves.

    Raises:
        ResultError: the folder holds no run, or the annotations cannot be read.
        OutputError: the reviews cannot be written.
    """
    phrases = {_label_key(phrase) for phrase in store.Run.read(folder).phrases}
    damaged: list[str] = []
    index, reviews = store.index_records(folder, damaged), group_by_file(read_reviews(folder, damaged))
    for line in damaged:
        notes.add(DAMAGED_RUN, line)
    names, done, refused = ImageNames(index), set[str](), dict[str, str]()
    actions: Counter[str] = Counter()
    pending: list[Review] = []

    def find_size(of: Sequence[str]) -> tuple[int, int] | None:
        found = names.candidates(of)
        try:
            return store.read_record_at(*index[found[0]]).instances.image_size if len(found) == 1 else None
        except ResultError:  # said when the annotations are compared with it
            return None

    for found in match_images(reader.images(notes, find_size), names, notes, UNKNOWN, AMBIGUOUS):
        annotated, file = found.item, found.file
        if annotated.error:
            refused[annotated.names[0]] = annotated.error
            continue
        if file is None:
            continue
        try:
            if file in done:
                raise ResultError("the image is annotated twice; the first counts")
            record = store.read_record_at(*index[file])
            check_comparable(annotated, record)
            is_incomplete = bool(annotated.left_out) or any(one.box is not None for one in annotated.annotations)
            exported = frozenset[str]() if keep_missing or is_incomplete else annotated.exported
            new = compare(record, reviews.get(file, []), annotated.annotations, source, exported, notes)
        except ResultError as error:
            refused[annotated.names[0]] = str(error)
            continue
        done.add(file)
        if is_incomplete:
            notes.add(INCOMPLETE, file)
        for annotation in annotated.annotations:
            if _label_key(annotation.label) not in phrases:
                notes.add(NEW_LABELS, annotation.label)
        actions.update(review.action for review in new)
        pending += new
        if len(pending) >= _REVIEWS_AT_ONCE:
            append_reviews(folder, *pending)
            pending.clear()
    if pending:
        append_reviews(folder, *pending)
    notes.add(MISSING, count=len(index) - len(done))
    return ImportedCorrections(len(done), actions, refused)


def check_comparable(annotated: AnnotatedImage, record: Record) -> None:
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
    is_turned = annotated.image_size == size[::-1] and record.image.orientation > 4
    hint = ": it was annotated as stored, and not upright as its EXIF orientation tells" if is_turned else ""
    raise ResultError(f"the image must be of {expected} pixels, got {got}{hint}")


def compare(
    record: Record,
    reviews: Sequence[Review],
    annotations: Sequence[Annotation],
    source: str,
    exported: Set[str] | None = None,
    notes: Notes | None = None,
) -> list[Review]:
    """Return the reviews that lead from a record as it is reviewed so far to the annotations.

    Args:
        record: of an image.
        reviews: of that image so far.
        annotations: of that image, all there are.
        source: name of the tool.
        exported: marks of the instances that the tool was given, None for all that have pixels. Others are not missing.
        notes: boxes that stand for no instance are added.

    Raises:
        ResultError: a review does not fit the record.
    """
    instances = reviewed_instances(record, reviews)
    new: list[Review] = []

    def add_review(action: Action, key: InstanceKey, phrase: str | None = None, mask: RLE | None = None) -> None:
        new.append(
            Review(
                file=record.image.file,
                action=action,
                instance=key if isinstance(key, int) else None,
                id=key if isinstance(key, str) else None,
                phrase=phrase,
                mask=mask,
                source=source,
                config=record.config,
            )
        )

    masks = [annotation for annotation in annotations if annotation.box is None]
    pairs = pair_annotations(instances, masks)
    boxes = pair_boxes([one for i, one in enumerate(instances) if i not in pairs], annotations)
    if notes is not None:
        notes.add(UNMATCHED_BOXES, record.image.file, len(annotations) - len(masks) - len(boxes))
    for i, instance in enumerate(instances):
        if i not in pairs:
            was_exported = rle_area([instance.rle])[0] > 0 if exported is None else bool(instance.marks & exported)
            label = boxes.get(instance.key)
            if label is not None and _label_key(label) != _label_key(instance.phrase):
                add_review("relabel", instance.key, phrase=label)
            elif label is None and instance.is_kept and was_exported:
                add_review("reject", instance.key)
            continue
        annotation = with_hidden_part(masks[pairs[i]], instance.rle, [one.rle for one in masks])
        is_changed = not is_same_mask(instance.rle, annotation)
        if not is_changed and not (instance.is_seen and instance.is_kept):
            add_review("accept", instance.key)
        if is_changed:
            add_review("redraw", instance.key, mask=annotation.rle)
        if _label_key(annotation.label) != _label_key(instance.phrase):
            add_review("relabel", instance.key, phrase=annotation.label)
    taken = {instance.key for instance in instances}
    for j in sorted(set(range(len(masks))) - set(pairs.values())):
        key = _new_key(masks[j], source, taken)
        taken.add(key)
        add_review("add", key, masks[j].label, masks[j].rle)
    return new


def reviewed_instances(record: Record, reviews: Sequence[Review]) -> list[ReviewedInstance]:
    """Return the instances of a record as they are after reviews, then those that a person added."""
    states = resolve_reviews(record, reviews)
    found = []
    for row, (rle, label) in enumerate(zip(record.instances.rles, record.instances.labels.tolist(), strict=True)):
        state = states.get(row)
        phrase, mask = (state.phrase or label, state.mask or rle) if state else (label, rle)
        marks = frozenset(mark(one, name) for one in (rle, mask) for name in (label, phrase))
        is_kept, is_seen = (state.is_kept, state.mask_seen) if state else (True, False)
        found.append(ReviewedInstance(row, phrase, mask, marks, is_kept, is_seen))
    for key, state in states.items():
        if isinstance(key, str) and state.phrase is not None and state.mask is not None:
            marks = frozenset({mark(state.mask, state.phrase)})
            found.append(ReviewedInstance(key, state.phrase, state.mask, marks, state.is_kept, state.mask_seen))
    return found


def pair_annotations(instances: Sequence[ReviewedInstance], annotations: Sequence[Annotation]) -> dict[int, int]:
    """Return the annotation that belongs to each instance: the one of its mark, or else the one of the best IoU.

    Where several bear the same mark, as copies do, the one of the best IoU belongs to it. Of equal ones, labels that
    are alike go together, and instances that are kept go before rejected ones.

    Returns:
        Index of an instance to index of its annotation, for those that have one.
    """
    if not instances or not annotations:
        return {}
    ious = rle_iou([a.rle for a in annotations], [i.rle for i in instances])
    same_label = np.array([[_label_key(a.label) == _label_key(i.phrase) for i in instances] for a in annotations])
    fit = ious + 1e-6 * same_label + 1e-7 * np.array([i.is_kept for i in instances])
    same_mark = np.array([[a.mark in i.marks for i in instances] for a in annotations])
    pairs: dict[int, int] = {}
    for allowed in (same_mark & ((ious > 0) | same_label), ious >= SAME_IOU):
        for j, i in sorted(zip(*np.nonzero(allowed), strict=True), key=lambda pair: -fit[pair]):
            if i not in pairs and j not in pairs.values():
                pairs[int(i)] = int(j)
    return pairs


def pair_boxes(instances: Sequence[ReviewedInstance], annotations: Sequence[Annotation]) -> dict[InstanceKey, str]:
    """Return the label of the box that stands for each instance that has one: the box alone of the best IoU.

    The box of an instance is the tight one of its mask. Of equal IoUs, labels that are alike go together.
    """
    boxes = [annotation for annotation in annotations if annotation.box is not None]
    kept = [instance for instance in instances if instance.is_kept]
    if not boxes or not kept:
        return {}
    tight = torch.from_numpy(rle_boxes([instance.rle for instance in kept]))
    ious = box_iou(torch.tensor([one.box for one in boxes], dtype=torch.float64), tight).numpy()
    same_label = np.array([[_label_key(a.label) == _label_key(i.phrase) for i in kept] for a in boxes])
    fit, labels, taken = ious + 1e-6 * same_label, dict[InstanceKey, str](), set[int]()
    for j, i in sorted(zip(*np.nonzero(ious >= SAME_IOU), strict=True), key=lambda pair: -fit[pair]):
        if kept[i].key not in labels and j not in taken:
            labels[kept[i].key] = boxes[j].label
            taken.add(j)
    return labels


def with_hidden_part(annotation: Annotation, before: RLE, all_masks: Sequence[RLE]) -> Annotation:
    """Return an annotation that is a visible part with the pixels of the mask before that lie under other ones."""
    if not annotation.is_visible_part:
        return annotation
    hidden = rle_intersection([before, rle_union(all_masks)])
    return replace(annotation, rle=rle_union([annotation.rle, hidden]))


def is_same_mask(before: RLE, after: Annotation) -> bool:
    """Whether a mask came back as it was.

    A rounded one may differ by pixels that touch the outline, which is all that another way of drawing changes.
    """
    iou = float(rle_iou([after.rle], [before])[0, 0])
    if iou >= UNCHANGED_IOU or not rle_area([before, after.rle]).any():
        return True
    if not after.is_rounded or iou < _ROUNDED_IOU:
        return False
    old, new = decode_rle([before, after.rle]).numpy()
    around = np.ones((3, 3), dtype=bool)
    widest, narrowest = ndimage.binary_dilation(old, around), ndimage.binary_erosion(old, around, border_value=1)
    return bool((new <= widest).all() and (narrowest <= new).all())


def _new_key(annotation: Annotation, source: str, taken: Set[InstanceKey]) -> str:
    """Return an id that is the same when the same annotation is imported again."""
    name = f"{source}-{mark(annotation.rle, annotation.label)}"
    number = 2
    key = name
    while key in taken:
        key, number = f"{name}-{number}", number + 1
    return key


def _label_key(label: str) -> str:
    """Return a key that is equal for labels that are the same phrase, whatever white space a tool has put in."""
    return phrase_key(" ".join(label.split()))
