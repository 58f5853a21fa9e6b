"""Annotations as a run of their own: to look at, to export in another format, to measure others by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np

from grounded.errors import ResultError
from grounded.labelling.formats.image_names import PictureNames
from grounded.labelling.formats.importing import SOURCE, Annotated, Notes, Reader
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store import Run, fingerprint, open_run
from grounded.stages.answers import from_masks

NO_PICTURE = "pictures that the source does not have, kept under the name that the file has"
AMBIGUOUS = "pictures whose name fits several of the source, kept under the name that the file has"


@dataclass(frozen=True)
class Imported:
    """What came of an import: pictures and instances written, and pictures refused with the reason."""

    pictures: int
    instances: int
    refused: dict[str, str] = field(default_factory=dict)


def import_truths(
    folder: str | PathLike[str],
    reader: Reader,
    run: Run,
    notes: Notes,
    files: Sequence[str] | None = None,
    restart: bool = False,
) -> Imported:
    """Write annotations as the records of a run; pictures that have a record already are passed over.

    Args:
        folder: of the run, which is new, empty, or from a run that was cut off.
        reader: of the annotations.
        run: see `run_of`.
        notes: is told of what is left out.
        files: names of the pictures in the source of the run, which are used where they are meant; None if unknown.
        restart: put aside what the folder holds.

    Raises:
        ConfigError: the folder holds another run, and `restart` is not set.
        ResultError: the annotations cannot be read.
        OutputError: the records cannot be written.
    """
    names = None if files is None else PictureNames(files)
    done, refused, instances = set[str](), dict[str, str](), 0
    with open_run(folder, run, restart) as writer:
        for annotated in reader.pictures(notes):
            file = annotated.names[0] if names is None else _named(annotated, names, notes)
            try:
                if file in done:
                    raise ResultError("the picture is annotated twice; the first counts")
                record = record_of(annotated, file, run)
            except ResultError as error:
                refused[annotated.names[0]] = str(error)
                continue
            done.add(file)
            instances += len(record.instances)
            if file not in writer.done:
                writer.append(record)
    return Imported(len(done), instances, refused)


def run_of(reader: Reader, path: Path, name: str, source: str) -> Run:
    """Return what is asked by an import: the labels are the phrases.

    Args:
        reader: of the annotations.
        path: of the annotations, a change of which makes another run of it.
        name: of the format.
        source: absolute, of the pictures.

    Raises:
        ResultError: the annotations cannot be read.
    """
    phrases = reader.labels()
    configuration = {"imported": {"format": name, "path": str(path.resolve()), "sha256": _digest(path)}}
    config = fingerprint({"configuration": configuration, "phrases": list(phrases)})
    return Run(source=source, phrases=phrases, configuration=configuration, config=config, phrase_scores=False)


def record_of(annotated: Annotated, file: str, run: Run) -> Record:
    """Return what is annotated in a picture as a record. Raises ResultError where it cannot be said what."""
    if annotated.error:
        raise ResultError(annotated.error)
    if annotated.image_size is None:
        raise ResultError("the size of the picture is not stated")
    if not file:
        raise ResultError("the picture must have a name")
    places = {phrase: i for i, phrase in enumerate(run.phrases)}
    scores = np.array([annotation.score for annotation in annotated.annotations], np.float32)
    instances = from_masks(
        run.phrases,
        annotated.image_size,
        [annotation.rle for annotation in annotated.annotations],
        np.array([places[annotation.label] for annotation in annotated.annotations], np.int64),
        np.full_like(scores, np.nan),
        SOURCE,
    )
    height, width = annotated.image_size
    image = ImageInfo(file=file, width=width, height=height)
    return Record(image=image, instances=replace(instances, scores=scores), config=run.config)


def _named(annotated: Annotated, names: PictureNames, notes: Notes) -> str:
    candidates = names.candidates(annotated.names)
    if len(candidates) == 1:
        return candidates[0]
    notes.add(AMBIGUOUS if candidates else NO_PICTURE, annotated.names[0])
    return annotated.names[0]


def _digest(path: Path) -> str:
    """SHA-256 over a file, or over all JSON files within a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise ResultError(f"cannot read {file}: {error.strerror or error}") from error
    return digest.hexdigest()
