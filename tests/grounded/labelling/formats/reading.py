"""Reads annotations in tests: images with their masks in full, and readers on damaged files."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from grounded.errors import GroundedError
from grounded.labelling import store
from grounded.labelling.formats import ground_truth
from grounded.labelling.formats.annotations import AnnotatedImage, FindSize, Notes, guess_format, open_annotations
from segany.utils.rle import decode_rle
from tests.fuzzing import fuzz

SIZE = (30, 40)


def read(
    path: Path, name: str | None = None, find_size: FindSize | None = None
) -> tuple[list[AnnotatedImage], list[str]]:
    """All images of annotations, and the notes."""
    notes = Notes()
    return list(open_annotations(path, name).images(notes, find_size)), notes.lines()


def masks(image: AnnotatedImage) -> list[np.ndarray]:
    assert not image.error
    return [decode_rle([annotation.rle])[0].numpy() for annotation in image.annotations]


def box(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def fuzz_file(path: Path, name: str, files: Sequence[bytes], count: int, opened: Path | None = None) -> None:
    """Put damaged versions of `files` in the place of `path`, and import them from there, or from `opened`."""

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with suppress(GroundedError):  # what cannot be told may still be named
            guess_format(opened or path)
        reader = open_annotations(opened or path, name)
        run = store.Run(source="", phrases=reader.labels())
        for image in reader.images(Notes(), lambda names: SIZE):
            if not image.error:
                ground_truth.record_of(image, image.names[0], run).to_line()

    fuzz(files, check, count)
