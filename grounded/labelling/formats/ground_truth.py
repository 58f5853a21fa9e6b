"""Imports annotations as a run of their own: to look at, to export in another format, to measure others by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import SOURCE, AnnotatedImage, AnnotationReader, Notes, find_image
from grounded.labelling.formats.image_names import ImageNames
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store import Run, fingerprint, open_run

UNKNOWN = "images that the source does not have, kept under the name that the file has"
AMBIGUOUS = "images whose name fits several of the source, kept under the name that the file has"


@dataclass(frozen=True)
class ImportedGroundTruth:
    """The result of an import: images and instances written, and images refused with the reason."""

    images: int
    instances: int
    refused: dict[str, str] = field(default_factory=dict)


def import_ground_truth(
    folder: str | PathLike[str],
    reader: AnnotationReader,
    run: Run,
    notes: Notes,
    files: Sequence[str] | None = None,
    restart: bool = False,
) -> ImportedGroundTruth:
    """Write annotations as the records of a run; images that have a record already are passed over.

    Args:
        folder: of the run, which is new, empty, or from a run that was cut off.
        reader: of the annotations.
        run: see `run_of`.
        notes: annotations that are left out are added.
        files: names of the images in the source of the run, which replace the fitting names of the annotations; None if
            unknown.
        restart: put aside the earlier contents of the folder.

    Raises:
        ConfigError: the folder holds another run, and `restart` is not set.
        ResultError: the annotations cannot be read.
        OutputError: the records cannot be written.
    """
    names = None if files is None else ImageNames(files)
    done, refused, instances = set[str](), dict[str, str](), 0
    with open_run(folder, run, restart) as writer:
        for annotated in reader.images(notes):
            file = None if names is None else find_image(annotated, names, notes, UNKNOWN, AMBIGUOUS)
            file = annotated.names[0] if file is None else file
            try:
                if file in done:
                    raise ResultError("the image is annotated twice; the first counts")
                record = record_of(annotated, file, run)
            except ResultError as error:
                refused[annotated.names[0]] = str(error)
                continue
            done.add(file)
            instances += len(record.instances)
            if file not in writer.done:
                writer.append(record)
    return ImportedGroundTruth(len(done), instances, refused)


def run_of(reader: AnnotationReader, path: Path, name: str, source: str) -> Run:
    """Return the description of a run that is imported: the labels are its phrases.

    Args:
        reader: of the annotations.
        path: of the annotations, a change of which makes another run of it.
        name: of the format.
        source: absolute, of the images.

    Raises:
        ResultError: the annotations cannot be read.
    """
    phrases = reader.labels()
    configuration = {"imported": {"format": name, "path": str(path.resolve()), "sha256": _digest(path)}}
    config = fingerprint({"configuration": configuration, "phrases": list(phrases)})
    return Run(source=source, phrases=phrases, configuration=configuration, config=config, phrase_scores=False)


def record_of(annotated: AnnotatedImage, file: str, run: Run) -> Record:
    """Return the annotations of an image as a record. Raises ResultError where they or its size are missing."""
    if annotated.error:
        raise ResultError(annotated.error)
    if annotated.image_size is None:
        raise ResultError("the size of the image is not stated")
    if not file:
        raise ResultError("the image must have a name")
    phrase_ids = {phrase: i for i, phrase in enumerate(run.phrases)}
    scores = np.array([annotation.score for annotation in annotated.annotations], np.float32)
    instances = Instances.from_masks(
        run.phrases,
        annotated.image_size,
        [annotation.rle for annotation in annotated.annotations],
        np.array([phrase_ids[annotation.label] for annotation in annotated.annotations], np.int64),
        np.full_like(scores, np.nan),
        SOURCE,
    )
    height, width = annotated.image_size
    image = ImageInfo(file=file, width=width, height=height)
    return Record(image=image, instances=replace(instances, scores=scores), config=run.config)


def _digest(path: Path) -> str:
    """SHA-256 over a file, or over all JSON files within a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise ResultError(f"cannot read {file}: {error.strerror or error}") from error
    return digest.hexdigest()
