"""Ground truth and predictions, matched image by image."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from typing import Any, TypeAlias

from grounded.data.phrases import phrase_key
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.coco import CocoFile, annotation_rle, read_coco
from grounded.labelling.formats.image_names import ImageNames
from grounded.labelling.records import Record
from segany.utils.rle import RLE, rle_area, rle_boxes

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

_ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True)
class GroundTruthObject:
    """One annotation. A crowd is a region of many objects: predictions there are neither right nor wrong."""

    label: str
    box: Box
    area: float  # in pixels as the file states it, by which COCO calls objects small, medium or large
    mask: RLE | None  # None in files that hold boxes alone
    is_crowd: bool = False

    def require_mask(self) -> RLE:
        """Return the mask.

        Raises:
            ResultError: the ground truth has boxes alone.
        """
        if self.mask is None:
            raise ResultError(f"the ground truth has {self.label!r} without a mask: measure boxes alone")
        return self.mask


@dataclass(frozen=True)
class GroundTruth:
    """All images and classes of a COCO annotation file. Objects are decoded image by image, on demand."""

    classes: tuple[str, ...]  # categories whose names differ in case, articles or underscores alone are one class
    sizes: Mapping[str, tuple[int, int]]  # (height, width) of each image, by file name
    _annotations: Mapping[str, Sequence[Mapping[str, Any]]]
    _labels: Mapping[Any, str]  # by category id

    def objects(self, file: str) -> tuple[GroundTruthObject, ...]:
        """Return the objects of an image, polygons as run lengths.

        Raises:
            ResultError: an annotation is not of COCO's form.
        """
        return tuple(self._object(annotation, self.sizes[file]) for annotation in self._annotations[file])

    def _object(self, annotation: Mapping[str, Any], image_size: tuple[int, int]) -> GroundTruthObject:
        mask = annotation_rle(annotation, image_size)
        try:
            if mask is not None and "bbox" not in annotation:
                x, y, x1, y1 = rle_boxes([mask])[0].tolist()
                width, height = x1 - x, y1 - y
            else:
                x, y, width, height = (float(side) for side in annotation["bbox"])
            area = annotation.get("area", width * height if mask is None else rle_area([mask])[0])
            return GroundTruthObject(
                label=self._labels[annotation["category_id"]],
                box=(x, y, x + width, y + height),
                area=float(area),
                mask=mask,
                is_crowd=bool(annotation.get("iscrowd", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(f"annotation {annotation.get('id')} is not of COCO's form: {error}") from error


def read_ground_truth(path: str | PathLike[str]) -> GroundTruth:
    """Read a COCO annotation file (Lin et al., 2014).

    Raises:
        ResultError: the file is missing, is not JSON, or does not hold images, annotations and categories.
    """
    coco = read_coco(path)
    try:
        return ground_truth_from_coco(coco)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


def ground_truth_from_coco(coco: CocoFile) -> GroundTruth:
    """Return the contents of a COCO annotation file by image name.

    Raises:
        ResultError: an image has no name or size, two images have one name, or an annotation is of no image.
    """
    spellings: dict[str, str] = {}  # the first spelling stands for all
    labels = {id: spellings.setdefault(normalise_name(name), name) for id, name in coco.categories.items()}
    sizes: dict[str, tuple[int, int]] = {}
    annotations: dict[str, Sequence[Mapping[str, Any]]] = {}
    for image in coco.images:
        if image.file_name is None or image.image_size is None:
            raise ResultError(f"images must have a file_name, a height and a width, got none of image {image.id}")
        if image.file_name in sizes:
            raise ResultError(f"images must have names of their own, got {image.file_name} twice")
        sizes[image.file_name] = image.image_size
        annotations[image.file_name] = coco.annotations[image.id]
    unlisted = coco.annotations.keys() - {image.id for image in coco.images}
    if unlisted:
        raise ResultError(f"annotations must be of images that are listed, got image_id {min(unlisted, key=str)}")
    return GroundTruth(tuple(spellings.values()), sizes, annotations, labels)


class ClassNames:
    """Finds the class that a phrase stands for: the one of the same name, or the one that it is mapped to.

    Args:
        classes: of the ground truth.
        mapping: phrase -> class, for phrases that have another name there; it goes before names that are equal.

    Raises:
        ConfigError: the mapping names a class that the ground truth does not have.
    """

    def __init__(self, classes: Iterable[str], mapping: Mapping[str, str] | None = None) -> None:
        self._classes = {normalise_name(name): name for name in classes}
        self._mapped: dict[str, str] = {}
        for phrase, name in (mapping or {}).items():
            normalised = normalise_name(name)
            if normalised not in self._classes:
                near = get_close_matches(normalised, self._classes, 1)
                hint = f"; there is {self._classes[near[0]]!r}" if near else ""
                raise ConfigError(f"cannot map {phrase!r} to {name!r}: the ground truth has no such class{hint}")
            self._mapped[normalise_name(phrase)] = self._classes[normalised]
        self._found: dict[str, str | None] = {}

    def find(self, phrase: str) -> str | None:
        """Return the class of a phrase; None where the ground truth has no such class."""
        if phrase not in self._found:  # the same few phrases come with every image
            name = normalise_name(phrase)
            self._found[phrase] = self._mapped.get(name, self._classes.get(name))
        return self._found[phrase]


def normalise_name(name: str) -> str:
    """Return the form in which names are compared: "The Fire_Hydrant" and "a fire hydrant" are one."""
    text = " ".join(phrase_key(name).replace("_", " ").split())
    article = next((article for article in _ARTICLES if text.startswith(article)), "")
    return text[len(article) :]


@dataclass(frozen=True)
class Prediction:
    """One instance of a record, under the class that its phrase stands for."""

    label: str
    phrase: str
    score: float  # nan where unknown
    box: Box
    mask: RLE


@dataclass(frozen=True)
class ImagePair:
    """The ground truth and the predictions of one image."""

    file: str  # as the ground truth names it
    record_file: str | None  # as the record names it, None for an image without a record
    image_size: tuple[int, int]  # (height, width)
    phrase_classes: Mapping[str, str]  # phrase of the prompt -> class
    ground_truth: tuple[GroundTruthObject, ...]  # of all classes, also those that are in no prompt
    predictions: tuple[Prediction, ...]

    @property
    def targets(self) -> tuple[GroundTruthObject, ...]:
        """The ground truth of the classes in the prompt."""
        labels = set(self.phrase_classes.values())
        return tuple(target for target in self.ground_truth if target.label in labels)


@dataclass(frozen=True)
class MatchedDataset:
    """All image pairs, and what could not be matched."""

    pairs: tuple[ImagePair, ...]
    phrase_classes: Mapping[str, str]  # phrase -> class, over all images
    unknown_phrases: Mapping[str, int]  # phrase without a class -> its instances, which are left out
    unprompted_classes: tuple[str, ...]
    missing: tuple[str, ...]  # images of the ground truth without a record
    without_ground_truth: tuple[str, ...]  # records of images that are not in the ground truth
    size_mismatches: tuple[str, ...]  # images whose size differs in the ground truth, which are left out
    missing_counted: bool = True  # whether the missing images are among the pairs

    def phrases(self, label: str) -> list[str]:
        """Return the phrases that stand for a class."""
        return [phrase for phrase, own in self.phrase_classes.items() if own == label]


def match_records(
    records: Iterable[Record],
    ground_truth: GroundTruth,
    names: ClassNames,
    phrases: Sequence[str] = (),
    count_missing: bool = True,
) -> MatchedDataset:
    """Match each record to the ground truth of its image.

    A record and an image of the ground truth belong together when their names are equal, or when one of them is the
    other with folders before it.

    Args:
        records: of a run; read once, one after the other.
        ground_truth: of the same images.
        names: finds the class of a phrase.
        phrases: of the run; those of the records are added. They are the prompt of images that have no record.
        count_missing: whether an image without a record counts as one without predictions.

    Raises:
        ResultError: two records are of one image, or an annotation of the ground truth is damaged.
    """
    sizes = ground_truth.sizes
    images = ImageNames(sizes)
    phrase_classes = {phrase: names.find(phrase) for phrase in phrases}
    unknown: Counter[str] = Counter()
    pairs: dict[str, ImagePair] = {}
    matched: dict[str, str] = {}  # file of the ground truth -> file of its record
    without_ground_truth, size_mismatches = [], []
    for record in records:
        instances, record_file = record.instances, record.image.file
        file = next(iter(images.candidates([record_file], same_folder=True)), None)
        if file is None:
            without_ground_truth.append(record_file)
            continue
        if file in matched:
            raise ResultError(
                f"{matched[file]} and {record_file} would both be measured against {file} of the ground truth"
            )
        matched[file] = record_file
        if sizes[file] != instances.image_size:
            size_mismatches.append(file)
            continue
        own = {phrase: names.find(phrase) for phrase in instances.phrases}
        phrase_classes |= own
        unknown.update(phrase for i in instances.phrase_ids if own[phrase := instances.phrases[i]] is None)
        pairs[file] = _image_pair(record, file, ground_truth.objects(file), own)
    known = {phrase: label for phrase, label in phrase_classes.items() if label is not None}
    missing = tuple(name for name in sizes if name not in matched)
    if count_missing:
        pairs |= {name: ImagePair(name, None, sizes[name], known, ground_truth.objects(name), ()) for name in missing}
    return MatchedDataset(
        pairs=tuple(pairs[name] for name in sizes if name in pairs),
        phrase_classes=known,
        unknown_phrases={phrase: unknown[phrase] for phrase, label in phrase_classes.items() if label is None},
        unprompted_classes=tuple(name for name in ground_truth.classes if name not in known.values()),
        missing=missing,
        without_ground_truth=tuple(without_ground_truth),
        size_mismatches=tuple(size_mismatches),
        missing_counted=count_missing,
    )


def _image_pair(
    record: Record, file: str, ground_truth: tuple[GroundTruthObject, ...], classes: Mapping[str, str | None]
) -> ImagePair:
    """Pair one record with its ground truth; instances of phrases without a class are left out."""
    instances, predictions = record.instances, []
    for i, phrase_id in enumerate(instances.phrase_ids):
        phrase = instances.phrases[phrase_id]
        label = classes[phrase]
        if label is not None:
            x0, y0, x1, y1 = (float(side) for side in instances.boxes[i])
            score = float(instances.scores[i])
            predictions.append(Prediction(label, phrase, score, (x0, y0, x1, y1), instances.rles[i]))
    known = {phrase: label for phrase, label in classes.items() if label is not None}
    return ImagePair(file, record.image.file, instances.image_size, known, ground_truth, tuple(predictions))
