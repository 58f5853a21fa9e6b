"""Reads LVIS annotation files (Gupta et al., 2019): COCO's format, and what is known to be absent or incomplete.

Annotating more than a thousand classes in every image is out of reach. So each image states the classes that were
looked for and are not there, and those that are there and of which some objects are not annotated. Of all other classes
nothing is known in that image.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from grounded.data.class_names import normalise_name
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import read_json
from grounded.labelling.formats.coco_file import CocoFile, IdTable, coco_from_dict

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class Federation:
    """What LVIS states beyond COCO. Classes are those of `GroundTruth`: the first of several spellings."""

    frequencies: Mapping[str, str]  # class -> "rare", "common" or "frequent", by the number of its training images
    absent: Mapping[str, frozenset[str]]  # image -> classes that are not there (`neg_category_ids`)
    incomplete: Mapping[str, frozenset[str]]  # image -> classes not annotated to the end


def read_lvis(path: str | PathLike[str]) -> tuple[CocoFile, Federation | None]:
    """Read a COCO or LVIS annotation file, without a federation for COCO's.

    Raises:
        ResultError: the file cannot be read, is not JSON, or not of COCO's form; or it has frequencies or absent
            classes for some of its categories or images alone. The message names the file.
    """
    data = read_json(Path(path))
    try:
        coco = coco_from_dict(data)
        return coco, _read_federation(data, coco)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


def _read_federation(data: Mapping[str, Any], coco: CocoFile) -> Federation | None:
    """Return what is stated of all categories and all images; None where nothing is."""
    spellings: dict[str, str] = {}
    class_of = {id: spellings.setdefault(normalise_name(name), name) for id, name in coco.categories.items()}
    categories, images = IdTable(class_of), IdTable(coco.annotations)
    frequencies: dict[str, str] = {}
    for entry in _having(data["categories"], "frequency", "categories"):
        id = categories.find(entry.get("id"))
        if entry["frequency"] not in FREQUENCIES:
            raise ResultError(f"frequency must be one of {', '.join(FREQUENCIES)}, got {entry['frequency']!r:.40}")
        if id is not None:
            frequencies[class_of[id]] = FREQUENCIES[entry["frequency"]]
    files = {image.id: image.file_name for image in coco.images}
    found: dict[str, dict[str, frozenset[str]]] = {}
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        found[key] = {}
        for entry in _having(data["images"], key, "images"):
            id, ids = images.find(entry.get("id")), entry[key]
            if not isinstance(ids, list):
                raise ResultError(f"{key} must be a list, got {ids!r:.40}")
            if id is not None:
                known = (categories.find(one) for one in ids)
                found[key][files[id] or ""] = frozenset(class_of[one] for one in known if one is not None)
    absent, incomplete = found.values()
    if bool(frequencies) != bool(absent):
        raise ResultError("an LVIS file must have both frequency in categories and neg_category_ids in images")
    return Federation(frequencies, absent, incomplete) if frequencies else None


def _having(entries: Iterable[Any], key: str, name: str) -> list[Mapping[str, Any]]:
    """Return the entries if all have a key, none if none has. Raises ResultError where only some have."""
    known = [entry for entry in entries if isinstance(entry, Mapping)]
    having = [entry for entry in known if key in entry]
    if having and len(having) < len(known):
        raise ResultError(f"{key} must stand in all {name} or in none, got {len(having)} of {len(known)}")
    return having
