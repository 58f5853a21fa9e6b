"""Ground truth and predictions, matched image by image."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os import PathLike

from grounded.data.class_names import normalise_name
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.annotations import Box, LeftOut, Notes
from grounded.labelling.formats.coco_file import CocoFile, CocoImage, read_coco
from grounded.labelling.formats.image_names import ImageNames
from grounded.labelling.records import Record
from segany.utils.rle import RLE, rle_from_polygons

CROWDS = "crowd regions, in which predictions are neither right nor wrong"
UNUSABLE = "images of the ground truth that cannot be used, left out"


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
    unusable: tuple[str, ...]  # images without a size, or of a name that another one has
    _file: CocoFile
    _images: Mapping[str, CocoImage]
    _class_of: Mapping[str, str]  # by the name of the category
    _count_crowds: bool = False

    def objects(self, file: str, notes: Notes | None = None) -> tuple[GroundTruthObject, ...]:
        """Return the objects of an image, polygons as run lengths.

        Args:
            file: of the image.
            notes: annotations that cannot be read, and parts that were derived, are added.
        """
        left_out = LeftOut(Notes() if notes is None else notes, file)
        return tuple(
            GroundTruthObject(
                label=self._class_of[one.label],
                box=one.box,
                area=one.area,
                mask=one.mask,
                is_crowd=one.is_crowd and not self._count_crowds,
            )
            for one in self._file.objects(self._images[file], self.sizes[file], left_out)
        )

    def note_left_out(self, notes: Notes) -> None:
        """Add what is left out of the file and belongs to no image that can be used."""
        self._file.note_left_out(LeftOut(notes, ""))
        for image in self.unusable:
            notes.add(UNUSABLE, image)


def read_ground_truth(path: str | PathLike[str], count_crowds: bool = False) -> GroundTruth:
    """Read a COCO annotation file (Lin et al., 2014).

    Args:
        path: of the file.
        count_crowds: take crowds for objects, as where a tool marks all brushed masks so.

    Raises:
        ResultError: the file is missing, is not JSON, or does not hold images, annotations and categories.
    """
    return ground_truth_from_coco(read_coco(path), count_crowds)


def ground_truth_from_coco(coco: CocoFile, count_crowds: bool = False) -> GroundTruth:
    """Return the contents of a COCO annotation file by image name."""
    spellings: dict[str, str] = {}  # the first spelling stands for all
    class_of = {name: spellings.setdefault(normalise_name(name), name) for name in coco.categories.values()}
    images: dict[str, CocoImage] = {}
    sizes: dict[str, tuple[int, int]] = {}
    unusable = []
    for image in coco.images:
        assert image.file_name is not None  # of those that a file lists
        if image.image_size is None:
            unusable.append(f"{image.file_name}: it has no width and height")
        elif image.file_name in images:
            unusable.append(f"{image.file_name}: it is annotated twice, and the first counts")
        else:
            images[image.file_name], sizes[image.file_name] = image, image.image_size
    return GroundTruth(tuple(spellings.values()), sizes, tuple(unusable), coco, images, class_of, count_crowds)


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

    def ignoring_boxes(self) -> "ImagePair":
        """Return this pair for measures of masks: an object that is a box without a mask counts as a crowd there.

        Whether a mask in it is right cannot be told.
        """
        if all(one.mask is not None for one in self.ground_truth):
            return self
        return replace(self, ground_truth=tuple(_as_mask(one, self.image_size) for one in self.ground_truth))


def _as_mask(one: GroundTruthObject, image_size: tuple[int, int]) -> GroundTruthObject:
    if one.mask is not None:
        return one
    return replace(one, mask=filled_box(one.box, image_size), is_crowd=True)


def filled_box(box: Box, image_size: tuple[int, int]) -> RLE:
    """Return a box as a mask, drawn as COCO draws polygons."""
    x0, y0, x1, y1 = box
    return rle_from_polygons([[x0, y0, x0, y1, x1, y1, x1, y0]], image_size)


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
    ambiguous: tuple[str, ...] = ()  # records whose name fits several images of the ground truth, which are left out
    notes: tuple[str, ...] = ()  # lines on what was left out of the ground truth, or derived

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
    other with folders before it, in any spelling that `ImageNames` knows.

    Args:
        records: of a run; read once, one after the other.
        ground_truth: of the same images.
        names: finds the class of a phrase.
        phrases: of the run; those of the records are added. They are the prompt of images that have no record.
        count_missing: whether an image without a record counts as one without predictions.

    Raises:
        ResultError: two records are of one image.
    """
    sizes, notes = ground_truth.sizes, Notes()
    ground_truth.note_left_out(notes)
    phrase_classes = {phrase: names.find(phrase) for phrase in phrases}
    unknown: Counter[str] = Counter()
    pairs: dict[str, ImagePair] = {}
    matched: dict[str, str] = {}  # file of the ground truth -> file of its record
    without_ground_truth, size_mismatches, ambiguous = list[str](), list[str](), list[str]()
    uncertain = set[str]()  # images that an ambiguous record may be of: neither measured nor missing
    for found in ImageNames(sizes).match(records, lambda record: [record.image.file], same_folder=True):
        record, file = found.item, found.file
        instances, record_file = record.instances, record.image.file
        if file is None:
            (ambiguous if found.is_ambiguous else without_ground_truth).append(record_file)
            uncertain.update(found.candidates)
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
        pairs[file] = _image_pair(record, file, ground_truth.objects(file, notes), own)
    known = {phrase: label for phrase, label in phrase_classes.items() if label is not None}
    missing = tuple(name for name in sizes if name not in matched and name not in uncertain)
    if count_missing:
        for name in missing:
            pairs[name] = ImagePair(name, None, sizes[name], known, ground_truth.objects(name, notes), ())
    for pair in pairs.values():
        notes.add(CROWDS, pair.file, sum(one.is_crowd for one in pair.ground_truth))
    return MatchedDataset(
        pairs=tuple(pairs[name] for name in sizes if name in pairs),
        phrase_classes=known,
        unknown_phrases={phrase: unknown[phrase] for phrase, label in phrase_classes.items() if label is None},
        unprompted_classes=tuple(name for name in ground_truth.classes if name not in known.values()),
        missing=missing,
        without_ground_truth=tuple(without_ground_truth),
        size_mismatches=tuple(size_mismatches),
        missing_counted=count_missing,
        ambiguous=tuple(ambiguous),
        notes=tuple(notes.lines()),
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
