"""COCO results: a JSON list of what a model found, by the ids of a COCO annotation file, which is needed beside it.

    [{"image_id": 1, "category_id": 3, "segmentation": {...}, "bbox": [x, y, width, height], "score": 0.9}, ...]

It is what `COCO.loadRes` of pycocotools takes. Objects are read as those of annotation files are, see `coco_file`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import AnnotatedImage, AnnotationReader, FindSize, Notes, read_json
from grounded.labelling.formats.coco import CocoReader
from grounded.labelling.formats.coco_file import coco_from_dict

_ANNOTATIONS = ("instances.json", "annotations.json", "_annotations.coco.json")  # names looked for beside results


@dataclass(frozen=True)
class CocoResultsReader(AnnotationReader):
    """A list of results, with the images and categories of the file that they are about."""

    path: Path
    coco: Path
    reader: CocoReader  # of the results as a file of annotations

    @classmethod
    def open(cls, path: Path, coco: Path | None = None) -> "CocoResultsReader":
        """Open results.

        Args:
            path: of the results, or of a folder with `results.json`.
            coco: the annotation file that the ids are of; None for one beside the results.

        Raises:
            ResultError: the results or the annotation file are not of their form, or there is no such file.
        """
        path = path / "results.json" if path.is_dir() else path
        results = read_json(path)
        if not isinstance(results, list):
            raise ResultError(f"{path} is not COCO results: expected a list of {{image_id, category_id, ...}}")
        coco = coco or next((one for name in _ANNOTATIONS if (one := path.parent / name).is_file()), None)
        if coco is None:
            raise ResultError(f"{path} is COCO results: name the annotation file that its ids are of, with --coco")
        data = read_json(coco)
        if not isinstance(data, dict):
            raise ResultError(f"{coco} is not a COCO annotation file: expected an object")
        entries = [
            {"id": f"of result {number}", **entry} if isinstance(entry, dict) else entry
            for number, entry in enumerate(results, start=1)
        ]
        try:
            return cls(path, coco, CocoReader(coco_from_dict({**data, "annotations": entries})))
        except ResultError as error:
            raise ResultError(f"{path}, with {coco}: {error}") from error

    def files(self) -> tuple[Path, ...]:
        return (self.path, self.coco)

    def labels(self) -> tuple[str, ...]:
        return self.reader.labels()

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        return self.reader.images(notes, find_size)
