"""Imports annotations as a run of their own: to look at, to export in another format, to measure others by."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import GroundedError, ResultError
from grounded.labelling.formats.annotations import SOURCE, AnnotatedImage, AnnotationReader, Notes, match_images
from grounded.labelling.formats.image_names import ImageNames
from grounded.labelling.loading import decode_image
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.sources import Source
from grounded.labelling.store import Run, fingerprint, open_run
from grounded.labelling.store.source_ids import SourceIds

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
    read_size: Callable[[str], tuple[int, int] | None] | None = None,
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
        read_size: returns (height, width) of one of `files`, for images whose size the annotations do not state.

    Raises:
        ConfigError: the folder holds another run, and `restart` is not set.
        ResultError: the annotations cannot be read.
        OutputError: the records cannot be written.
    """
    names = None if files is None else ImageNames(files)
    done, refused, instances = set[str](), dict[str, str](), 0
    ids: dict[str, int | str] = {}

    def find_size(of: Sequence[str]) -> tuple[int, int] | None:
        found = [] if names is None or read_size is None else names.candidates(of)
        return read_size(found[0]) if read_size is not None and len(found) == 1 else None

    with open_run(folder, run, restart) as writer:
        for found in match_images(reader.images(notes, find_size), names, notes, UNKNOWN, AMBIGUOUS):
            annotated, file = found.item, found.file or found.item.names[0]
            try:
                if file in done:
                    raise ResultError("the image is annotated twice; the first counts")
                record = record_of(annotated, file, run)
            except ResultError as error:
                refused[annotated.names[0]] = str(error)
                continue
            done.add(file)
            if annotated.source_id is not None:
                ids[file] = annotated.source_id
            instances += len(record.instances)
            if file not in writer.done:
                writer.append(record)
    if ids:
        SourceIds(ids, reader.category_ids()).write(folder)  # exports keep them
    return ImportedGroundTruth(len(done), instances, refused)


def read_image_size(source: Source, file: str) -> tuple[int, int] | None:
    """Return (height, width) of an image of a source, upright; None where it cannot be read."""
    try:
        width, height = decode_image(source.get(file), file).pixels.size
    except (GroundedError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return height, width


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
    digest = _digest(reader.files() or (path,))
    configuration = {"imported": {"format": name, "path": str(path.resolve()), "sha256": digest}}
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
    boxes = instances.boxes.copy()
    for row, annotation in enumerate(annotated.annotations):
        if annotation.box is not None:
            boxes[row] = annotation.box
    height, width = annotated.image_size
    image = ImageInfo(file=file, width=width, height=height)
    return Record(image=image, instances=replace(instances, scores=scores, boxes=boxes), config=run.config)


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 over the files that annotations are read from."""
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise ResultError(f"cannot read {file}: {error.strerror or error}") from error
    return digest.hexdigest()
