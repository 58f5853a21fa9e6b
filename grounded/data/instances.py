"""Instances: the labelled masks of one image, which the pipeline returns, and their conversions to other formats."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from reprlib import repr as shortened  # of a huge list the beginning
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64, Shaped
from PIL import Image

from grounded.data import formats
from grounded.data.display import ImageReference, describe, html_table
from grounded.data.image import ImageLike, SourceImage
from grounded.data.parallel_arrays import ParallelArrays, check_phrase_ids, set_frozen
from grounded.errors import ImageError, MaskError, ResultError, one_line
from grounded.utils.files import json_bytes, write_atomically
from segany.utils.polygons import check_size
from segany.utils.rle import RLE, check_rle, decode_rle, rle_boxes

_GREATEST = 3e38  # of 32 bits
_MOST_SCORES = 50_000_000  # instances times phrases, 200 MB
_FARTHEST = 10_000_000  # pixels: what is farther away is damage
SOURCES = ("detector", "text", "automatic", "point", "box", "person", "track")

# Attribute of Instances -> key of an instance in result.json
_SCORE_KEYS = {
    "scores": "score",
    "detector_scores": "detector_score",
    "best_token_scores": "best_token_score",
    "clip_scores": "clip_score",
    "predicted_iou": "predicted_iou",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Instances(ParallelArrays):
    """Labelled instance masks of one image, as parallel arrays; the pipeline sorts them by `scores`, best first.

    `phrases` are all p phrases of the query, and stay the same when instances are selected. Scores that no stage has
    computed are nan.

    Indexing gives `Instances` again, see `ParallelArrays`: `instances[instances.labels == "a dog"]`,
    `instances[instances.scores > 0.5]`, `instances[[2, 0]]`, `instances[:3]`, `instances[0]`.

    Raises:
        ValueError: shapes that do not fit together, masks of another image size, phrase ids out of range, or an unknown
        source.
    """

    phrases: tuple[str, ...]
    image_size: tuple[int, int]  # (height, width) of the upright image
    phrase_ids: Int64[np.ndarray, "n"]  # into phrases
    boxes: Float32[np.ndarray, "n 4"]  # xyxy in pixels; the detector's box; for other sources the mask's tight box
    rles: tuple[RLE, ...]  # n masks, run-length encoded
    scores: Float32[np.ndarray, "n"]  # what instances are ranked by
    detector_scores: Float32[np.ndarray, "n"]  # for its own phrase, over the tokens that count
    clip_scores: Float32[np.ndarray, "n"]
    predicted_iou: Float32[np.ndarray, "n"]  # the segmenter's own estimate of its mask
    phrase_scores: Float32[np.ndarray, "n p"]  # detector score of every instance for every phrase
    sources: Shaped[np.ndarray, "n"]  # n strings out of SOURCES: what led to the instance
    # (n): detector score of the best token of its own phrase, to which a box threshold is applied; nan if left out.
    best_token_scores: Float32[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(0, np.float32))
    notes: tuple[str, ...] = ()  # on the query: phrases that the detector cannot read
    # The image, while the caller has it or its file is there, for `show` and notebooks; not part of the value.
    image_source: ImageReference | None = field(default=None, repr=False, compare=False)

    ROWS: ClassVar = ("rles", "phrase_ids", "boxes", *_SCORE_KEYS, "phrase_scores", "sources")
    SHARED: ClassVar = "phrases and image size"

    def __post_init__(self) -> None:
        height, width = self.image_size
        set_frozen(self, phrases=tuple(self.phrases), rles=tuple(self.rles), image_size=(height, width))
        n, p = len(self.rles), len(self.phrases)
        if n and len(self.best_token_scores) == 0:
            set_frozen(self, best_token_scores=np.full(n, np.nan, np.float32))
        self.convert("boxes", np.float32, (n, 4))
        self.convert("phrase_scores", np.float32, (n, p))
        for name in _SCORE_KEYS:
            self.convert(name, np.float32, (n,))
        self.convert("phrase_ids", np.int64, (n,))
        check_phrase_ids(self.phrase_ids, p)
        self.convert("sources", np.str_, (n,))
        for source in set(self.sources.tolist()) - set(SOURCES):
            raise ValueError(f"sources must be among {', '.join(SOURCES)}, got {source!r}")
        for i, rle in enumerate(self.rles):
            if list(rle["size"]) != [height, width]:
                raise ValueError(f"rles must be of image size {[height, width]}, got {list(rle['size'])} at {i}")

    @classmethod
    def from_masks(
        cls,
        phrases: Sequence[str],
        image_size: tuple[int, int],
        rles: Sequence[RLE],
        phrase_ids: Int[np.ndarray, "n"],
        predicted_iou: Float[np.ndarray, "n"],
        source: str,
    ) -> "Instances":
        """Return one instance per mask that no detector has scored, with the tight box of the mask.

        Args:
            phrases: of the query.
            image_size: (height, width) in pixels.
            rles: n masks of that size.
            phrase_ids: the phrase of each mask.
            predicted_iou: of each mask; the instances are ranked by it.
            source: one of SOURCES.
        """
        unknown, predicted_iou = np.full(len(rles), np.nan, np.float32), predicted_iou.astype(np.float32)
        return cls(
            phrases=tuple(phrases),
            image_size=image_size,
            phrase_ids=phrase_ids.astype(np.int64),
            boxes=rle_boxes(rles).astype(np.float32),
            rles=tuple(rles),
            scores=predicted_iou,
            detector_scores=unknown,
            clip_scores=unknown,
            predicted_iou=predicted_iou,
            phrase_scores=np.full((len(rles), len(phrases)), np.nan, np.float32),
            sources=np.full(len(rles), source),
        )

    @classmethod
    def empty(cls, phrases: Sequence[str], image_size: tuple[int, int]) -> "Instances":
        """Return no instance of `phrases` in an image of (height, width) pixels."""
        none = np.zeros(0, np.float32)
        return cls.from_masks(phrases, image_size, (), none.astype(np.int64), none, SOURCES[0])

    @classmethod
    def from_dict(cls, data: Any) -> "Instances":
        """Read back the mapping that `to_dict` returned, without the `image` and `models` that it was passed.

        A result without "phrase_scores", or without "best_token_score", is read with nan for them.

        Raises:
            ResultError: a key is missing, or a value is not of the expected form.
        """
        # By hand: the columns must become arrays anyway, and validation by pydantic before that took a quarter longer.
        try:
            phrases, entries = tuple(data["phrases"]), list(data["instances"])
            columns = {
                name: [_number(entry.get(key) if key == "best_token_score" else entry[key]) for entry in entries]
                for name, key in _SCORE_KEYS.items()
            }
            if isinstance(data["phrases"], str) or not all(isinstance(phrase, str) for phrase in phrases):
                raise ResultError(f"phrases must be a list of texts, got {shortened(data['phrases'])}")
            "".join(phrases).encode()  # half of a surrogate pair cannot be stored again
            image_size = check_size([data["image"]["height"], data["image"]["width"]])
            boxes = np.array([entry["box"] for entry in entries], dtype=np.float64).reshape(len(entries), 4)
            if not (np.abs(boxes) < _FARTHEST).all():  # written so that nan fails as well
                raise ResultError(f"boxes must be finite, and within {_FARTHEST} pixels")
            return cls(
                phrases=phrases,
                image_size=image_size,
                phrase_ids=np.array([entry["phrase_id"] for entry in entries], dtype=np.int64),
                boxes=boxes.astype(np.float32),
                rles=tuple(_read_mask(entry["mask"], image_size, i) for i, entry in enumerate(entries)),
                phrase_scores=_read_phrase_scores(entries, len(phrases)),
                sources=np.array([entry["source"] for entry in entries], dtype=np.str_),
                notes=tuple(str(note) for note in data.get("notes", ())),
                image_source=None,
                **{name: np.array(column, dtype=np.float32) for name, column in columns.items()},
            )
        except KeyError as error:
            raise ResultError(f"a result must hold the key {error}, got none") from error
        except ResultError:
            raise
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ResultError(f"not a result of this program: {one_line(error)}") from error

    @classmethod
    def from_json(cls, path: str | PathLike[str]) -> "Instances":
        """Read a `result.json`.

        Raises:
            ResultError: the file is missing, is not JSON, or does not hold a result.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
        except ResultError as error:
            raise ResultError(f"{path}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ResultError(f"{path} is not JSON: {error}") from error

    def to_dict(
        self, image: Mapping[str, Any] | None = None, models: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the contents of a `result.json`: plain dicts, lists and scalars, with None for nan.

        Numbers are the shortest that read back as the same float32.

        Args:
            image: what to add to the "image" section besides width and height, such as {"file": "picnic.png"}.
            models: the checkpoints that were used: {"detector": ..., "clip": ..., "segmenter": ...}.
        """
        height, width = self.image_size
        return {
            "image": {**(image or {}), "width": width, "height": height},
            "phrases": list(self.phrases),
            **({"notes": list(self.notes)} if self.notes else {}),
            "instances": [self._entry(i) for i in range(len(self))],
            "models": dict(models or {}),
        }

    def _entry(self, i: int) -> dict[str, Any]:
        return {
            "phrase": self.phrases[self.phrase_ids[i]],
            "phrase_id": int(self.phrase_ids[i]),
            "box": [_plain(side) for side in self.boxes[i]],
            **{key: _plain(getattr(self, name)[i]) for name, key in _SCORE_KEYS.items()},
            "phrase_scores": [_plain(score) for score in self.phrase_scores[i]],
            "source": str(self.sources[i]),
            "mask": dict(self.rles[i]),
        }

    def to_json(
        self,
        path: str | PathLike[str],
        image: Mapping[str, Any] | None = None,
        models: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `to_dict` as a JSON file, atomically."""
        write_atomically(path, json_bytes(self.to_dict(image, models)))

    def to_coco(
        self,
        image_id: int | str = 1,
        category_ids: Mapping[str, int | str] | None = None,
        first_annotation_id: int = 1,
        file_name: str | None = None,
    ) -> dict[str, Any]:
        """Return a COCO data set of this image, {"images", "annotations", "categories"}, fit for JSON.

        Segmentations are run-length encoded, "bbox" is the tight [x, y, width, height] of the mask, "area" counts its
        pixels, and "score" is left out where it is unknown.

        Args:
            image_id: of the image.
            category_ids: category of each phrase; by default phrases are numbered from 1.
            first_annotation_id: of the first instance; evaluation by pycocotools takes 0 for no match.
            file_name: of the image; left out by default.

        Raises:
            ValueError: `category_ids` lacks a phrase.
        """
        return formats.coco(self, image_id, category_ids, first_annotation_id, file_name)

    def to_panoptic(
        self,
        path: str | PathLike[str],
        image_id: int | str = 1,
        category_ids: Mapping[str, int | str] | None = None,
    ) -> dict[str, Any]:
        """Write a COCO panoptic PNG, atomically, and return its annotation.

        An instance has the segment id 1 + its row, stored as red + 256 green + 65536 blue; black is no instance. Where
        instances overlap, the best score has the pixel, and "area" and "bbox" are of what remains; an instance of which
        nothing remains has no segment.

        Args:
            path: of the PNG.
            image_id: of the image.
            category_ids: as in `to_coco`.

        Returns:
            {"image_id", "file_name", "segments_info"}.

        Raises:
            ValueError: `category_ids` lacks a phrase.
        """
        return formats.panoptic(self, path, image_id, category_ids)

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`: `class_id` is the phrase id, `confidence` the score, masks are in full.

        The phrases are in `data["class_name"]`, where the annotators of that package look for labels.

        Raises:
            ImportError: the package supervision is not installed, or too old.
        """
        return formats.supervision(self)

    def label_map(self, background: int = 0) -> Int32[np.ndarray, "h w"]:
        """Return phrase_id + 1 for each pixel, and `background` where no mask is. The best score lies on top."""
        return formats.label_map(self, background)

    def instance_map(self) -> Int32[np.ndarray, "h w"]:
        """Return 1 + the row of the instance for each pixel, and 0 where no mask is. The best score lies on top."""
        return formats.instance_map(self)

    def show(self, image: ImageLike | SourceImage | None = None, **options: Any) -> Image.Image:
        """Return the image with the instances drawn over it, which a notebook displays by itself.

        Args:
            image: as in `grounded.draw`; None for the image that was segmented, while it is there: an object that the
                caller still holds, or its file.
            options: more arguments of `grounded.draw`, such as `opacity`.

        Raises:
            ImageError: the image is not known any more, cannot be read, or is of another size.
        """
        import grounded  # drawing stands above values like this one, and is reached by its public name

        if image is None and self.image_source is not None:
            image = self.image_source.open(self.image_size)
        if image is None:
            raise ImageError("the image of these instances is not there any more: expected show(image), got show()")
        return grounded.draw(image, self, **options)

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return html_table(self)

    def __getstate__(self) -> dict[str, Any]:
        # Where the image is, another process need not know.
        return {name: value for name, value in vars(self).items() if name != "image_source"}

    @property
    def shared(self) -> tuple[tuple[str, ...], tuple[int, int]]:
        """The phrases and the image size."""
        return self.phrases, self.image_size

    @property
    def labels(self) -> Shaped[np.ndarray, "n"]:
        """The phrase of each instance, as an array of plain `str` (dtype object): `labels == "a dog"` is an array."""
        return np.array([self.phrases[i] for i in self.phrase_ids], dtype=object)

    @property
    def masks(self) -> Bool[np.ndarray, "n h w"]:
        """The masks in full, decoded anew at every access: n x height x width bytes."""
        return decode_rle(self.rles, self.image_size).numpy()

    def sorted(self) -> "Instances":
        """Return the instances by `scores`, best first; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]


def _plain(number: np.float32) -> float | None:
    # str() of a NumPy scalar is the shortest text that reads back as the same float32: 0.91, not 0.9100000262260437.
    return float(str(number)) if np.isfinite(number) else None


def _read_mask(mask: object, image_size: tuple[int, int], row: int) -> RLE:
    try:
        return check_rle(mask, image_size)
    except MaskError as error:
        raise ResultError(f"the mask of instance {row} cannot be used: {error}") from error


def _read_phrase_scores(entries: list[Any], phrases: int) -> Float32[np.ndarray, "n p"]:
    """The score of each instance for each phrase; nan where an entry has none. What is missing costs no memory."""
    if len(entries) * phrases > _MOST_SCORES:
        raise ResultError(f"{len(entries)} instances of {phrases} phrases are more than a result may hold")
    scores = np.full((len(entries), phrases), np.nan, np.float32)
    for row, entry in enumerate(entries):
        if "phrase_scores" in entry:
            own = [_number(score) for score in entry["phrase_scores"]]
            if len(own) != phrases:
                raise ResultError(f"instance {row} must have a score for each of {phrases} phrases, got {len(own)}")
            scores[row] = own
    return scores


def _number(value: float | None) -> float:
    """A score; what is no number that 32 bits hold is unknown, like None."""
    return float("nan") if value is None or not abs(value) < _GREATEST else value
