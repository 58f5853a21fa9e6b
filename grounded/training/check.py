"""Reads training data and names what is wrong with it before the first step: what is left out, and what stops.

Read are COCO annotation files, by the project's one reader, and the folders of labelling runs, as they were corrected.
Every image is decoded once, so that a damaged one is not found after an hour of training.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal

from grounded.data.class_names import normalise_name
from grounded.errors import ConfigError, GroundedError, ResultError, one_line
from grounded.labelling.formats.annotations import LeftOut, Notes
from grounded.labelling.formats.coco_file import CocoFile, CocoImage, read_coco
from grounded.labelling.loading import decode_image
from grounded.labelling.records import Record
from grounded.labelling.review.apply import corrected_records
from grounded.labelling.sources import open_source
from grounded.labelling.sources.files import locate_below
from grounded.labelling.store import Run
from grounded.labelling.store.run import RUN_FILE
from grounded.training.data import TrainingData, TrainingImage, TrainingObject
from grounded.utils.files import json_bytes, write_atomically
from segany.utils.addresses import is_address, read_address
from segany.utils.rle import rle_area

MISSING = "images that are missing, left out"
UNREADABLE = "images that cannot be read, left out"
OTHER_SIZE = "images of another size than their annotations state, left out"
TWICE = "images that are annotated twice, of which the first counts"
DAMAGED_RECORDS = "records and reviews that cannot be read, left out"
CROWDS = "crowd regions, left out"
OUTSIDE = "annotations whose box lies outside the image, left out"
CUT = "boxes that reach beyond the image, cut at its edge"
WITHOUT_MASK = "objects that are a box without a mask, left out"
NO_OBJECTS = "images without an object of these classes"
NEVER_SEEN = "classes without an object"
ONE_CLASS = "one class only, so that nothing teaches to tell it from others"

Needed = Literal["mask", "box"]
_AT_ONCE = 4  # images that are decoded beside one another


@dataclass(frozen=True)
class _Listed:
    """An image as the annotations list it, not opened yet."""

    file: str
    stated_size: tuple[int, int] | None
    place: str | None  # path or address, None within a source of another kind
    read: Callable[[], bytes]
    objects: Callable[[tuple[int, int], LeftOut], Sequence[tuple[TrainingObject, bool]]]  # and whether it is a crowd


@dataclass(frozen=True)
class _Opened:
    """What decoding an image has shown."""

    size: tuple[int, int]
    digest: str


def read_training_data(
    source: Path,
    notes: Notes,
    *,
    needed: Needed,
    images: str | None = None,
    classes: Sequence[str] = (),
    measured: Sequence[str] = (),
    accepted_only: bool = False,
    checked: Path | None = None,
    progress: Callable[[Iterable[_Listed]], Iterable[_Listed]] = lambda listed: listed,
) -> TrainingData:
    """Read and check training data.

    Args:
        source: a COCO annotation file, or the folder of a labelling run.
        notes: what is left out or derived is added, by kind.
        needed: what an object must have: a mask, or a box alone.
        images: folder of the images; None for that of the annotation file, or the source of the run.
        classes: the only classes to learn, in any spelling; none for all.
        measured: classes that were learned from other data: those of them that are here are taken, in that spelling.
        accepted_only: of a run, take only what a person has confirmed.
        checked: a file in which it is kept which images were decoded, so that unchanged ones are not decoded again.
        progress: passes on the images while they are decoded, as a bar does.

    Raises:
        ConfigError: no such class.
        ResultError: the annotations cannot be read, or nothing is left to learn from; says why.
    """
    is_run = source.is_dir()
    listed, names = (
        _list_run(source, images, accepted_only, notes) if is_run else _list_coco(source, images, needed, notes)
    )
    spellings: dict[str, str] = {}  # the first spelling stands for all
    for name in names:
        spellings.setdefault(normalise_name(name), name)
    if not spellings:
        raise ResultError(f"{source} has no class with a name{_reasons(notes)}")
    for name in measured:
        if normalise_name(name) in spellings:
            spellings[normalise_name(name)] = name
    chosen = _choose_classes(spellings, classes)
    if measured:
        chosen = [name for name in chosen if name in measured]
    found = []
    for one, opened in _open_all(progress(listed), notes, checked):
        left_out = LeftOut(notes, one.file)
        objects = _usable_objects(one.objects(opened.size, left_out), opened.size, needed, left_out)
        labelled = (replace(o, label=spellings[normalise_name(o.label)]) for o in objects)
        kept = tuple(o for o in labelled if o.label in chosen)
        if not kept:
            notes.add(NO_OBJECTS, one.file)
        found.append(TrainingImage(one.file, opened.size, opened.digest, kept, one.read))
    data = TrainingData(tuple(found), tuple(chosen))
    if not data.images:
        raise ResultError(f"{source} has no image that can be read{_reasons(notes)}")
    if not data.objects:
        raise ResultError(f"{source} has no object to learn from{_reasons(notes)}")
    seen = {o.label for image in data.images for o in image.objects}
    for name in data.classes:
        if name not in seen:
            notes.add(NEVER_SEEN, name)
    if len(seen) == 1:
        notes.add(ONE_CLASS, next(iter(seen)))
    return data


def _reasons(notes: Notes) -> str:
    return "".join(f"; {line}" for line in notes.lines())


def _choose_classes(spellings: Mapping[str, str], asked: Sequence[str]) -> list[str]:
    chosen = []
    for name in asked:
        if normalise_name(name) not in spellings:
            near = get_close_matches(normalise_name(name), spellings, 1)
            hint = f"; there is {spellings[near[0]]!r}" if near else ""
            raise ConfigError(f"the data has no class {name!r}{hint}")
        chosen.append(spellings[normalise_name(name)])
    return list(dict.fromkeys(chosen)) or list(spellings.values())


# ---- What is listed ----


def _list_coco(source: Path, images: str | None, needed: Needed, notes: Notes) -> tuple[list[_Listed], list[str]]:
    """The images of a COCO file, and its classes."""
    coco = read_coco(source)
    coco.note_left_out(LeftOut(notes, ""))
    root = os.path.abspath(os.path.expanduser(images)) if images is not None else str(source.absolute().parent)
    if not os.path.isdir(root):
        raise ConfigError(f"no such folder of images: {root}")
    listed: dict[str, _Listed] = {}
    for image in coco.images:
        assert image.file_name is not None  # of those that a file lists
        if image.file_name in listed:
            notes.add(TWICE, image.file_name)
            continue
        place = locate_below(image.file_name, root)
        listed[image.file_name] = _Listed(
            image.file_name, image.image_size, place, partial(_read, place), partial(_coco_objects, coco, image)
        )
    if not listed:
        raise ResultError(f"{source} lists no image{_reasons(notes)}")
    return list(listed.values()), list(coco.categories.values())


def _coco_objects(
    coco: CocoFile, image: CocoImage, size: tuple[int, int], left_out: LeftOut
) -> list[tuple[TrainingObject, bool]]:
    return [(TrainingObject(one.label, one.box, one.mask), one.is_crowd) for one in coco.objects(image, size, left_out)]


def _read(place: str) -> bytes:
    if is_address(place):
        return read_address(place)
    return Path(place).read_bytes()


def _list_run(folder: Path, images: str | None, accepted_only: bool, notes: Notes) -> tuple[list[_Listed], list[str]]:
    """The images of a labelling run, and its phrases."""
    if not (folder / RUN_FILE).is_file():
        raise ResultError(f"{folder} is a folder without {RUN_FILE}: expected a COCO file, or the folder of a run")
    run = Run.read(folder)
    get = open_source(run.source if images is None else images).get
    damaged: list[str] = []
    records = list(corrected_records(folder, accepted_only, damaged))
    for line in damaged:
        notes.add(DAMAGED_RECORDS, line)
    listed = [
        _Listed(
            record.image.file,
            (record.image.height, record.image.width),
            None,
            partial(get, record.image.file),
            partial(_record_objects, record),
        )
        for record in records
    ]
    if not listed:
        what = "image that a person has confirmed" if accepted_only else "finished image"
        raise ResultError(f"{folder} has no {what}{_reasons(notes)}")
    phrases = dict.fromkeys(phrase for record in records for phrase in record.instances.phrases)
    return listed, list(phrases)


def _record_objects(record: Record, size: tuple[int, int], left_out: LeftOut) -> list[tuple[TrainingObject, bool]]:
    instances = record.instances
    areas = rle_area(instances.rles)
    found = []
    for label, box, rle, area in zip(instances.labels, instances.boxes, instances.rles, areas, strict=True):
        x0, y0, x1, y1 = (float(side) for side in box)
        found.append((TrainingObject(str(label), (x0, y0, x1, y1), rle if area else None), False))
    return found


# ---- What is usable ----


def _usable_objects(
    objects: Iterable[tuple[TrainingObject, bool]], size: tuple[int, int], needed: Needed, left_out: LeftOut
) -> list[TrainingObject]:
    usable = []
    height, width = size
    for one, is_crowd in objects:
        x0, y0, x1, y1 = one.box
        box = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        what = f"{one.label} at {', '.join(f'{side:.0f}' for side in one.box)}"
        if is_crowd:
            left_out.add(CROWDS, what)
        elif box[2] <= box[0] or box[3] <= box[1]:
            left_out.add(OUTSIDE, what)
        elif needed == "mask" and one.mask is None:
            left_out.add(WITHOUT_MASK, what)
        else:
            if max(abs(a - b) for a, b in zip(box, one.box, strict=True)) > 1:  # a pixel is rounding
                left_out.notes.add(CUT, f"{left_out.name} {what}")
            usable.append(replace(one, box=box))
    return usable


# ---- Opening all images ----


def _open_all(listed: Iterable[_Listed], notes: Notes, checked: Path | None) -> Iterator[tuple[_Listed, _Opened]]:
    """Decode every image, in threads, and yield those that can be used, in order."""
    known = _read_checked(checked)
    seen: dict[str, list[object]] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="check") as pool:
        for one, stamp, opened in pool.map(partial(_open, known=known), listed):
            if isinstance(opened, str):
                kind = MISSING if stamp is None and one.place is not None else UNREADABLE
                notes.add(kind, one.file if kind == MISSING else f"{one.file}: {opened}")
                continue
            if stamp is not None and one.place is not None:
                seen[one.place] = [stamp, *opened.size, opened.digest]
            if one.stated_size is not None and one.stated_size != opened.size:
                sizes = " instead of ".join(f"{width} x {height}" for height, width in (opened.size, one.stated_size))
                notes.add(OTHER_SIZE, f"{one.file}: {sizes}")
                continue
            yield one, opened
    if checked is not None:
        write_atomically(checked, json_bytes(seen))


def _open(one: _Listed, known: Mapping[str, list[object]]) -> tuple[_Listed, str | None, _Opened | str]:
    """What is known of an image, or the reason why it cannot be read; with the time and size of its file."""
    stamp = None
    try:
        if one.place is not None and not is_address(one.place):
            stat = os.stat(one.place)
            stamp = f"{stat.st_mtime_ns} {stat.st_size}"
            match known.get(one.place):
                case [str(before), int(height), int(width), str(digest)] if before == stamp:
                    return one, stamp, _Opened((height, width), digest)
        data = one.read()
        return one, stamp, _Opened(decode_image(data, one.file).size, hashlib.sha256(data).hexdigest()[:16])
    except (GroundedError, OSError, ValueError, SyntaxError) as error:  # of damaged files Pillow raises them all
        return one, stamp, one_line(error, 150)


def _read_checked(checked: Path | None) -> Mapping[str, list[object]]:
    try:
        known = json.loads(checked.read_text()) if checked is not None and checked.is_file() else {}
    except (OSError, ValueError):  # it only saves time
        return {}
    return known if isinstance(known, dict) else {}
