"""The ids that images and categories have in the COCO file that a run was labelled or imported from.

They lie beside the records, so that exports keep them: results are then compared with that file by its own tools.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from grounded.data.class_names import normalise_name
from grounded.errors import ResultError
from grounded.utils.files import json_bytes, write_atomically

SOURCE_IDS = "source_ids.json"
Id: TypeAlias = int | str


@dataclass(frozen=True)
class SourceIds:
    """Ids of a COCO file."""

    images: Mapping[str, Id] = field(default_factory=dict)  # by the name that the image has in the records
    categories: Mapping[str, Id] = field(default_factory=dict)  # by name

    def write(self, folder: str | PathLike[str]) -> None:
        """Write them into the folder of a run, atomically. Raises OutputError."""
        data = {"images": dict(self.images), "categories": dict(self.categories)}
        write_atomically(Path(folder) / SOURCE_IDS, json_bytes(data))

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> "SourceIds | None":
        """Read those of a run; None where it has none. Raises ResultError."""
        path = Path(folder) / SOURCE_IDS
        try:
            data = json.loads(path.read_bytes())
            return cls(_checked(data["images"]), _checked(data["categories"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ResultError(f"{path} holds no ids of images and categories: {error}") from error


def _checked(ids: Any) -> dict[str, Id]:
    if not isinstance(ids, dict) or not all(isinstance(id, int | str) for id in ids.values()):
        raise TypeError("ids must be numbers or texts by name")
    return ids


class Numbering:
    """Numbers images and categories for an export: by the ids of the source, or else from 1 as they come.

    Args:
        classes: in the order in which categories are numbered.
        ids: of the source. What it does not know is numbered behind its greatest number.
    """

    def __init__(self, classes: Sequence[str], ids: SourceIds | None = None) -> None:
        ids = ids or SourceIds()
        known: dict[str, Id] = {}
        for name, id in ids.categories.items():
            known.setdefault(normalise_name(name), id)
        taken, next_id = set[Id](), _behind(ids.categories.values())
        self.category_ids: dict[str, Id] = {}
        for label in classes:
            found = ids.categories[label] if label in ids.categories else known.get(normalise_name(label))
            if found is None or found in taken:  # two labels of one category stay apart
                found, next_id = next_id, next_id + 1
            taken.add(found)
            self.category_ids[label] = found
        self._images, self._next = ids.images, _behind(ids.images.values())

    def image_id(self, file: str) -> Id:
        """Return the id of an image, whose name is that in its record; asked once for each."""
        if file in self._images:
            return self._images[file]
        self._next += 1
        return self._next - 1


def _behind(ids: Any) -> int:
    return 1 + max((id for id in ids if not isinstance(id, str)), default=0)
