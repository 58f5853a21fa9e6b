"""Records in the formats that other programs read; docs/formats.md tells what each of them keeps and loses."""

import importlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast, runtime_checkable

import grounded
from grounded.errors import ConfigError
from grounded.utils.folders import write_file, written_whole

if TYPE_CHECKING:  # the names of formats are asked for before there is a record
    from grounded.labelling.records import Record

Lost: TypeAlias = Counter[str]
"""What a format could not say, in words, and how often."""

NOTE = "export.txt"  # in every exported folder: what it holds, and what is lost
_FRAME = "Boxes and masks are of the upright pictures, as they are seen once the EXIF orientation is applied."


@runtime_checkable
class Write(Protocol):
    """How a format is written. All that is kept in memory is what a picture needs, and its name."""

    def __call__(
        self,
        records: "Iterable[Record]",
        classes: Sequence[str],
        folder: Path,
        images: Callable[[str], bytes] | None = None,
    ) -> Lost:
        """Write records into a folder that is new and belongs to nobody else yet; `export` gives it its name.

        Args:
            records: each of another picture.
            classes: all labels there may be, in the order in which the format is to number them.
            folder: empty.
            images: returns the bytes of a picture by its `file`; with it, the pictures are copied to where the format
                has them, upright (`pictures.save`).

        Raises:
            ResultError: an instance is of none of the classes.
            ConfigError: the format cannot hold the classes.
            ImageError: a picture cannot be read, or not be turned upright.
            OutputError: a file cannot be written.
        """
        ...


@dataclass(frozen=True)
class Format:
    """A format by its name, and where its `Write` lies, which is imported when it is first used."""

    name: str
    module: str
    function: str = "write"

    @property
    def write(self) -> Write:
        return cast(Write, getattr(importlib.import_module(f"grounded.labelling.formats.{self.module}"), self.function))


FORMATS: dict[str, Format] = {
    name: Format(name, *place)
    for name, place in {
        "coco": ("coco_write",),
        "yolo-seg": ("yolo", "write_segments"),
        "yolo-box": ("yolo", "write_boxes"),
        "voc": ("voc",),
        "labelme": ("labelme_write",),
        "label-studio": ("label_studio_write",),
        "cvat": ("cvat",),
        "png": ("png",),
        "panoptic": ("panoptic",),
        "csv": ("table", "write_csv"),
        "parquet": ("table", "write_parquet"),
    }.items()
}


@dataclass(frozen=True)
class Summary:
    """What was exported, and what of it the format could not say."""

    pictures: int
    instances: int
    lost: Lost

    def lines(self) -> list[str]:
        """One line for each kind of loss: what is lost, and how often."""
        return [f"{what}: {count}" for what, count in sorted(self.lost.items()) if count]


def export(
    name: str,
    records: "Iterable[Record]",
    classes: Sequence[str],
    folder: str | PathLike[str],
    images: Callable[[str], bytes] | None = None,
    *,
    replace: bool = False,
) -> Summary:
    """Write records in one of the `FORMATS`, into a folder that is there when it is complete, and not before.

    Besides the format's own files it holds `export.txt`, which tells what was lost.

    Args:
        name: of the format.
        records: each of another picture; they are taken one by one.
        classes: all labels there may be, in the order in which the format is to number them.
        folder: new or empty, or with `replace` that of an earlier export, which is put away when the new one is ready.
        images: returns the bytes of a picture by its `file`; with it, upright copies of the pictures are written.

    Raises:
        ConfigError: there is no such format, it cannot hold the classes, or a class is named twice.
        ResultError: an instance is of none of the classes.
        ImageError: a picture cannot be read, or not be turned upright.
        OutputError: a file cannot be written, or the folder holds something else.
        ImportError: the format needs a package that is not installed.
    """
    if name not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    if len(set(classes)) != len(classes):
        twice = next(label for label, count in Counter(classes).items() if count > 1)
        raise ConfigError(f"classes must differ from one another, got {twice!r} twice")
    write = FORMATS[name].write
    totals: Counter[str] = Counter()

    def counted() -> "Iterator[Record]":
        for record in records:
            totals["pictures"] += 1
            totals["instances"] += len(record.instances)
            totals["turned"] += record.image.orientation != 1
            yield record

    with written_whole(Path(folder), NOTE if replace else None) as place:
        lost = write(counted(), classes, place, images)
        if images is None:
            what = "pictures with an EXIF orientation, whose boxes do not fit for programs that ignore it"
            lost[f"{what} (copy the pictures along: the copies are upright)"] += totals["turned"]
        summary = Summary(totals["pictures"], totals["instances"], lost)
        write_file(place / NOTE, _note(name, summary).encode())
    return summary


def _note(name: str, summary: Summary) -> str:
    holds = f"{summary.pictures} pictures, {summary.instances} instances as {name}, by grounded {grounded.__version__}."
    losses = [f"- {line}" for line in summary.lines()] or ["Nothing is lost."]
    return "\n".join(itertools.chain((holds, _FRAME, ""), ("Lost:",) if summary.lines() else (), losses)) + "\n"
