"""The layout that Ultralytics trains on: a text file for each image, with one line for each instance.

    data.yaml       the classes, numbered from 0
    labels/a/b.txt  "class x y x y ..." (segments) or "class x y width height" (boxes, by their centres)
    images/a/b.jpg  with copies of the images

Coordinates are shares of the image's width and height. Files of images without instances are empty.

Boxes are the tight ones of the masks. A segment is one ring: holes, and parts, are joined to it by bridges of no width.
Its corners lie in the pixels at the rim of the mask, between their upper left edge and their centre. Programs that cut
off the digits after the point, as Ultralytics does, and those that round, as supervision does, both find those pixels
there; and both draw rings with OpenCV, which fills them and draws their line. What comes out is the mask to the bit,
but for the bridges between parts, which become lines one pixel wide.

Read are both, below a folder or from its `data.yaml`, drawn as Ultralytics draws them, but without bridges; a score at
the end of a line, as predictions have it, too. Keypoints are left out. Without a `data.yaml` the classes are the lines
of a `classes.txt` or `obj.names`. Sizes are those of the images, which lie in `images` where the labels lie in
`labels`, or beside them.
"""

import glob
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from jaxtyping import Bool, Float64
from PIL import Image, ImageDraw
from scipy.spatial import KDTree

from grounded.data.instances import Instances
from grounded.errors import MaskError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
    read_label,
)
from grounded.labelling.formats.coco import empty_rle
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_sizes import images_by_stem, size_of_first
from grounded.labelling.records import Record
from grounded.labelling.sources.items import is_image
from grounded.output.polygons import Polygon, Ring, join_holes, mask_to_polygons, polygons_to_mask
from grounded.utils.files import write_new
from segany.utils.polygons import check_ring
from segany.utils.rle import RLE, decode_rle, encode_rle, rle_boxes

KEYPOINTS = "keypoints, left out"
UNLABELLED = "images without a file of labels, passed over"
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels")  # a class a line
_FARTHEST_SHARE = 2.0  # of an image's side; what is beyond is in pixels, not in shares
_LEAST_AREA = 1e-4  # square pixels that a ring is around

# Of a pixel, between which corners lie. Six digits after the point place them to less than 1/16 up to 65,000 pixels.
_NEAREST, _FARTHEST = 1 / 16, 7 / 16


# ---- Writing ----


class _YoloExporter(Exporter):
    """Writes one text file for each image, and `data.yaml`."""

    has_file_per_image = True

    @abstractmethod
    def numbers(self, instances: Instances) -> list[Float64[np.ndarray, "_"]]:
        """Return the numbers that follow the class in the line of each instance."""

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        lines = [
            " ".join([str(class_id), *(f"{number:.6f}" for number in row)]) + "\n"
            for class_id, row in zip(instances.phrase_ids, self.numbers(instances), strict=True)
        ]
        write_new(self.folder / "labels" / f"{stem}.txt", "".join(lines).encode())
        self.lost["scores"] += int(np.isfinite(instances.scores).sum())

    def end(self) -> None:
        # A split is the user's choice, but both keys must be there.
        data = {"train": "images", "val": "images", "names": dict(enumerate(self.classes))}
        write_new(self.folder / "data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())


class YoloSegmentExporter(_YoloExporter):
    """Writes instances as polygons."""

    def numbers(self, instances: Instances) -> list[Float64[np.ndarray, "_"]]:
        height, width = instances.image_size
        return [(mask_to_ring(rle, self.lost) / [width, height]).ravel() for rle in instances.rles]


class YoloBoxExporter(_YoloExporter):
    """Writes instances as boxes."""

    def numbers(self, instances: Instances) -> list[Float64[np.ndarray, "_"]]:
        height, width = instances.image_size
        self.lost["masks, of which the boxes are kept"] += len(instances)
        x0, y0, x1, y1 = rle_boxes(instances.rles).T
        boxes = np.stack([x0 + (x1 - x0) / 2, y0 + (y1 - y0) / 2, x1 - x0, y1 - y0], axis=1)
        return list(boxes / [width, height, width, height])


def mask_to_ring(rle: RLE, lost: Counter[str]) -> Ring:
    """Return a mask that is not empty as one ring, (x, y) in pixels, and count the bridges that it took in `lost`."""
    mask = decode_rle([rle])[0].numpy()
    polygons = [_move_into_rim(polygon, mask) for polygon in mask_to_polygons(mask, tolerance=0.0)]
    lost["holes joined to the outline by bridges of no width"] += sum(len(polygon.holes) for polygon in polygons)
    lost["parts joined to one another by bridges of no width"] += len(polygons) - 1
    return _join_parts([join_holes(polygon) for polygon in polygons])


def _move_into_rim(polygon: Polygon, mask: np.ndarray) -> Polygon:
    """Move corners, which lie halfway between a pixel inside and one outside, into the one inside."""

    def move(outline: Ring) -> Ring:
        # The pixel to the right or below, and where it is outside, the one to the left or above.
        pixels = np.floor(outline)
        is_between = outline == pixels  # in which direction the two pixels lie
        x, y = np.minimum(pixels, np.array(mask.shape[::-1]) - 1).astype(np.int64).T
        is_outside = ~mask[y, x] | (pixels >= mask.shape[::-1]).any(axis=1)
        pixels -= is_between & is_outside[:, None]
        return np.clip(outline, pixels + _NEAREST, pixels + _FARTHEST)

    return Polygon(move(polygon.outer), tuple(move(hole) for hole in polygon.holes))


def _join_parts(rings: Sequence[Ring]) -> Ring:
    """Return one ring of several: each is entered from, and left to, the nearest corner of those before it."""
    first, *others = sorted(rings, key=len, reverse=True)
    for other in others:
        distances, nearest = map(np.asarray, KDTree(first).query(other))
        start = int(distances.argmin())
        end = int(nearest[start])
        there_and_back = np.concatenate([np.roll(other, -start, axis=0), other[start : start + 1]])
        first = np.concatenate([first[: end + 1], there_and_back, first[end:]])
    return first


# ---- Reading ----


@dataclass(frozen=True)
class YoloReader(AnnotationReader):
    """Files of labels within a folder, each read when its turn comes."""

    root: Path
    path_of_classes: Path
    classes: Mapping[int, str]
    paths: tuple[Path, ...]
    has_keypoints: bool = False

    @classmethod
    def open(cls, path: Path) -> "YoloReader":
        """Open a folder, or that of a `data.yaml`. Raises ResultError where there are no classes or no labels."""
        path_of_classes = find_classes(path) if path.is_dir() else path
        if path_of_classes is None:
            raise ResultError(f"{path} does not tell the classes: there is no data.yaml and no {CLASS_FILES[0]}")
        root = path if path.is_dir() else path.parent
        data = _read_yaml(path_of_classes) if path_of_classes.suffix in (".yaml", ".yml") else None
        classes = _read_lines(path_of_classes) if data is None else data.get("names")
        files = [file for file in sorted(root.rglob("*.txt")) if file.is_file()]
        paths = tuple(file for file in files if "labels" in file.relative_to(root).parts[:-1])
        paths = paths or tuple(file for file in files if _images_of(file))
        if not paths:
            raise ResultError(f"{root} holds no labels: there is no folder labels, and no *.txt beside an image")
        has_keypoints = data is not None and "kpt_shape" in data
        return cls(root, path_of_classes, _numbered(classes, path_of_classes), paths, has_keypoints)

    def files(self) -> tuple[Path, ...]:
        return (self.path_of_classes, *self.paths)

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for name in self.classes.values():
            with suppress(ResultError):
                found[read_label(name)] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        for folder, paths in groupby(self.paths, key=lambda path: path.parent):
            found = images_by_stem(_image_folder(folder, self.root))
            for path in paths:
                images: list[Path | None] = [*found.pop(path.stem, [])]
                for image in images or [None]:
                    yield self._read(path, image, notes, find_size)
            for unlabelled in sorted(found.values()):
                notes.add(UNLABELLED, unlabelled[0].name, count=len(unlabelled))

    def _read(self, path: Path, image: Path | None, notes: Notes, find_size: FindSize | None) -> AnnotatedImage:
        names = self._names(path.with_suffix("") if image is None else image)
        left_out = LeftOut(notes, names[0])
        try:
            size = (find_size(names) if find_size else None) or size_of_first([image] if image else [])
            if size is None:
                raise ResultError("the size of the image is not known: it must lie in images, as labels are in labels")
            annotations = [
                self._annotation(line.split(), size, f"line {number}", left_out)
                for number, line in enumerate(_read_lines(path), start=1)
                if line.strip()
            ]
        except ResultError as error:
            return AnnotatedImage(names=names, error=str(error))
        read = tuple(annotation for annotation in annotations if annotation is not None)
        return AnnotatedImage(names=names, image_size=size, annotations=read, left_out=left_out.count)

    def _names(self, path: Path) -> tuple[str, ...]:
        """Return the names of an image: from the root, and without the folder that all images or labels are in."""
        parts = path.relative_to(self.root).parts if path.is_relative_to(self.root) else path.parts
        places = [number for number, part in enumerate(parts[:-1]) if part in ("images", "labels")]
        below = parts[places[-1] + 1 :] if places else parts
        names = (PurePosixPath(*parts), PurePosixPath(*below))
        return tuple(dict.fromkeys(str(name) for name in (names if is_image(path.name) else names[1:])))

    def _annotation(
        self, fields: list[str], image_size: tuple[int, int], what: str, left_out: LeftOut
    ) -> Annotation | None:
        try:
            number = _share_list(fields[:1])[0]
            label = read_label(self.classes.get(int(number) if number == int(number) else -1))
            shares, score = _share_list(fields[1:]), float("nan")
            if self.has_keypoints:
                left_out.notes.add(KEYPOINTS, left_out.name)
                shares = shares[:4]
            elif len(shares) % 2 and len(shares) > 4:  # predictions
                shares, score = shares[:-1], float(shares[-1])
            if len(shares) < 4 or len(shares) % 2:
                raise ResultError(f"expected a class and a box or a segment, got {len(fields)} numbers")
            if (np.abs(shares) > _FARTHEST_SHARE).any():
                raise ResultError(f"coordinates must be shares of the image, from 0 to 1, got {np.abs(shares).max():g}")
            pixels = (shares.reshape(-1, 2) * image_size[::-1]).ravel()
            if len(shares) == 4:
                return _box_annotation(label, pixels, score, image_size)
            (rle,) = encode_rle(draw_segment(pixels.reshape(-1, 2), image_size)[None])
        except (ResultError, MaskError) as error:
            left_out.add(DAMAGED, what, error)
            return None
        return Annotation(label=label, rle=rle, score=score, is_rounded=True)


def find_classes(folder: Path) -> Path | None:
    """Return the file in a folder, or in `labels` in it, that tells the classes; None where there is none."""
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        with suppress(ResultError):
            if "names" in _read_yaml(path):
                return path
    places = (folder / place / name for place in ("", "labels", "train", "images") for name in CLASS_FILES)
    return next((path for path in places if path.is_file()), None)


def draw_segment(ring: Float64[np.ndarray, "k 2"], image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return a segment as Ultralytics draws it: corners are whole pixels, and the line through them belongs to it.

    Lines there and back that hold parts together, or lead to a hole, are not drawn.

    Args:
        ring: (x, y) in pixels.
        image_size: (height, width).

    Raises:
        MaskError: it is no polygon.
    """
    checked = check_ring(ring, image_size)
    pixels = np.trunc(checked)
    mask = polygons_to_mask([Polygon(pixels + 0.5)], image_size)
    canvas = Image.new("L", image_size[::-1])
    draw = ImageDraw.Draw(canvas)
    corners = [tuple(corner) for corner in pixels.astype(int).tolist()]
    for start, end, is_bridge in zip(corners, [*corners[1:], corners[0]], _bridges(checked), strict=True):
        if not is_bridge:
            draw.line([start, end], fill=1)
    return mask | np.asarray(canvas, dtype=bool)


def _bridges(ring: Float64[np.ndarray, "k 2"]) -> Bool[np.ndarray, "k"]:
    """Marks the edges from each corner to the next that lead to another area, and that the ring also comes back on."""
    ends = np.roll(ring, -1, axis=0)
    doubled = np.concatenate([[0.0], np.cumsum(ring[:, 0] * ends[:, 1] - ends[:, 0] * ring[:, 1])])  # areas
    bridges = np.zeros(len(ring), dtype=bool)
    edges: dict[bytes, int] = {}
    for number, (start, end) in enumerate(zip(ring, ends, strict=True)):
        there = edges.pop(end.tobytes() + start.tobytes(), None)
        if there is None:
            edges[start.tobytes() + end.tobytes()] = number
            continue
        beyond = doubled[number] - doubled[there + 1]
        if min(abs(beyond), abs(doubled[-1] - beyond)) > 2 * _LEAST_AREA:
            bridges[[there, number]] = True
    return bridges


def _box_annotation(label: str, box: Float64[np.ndarray, "4"], score: float, image_size: tuple[int, int]) -> Annotation:
    """Return a box of (x, y) of its centre, width and height, cut at the image's border."""
    height, width = image_size
    x, y, w, h = box.tolist()
    x0, y0, x1, y1 = max(x - w / 2, 0.0), max(y - h / 2, 0.0), min(x + w / 2, width), min(y + h / 2, height)
    if not (x0 < x1 and y0 < y1):
        raise ResultError(f"a box must have an area within the image, got {w:g} x {h:g} pixels around {x:g}, {y:g}")
    return Annotation(label=label, rle=empty_rle(image_size), box=(x0, y0, x1, y1), score=score)


def _image_folder(folder: Path, root: Path) -> Path:
    """Return where the images of a folder of labels are: in `images` in the place of the last `labels`."""
    parts = folder.relative_to(root).parts
    if "labels" not in parts:
        return folder
    place = len(parts) - 1 - parts[::-1].index("labels")
    return root.joinpath(*parts[:place], "images", *parts[place + 1 :])


def _images_of(path: Path) -> bool:
    """Whether an image lies beside a file of labels."""
    return any(is_image(other.name) for other in path.parent.glob(f"{glob.escape(path.stem)}.*"))


def _numbered(names: object, path: Path) -> dict[int, str]:
    """Return the classes of a list, or of a mapping from numbers, by their numbers."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names if isinstance(names, list) else [])
    classes = {
        int(number): name
        for number, name in pairs
        if isinstance(name, str) and str(number).isdecimal() and len(str(number)) < 10
    }
    if not classes:
        raise ResultError(f"{path} must have the names of the classes, as a list or by their numbers")
    return classes


def _read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping of a YAML file, all its values as they are written: `no` is a name. Raises ResultError."""
    try:
        data = yaml.load("\n".join(_read_lines(path)), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return data if isinstance(data, dict) else {}


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ResultError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error


def _share_list(fields: Sequence[str]) -> Float64[np.ndarray, "_"]:
    try:
        numbers = np.array([float(field) for field in fields])
    except ValueError as error:
        raise ResultError(f"expected numbers, got {' '.join(fields)[:60]!r}") from error
    if not np.isfinite(numbers).all():
        raise ResultError(f"numbers must be finite, got {' '.join(fields)[:60]!r}")
    return numbers
