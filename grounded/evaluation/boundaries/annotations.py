"""Reads boundaries as annotators drew them: BSDS500's .mat files, and PNG maps in which any value but 0 is boundary."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image
from scipy.io import loadmat

from grounded.errors import ResultError, one_line
from grounded.evaluation.boundaries.thinning import thin

# BSDS500's files hold a few megabytes. A damaged or hostile one may state any size, which reading would allocate.
_MAX_BYTES = 1 << 28
_HEADER, _COMPRESSED = 128, 15  # of MAT files of level 5: bytes of the header, and the type of a compressed element
_PNG_MODES = ("1", "L", "P", "I", "I;16", "I;16B")  # of Pillow: one value per pixel

Annotations = tuple[Bool[np.ndarray, "h w"], ...]


def find_annotations(folder: Path) -> dict[str, Path]:
    """Return the ground truth of each image by the name of its file without suffix.

    It is NAME.mat, NAME.png, or a folder NAME of PNG files, one for each annotator.

    Raises:
        ResultError: there is none, or an image has it twice.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and any(_is_png(file) for file in path.iterdir())
        if not is_folder and not _is_png(path) and path.suffix.lower() != ".mat":
            continue
        name = path.name if is_folder else path.stem
        if name in found:
            raise ResultError(f"{folder} must hold each image once, got {found[name].name}, {path.name}")
        found[name] = path
    if not found:
        raise ResultError(f"{folder} must hold NAME.mat, NAME.png or folders NAME of PNG files, got none")
    return found


def read_annotations(path: Path) -> Annotations:
    """Read the boundary pixels of one image, for each annotator.

    Those of .mat files are taken as they are, as the benchmark does; those of PNG files are thinned.

    Raises:
        ResultError: a file cannot be read, or the annotators' maps differ in size.
    """
    if path.suffix.lower() == ".mat" and not path.is_dir():
        annotations = tuple(_read_mat(path))
    else:
        files = sorted(file for file in path.iterdir() if _is_png(file)) if path.is_dir() else [path]
        annotations = tuple(thin(_read_png(file)) for file in files)
    sizes = {annotation.shape for annotation in annotations}
    if len(sizes) != 1:
        raise ResultError(f"{path} must hold boundaries of one size, got {sorted(sizes) or 'none'}")
    return annotations


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png" and not path.name.startswith(".")


def _read_png(path: Path) -> Bool[np.ndarray, "h w"]:
    try:
        with Image.open(path) as image:
            if image.mode not in _PNG_MODES:
                raise ResultError(f"{path} must be a map of one value per pixel, got {image.mode}")
            return np.asarray(image) != 0
    except ResultError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ResultError(f"cannot read {path}: {one_line(error)}") from error


# ---- MAT files: groundTruth is a cell array with a struct for each annotator, whose field Boundaries is a matrix ----


def _read_mat(path: Path) -> Iterator[Bool[np.ndarray, "h w"]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    _check_mat(path, data)
    try:
        cells: Any = loadmat(io.BytesIO(data), variable_names=["groundTruth"]).get("groundTruth")
    except Exception as error:  # damaged files make SciPy raise nearly every type
        raise ResultError(f"cannot read {path}: {one_line(error, 200)}") from error
    if not isinstance(cells, np.ndarray) or cells.dtype != object:
        raise ResultError(f"{path} must hold groundTruth, a cell array of structs, as BSDS500 does")
    for number, cell in enumerate(cells.reshape(-1), 1):
        yield _boundaries(cell, f"{path}: annotator {number}")


def _boundaries(cell: Any, where: str) -> Bool[np.ndarray, "h w"]:
    """Return the field Boundaries of a struct."""
    is_struct = isinstance(cell, np.ndarray) and cell.size == 1 and "Boundaries" in (cell.dtype.names or ())
    values = cell["Boundaries"].reshape(-1)[0] if is_struct else None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ResultError(f"{where} must have Boundaries, a matrix of numbers")
    return np.asarray(values > 0)


def _check_mat(path: Path, data: bytes) -> None:
    """Raise ResultError for what is no MAT file of level 5, and for one that unpacks to more than is sensible."""
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise ResultError(f"{path} is not a MAT file of level 5 (save -v7 or -v6)")
    order = "<" if data[126:128] == b"IM" else ">"
    size, position = len(data), _HEADER
    while position + 8 <= len(data) and size <= _MAX_BYTES:
        kind, length = struct.unpack_from(f"{order}II", data, position)
        position += 8
        if kind == _COMPRESSED:
            size += _unpacked_size(path, data[position : position + length])
        position += length
    if size > _MAX_BYTES:
        raise ResultError(f"{path} must unpack to at most {_MAX_BYTES >> 20} MB, and holds more")


def _unpacked_size(path: Path, packed: bytes) -> int:
    """Return the size of a compressed element, or a size above the limit where it is larger."""
    unpacker = zlib.decompressobj()
    try:
        return len(unpacker.decompress(packed, _MAX_BYTES + 1))
    except zlib.error as error:
        raise ResultError(f"cannot read {path}: {error}") from error
