"""What the commands share that measure a segmenter over the images of a COCO or LVIS file: options, images, a log."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from tqdm import tqdm

from grounded.errors import ConfigError, ImageError, OutputError, ResultError, one_line

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from PIL.Image import Image

    from grounded.evaluation.dataset import GroundTruthObject
    from grounded.labelling.formats.annotations import Notes
    from grounded.labelling.formats.coco_file import Id
    from grounded.labelling.formats.lvis import Federation
    from grounded.labelling.sources import Source

F = TypeVar("F", bound=Callable[..., Any])
Rows = list[dict[str, Any]]
SIZE_DIFFERS = "images whose size differs in the annotation file, left out"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def experiment_options(out: str) -> Callable[[F], F]:
    """Decorate a command with INSTANCES, --images, --out, --limit, --sample, --seed and --restart."""
    options = (
        click.argument("truth", metavar="INSTANCES", type=_FILE),
        click.option("--images", metavar="SOURCE", help="Where the images are. [default: beside INSTANCES]"),
        click.option(
            "--out",
            default=out,
            show_default=True,
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of the results; an evaluation that was interrupted goes on there.",
        ),
        click.option("--limit", type=click.IntRange(1), help="Measure so many images, the first of the file. [all]"),
        click.option("--sample", type=click.IntRange(1), help="Measure so many images, drawn at random. [all]"),
        click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn at random."),
        click.option("--restart", is_flag=True, help="Begin again where an earlier evaluation lies in --out."),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True)
class ExperimentImages:
    """The chosen images of an annotation file that are there, with what is annotated in them."""

    classes: tuple[str, ...]
    objects: Mapping[str, "tuple[GroundTruthObject, ...]"]  # by file, as the annotation file names it
    sizes: Mapping[str, tuple[int, int]]  # (height, width) by file
    image_ids: Mapping[str, "Id"]  # by file
    category_ids: Mapping[str, "Id"]  # by class
    federation: "Federation | None"  # of LVIS files
    source: "Source"
    names: Mapping[str, str]  # of the images in the source, by file

    def masks(self, file: str) -> "list[GroundTruthObject]":
        """Return the objects of an image that have a mask and are no crowd."""
        return [one for one in self.objects[file] if one.mask is not None and not one.is_crowd]


def read_experiment(
    truth: Path, images: str | None, limit: int | None, sample: int | None, seed: int, notes: "Notes"
) -> ExperimentImages:
    """Read an annotation file and find its images; what cannot be used is noted, before any model is loaded.

    Raises:
        ConfigError: there are no images.
        ResultError: the file cannot be read, or no image or no mask of it can be used.
    """
    import numpy as np

    from grounded.data.class_names import normalise_name
    from grounded.evaluation.dataset import ground_truth_from_coco
    from grounded.labelling.formats.lvis import read_lvis
    from grounded.labelling.sources import open_source

    coco, federation = read_lvis(truth)
    all_objects = ground_truth_from_coco(coco)
    all_objects.note_left_out(notes)
    files = list(all_objects.sizes)[:limit]
    if sample is not None and sample < len(files):
        drawn = np.random.default_rng(seed).choice(len(files), sample, replace=False)
        files = [files[number] for number in sorted(drawn.tolist())]
    source = open_source(images or str(truth.parent))
    names = _find_images(files, source, notes)
    if not names:
        raise ResultError(f"nothing to measure: none of {len(files)} images of {truth} is in {images or truth.parent}")
    objects = {}
    for file in tqdm(names, desc="reading annotations", unit=" images", disable=None, leave=False):
        objects[file] = all_objects.objects(file, notes)
    if not any(one.mask is not None and not one.is_crowd for found in objects.values() for one in found):
        raise ResultError(f"nothing to measure: no mask is annotated in {len(names)} images of {truth}")
    ids: dict[str, Any] = {}
    for id, name in coco.categories.items():
        ids.setdefault(normalise_name(name), id)
    return ExperimentImages(
        classes=all_objects.classes,
        objects=objects,
        sizes={file: all_objects.sizes[file] for file in names},
        image_ids={image.file_name or "": image.id for image in coco.images if image.id is not None},
        category_ids={name: ids[normalise_name(name)] for name in all_objects.classes},
        federation=federation,
        source=source,
        names=names,
    )


def class_phrase(label: str) -> str:
    """Return the phrase that a class is asked for by: "bow weapon" for "bow_(weapon)", as LVIS writes it."""
    return " ".join(re.sub(r"[_()]+", " ", label).split())


def _find_images(files: Sequence[str], source: "Source", notes: "Notes") -> dict[str, str]:
    """Return the name in the source of each image that is there: as the file names it, or its last part."""
    listed = {item.file for item in source.items()}
    found = {}
    for file in files:
        name = next((name for name in (file, os.path.basename(file)) if name in listed), None)
        if name is None:
            notes.add("images that are not there, left out", file)
        else:
            found[file] = name
    return found


class ResultLog:
    """One line of JSON for each finished image below a line of settings, so that an evaluation can go on."""

    def __init__(self, path: Path, settings: Mapping[str, Any], restart: bool) -> None:
        """Open the log of earlier calls, if there is one.

        Raises:
            ConfigError: its settings are others.
        """
        self._path = path
        self.done: dict[str, Rows] = {}
        head = json.dumps(dict(settings))
        lines = [] if restart or not path.exists() else path.read_text(encoding="utf-8").splitlines()
        if lines and lines[0] != head:
            raise ConfigError(
                f"{path} is of an evaluation with other settings or weights: give another --out, or --restart"
            )
        kept = [head]
        for line in lines[1:]:
            entry = _read_line(line)
            if entry is not None:  # the last one may be cut off
                self.done[entry[0]] = entry[1]
                kept.append(line)
        self._rewrite(kept)

    def append(self, image: str, rows: Rows) -> None:
        self.done[image] = rows
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"image": image, "rows": rows}) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from error

    def _rewrite(self, lines: list[str]) -> None:
        from grounded.utils.files import write_atomically

        write_atomically(self._path, "".join(f"{line}\n" for line in lines).encode())


def _read_line(line: str) -> tuple[str, Rows] | None:
    try:
        entry = json.loads(line)
        return str(entry["image"]), list(entry["rows"])
    except (ValueError, KeyError, TypeError):
        return None


def measure_images(
    chosen: ExperimentImages,
    log: ResultLog,
    notes: "Notes",
    doing: str,
    measure: "Callable[[str, Image], Rows]",
) -> dict[str, Rows]:
    """Return the rows of every image that can be read, from the log or measured now.

    Args:
        chosen: images.
        log: of this evaluation; each image is added as soon as it is measured.
        notes: images that cannot be read are added.
        doing: what the progress bar says.
        measure: called with the file and the upright RGB image.

    Raises:
        ResultError: no image could be read.
    """
    rows = {}
    for file, pixels in _open_images(chosen, log, notes, doing):
        if pixels is not None:
            log.append(file, measure(file, pixels))
        rows[file] = log.done[file]
    if not rows:
        raise ResultError("nothing to measure: no image of the annotation file could be read")
    return rows


def _open_images(
    chosen: ExperimentImages, log: ResultLog, notes: "Notes", doing: str
) -> "Iterator[tuple[str, Image | None]]":
    """Yield the images one by one, None for those that the log holds; images that cannot be read are noted."""
    from grounded.data.image import open_image

    for file, name in tqdm(chosen.names.items(), desc=doing, unit=" images", disable=None, leave=False):
        if file in log.done:
            yield file, None
            continue
        try:
            source = open_image(chosen.source.get(name))
        except ImageError as error:
            notes.add("images that cannot be read, left out", f"{file}: {one_line(error, 100)}")
            continue
        if source.size != chosen.sizes[file]:
            notes.add(SIZE_DIFFERS, file)
            continue
        yield file, source.pixels
