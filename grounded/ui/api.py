"""What the named endpoints of the app answer: pictures and plain values in, JSON out, nothing kept between calls."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from pycocotools import mask as coco_mask

from grounded import config as configs
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import ConfigError, ImageError, PromptError, ResultError
from grounded.pipeline import Pipeline
from grounded.settings import Mode
from grounded.ui.automatic import MAX_POINTS_PER_SIDE, for_people
from grounded.ui.deadline import Deadline
from grounded.ui.limits import fit
from grounded.ui.messages import reported
from grounded.ui.studio import Studio
from segany.utils.rle import RLE

_NAMING_THRESHOLD = 0.3

FilePath = str | PathLike[str]
Fallback = Literal["none", "automatic", "text"]


@dataclass(frozen=True)
class _Question:
    phrases: tuple[str, ...]
    pipeline: Pipeline  # under the settings of the question
    box_threshold: float


@dataclass(frozen=True)
class Api:
    """The four questions that programs ask over the network. Settings that are None are the configuration's own.

    A result is what `Instances.to_dict` returns, and besides "notes", lines on what was done to the picture, and
    "seconds", the time of each stage. Pictures beyond the limit are scaled down, which a note says; boxes, points and
    masks are in pixels of the picture as "image" states its width and height.

    All methods raise
        ImageError: the picture cannot be read, or is too large.
        PromptError: the text, the index or the points cannot be used.
        ConfigError: a setting is wrong or needs a part that was not loaded.
        ResultError: the result that was given is none.
        TimeLimitError: the time is up.
    """

    studio: Studio

    def segment(
        self,
        image: FilePath,
        text: str,
        box_threshold: float | None = None,
        mode: Mode | None = None,
        filtering: bool | None = None,
        clip_threshold: float | None = None,
        refine_rounds: int | None = None,
        fallback: Fallback | None = None,
    ) -> dict[str, Any]:
        """Find what a text names in a picture: labelled instance masks, best first.

        Args:
            image: the picture.
            text: one or more phrases, split at full stops, commas, semicolons and line ends, as in "a dog. pizza".
            box_threshold: lowest detector score to keep, 0 to 1.
            mode: what the segmenter is prompted with: box, text or box+text.
            filtering: whether CLIP drops what does not look like its phrase.
            clip_threshold: lowest CLIP score that filtering keeps, 0 to 1.
            refine_rounds: rounds of correcting the masks by points, 0 to 8.
            fallback: what is tried for phrases that the detector missed: none, automatic or text.

        Returns:
            image, phrases, instances with their masks as COCO run-length encoding, models, notes, seconds.
        """
        question = self._asked(text, box_threshold, mode, filtering, clip_threshold, refine_rounds, fallback)
        return self._segmented(image, question, self._deadline())

    def label(
        self,
        images: list[FilePath],
        text: str,
        box_threshold: float | None = None,
        mode: Mode | None = None,
        filtering: bool | None = None,
        clip_threshold: float | None = None,
        refine_rounds: int | None = None,
        fallback: Fallback | None = None,
    ) -> list[dict[str, Any]]:
        """Find what one text names in several pictures. A picture that fails does not stop the others.

        Args:
            images: the pictures.
            text: one or more phrases, split at full stops, commas, semicolons and line ends, as in "a dog. pizza".
            box_threshold: lowest detector score to keep, 0 to 1.
            mode: what the segmenter is prompted with: box, text or box+text.
            filtering: whether CLIP drops what does not look like its phrase.
            clip_threshold: lowest CLIP score that filtering keeps, 0 to 1.
            refine_rounds: rounds of correcting the masks by points, 0 to 8.
            fallback: what is tried for phrases that the detector missed: none, automatic or text.

        Returns:
            a list in the order of the pictures: a result as /segment answers, or file and error.
        """
        most = self.studio.limits.max_pictures
        if len(images) > most:
            raise PromptError(f"at most {most} pictures can be labelled at once, got {len(images)}")
        question = self._asked(text, box_threshold, mode, filtering, clip_threshold, refine_rounds, fallback)
        deadline = self._deadline()
        results: list[dict[str, Any]] = []
        for image in images:
            try:
                results.append(self._segmented(image, question, deadline.lap()))
            except Exception as error:  # whatever is wrong with one picture must not cost the others
                results.append({"file": Path(image).name, "error": reported(error)})
        return results

    def refine(
        self,
        image: FilePath,
        result: dict[str, Any] | str,
        index: int,
        points: list[list[float | int]],
        labels: list[int] | None = None,
    ) -> dict[str, Any]:
        """Correct the mask of one instance of a result by clicks; the others stay as they are.

        Args:
            image: the picture that the result is of.
            result: what /segment, /automatic or /refine answered.
            index: which of its instances, from 0.
            points: all clicks on the instance so far, [[x, y], ...] in pixels.
            labels: 1 for each click that belongs to the instance, 0 for each that does not; all 1 where absent.

        Returns:
            the whole result with the corrected mask, as /segment answers.
        """
        source, watch = self._open(image), self._deadline()
        instances = _read(result, source.size)
        if not isinstance(index, int) or not 0 <= index < len(instances):
            raise PromptError(f"index must be one of {len(instances)} instances, counted from 0, got {index!r}")
        embedding = self._pipeline.encode(source, stopwatch=watch)
        with watch.stage("refine"):
            corrected = self._pipeline.refine(source, instances, index, points, labels, embedding=embedding)
        return _answer(corrected, source, self._pipeline, watch)

    def automatic(
        self,
        image: FilePath,
        words: str | None = None,
        points_per_side: int | None = None,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
        naming_threshold: float | None = None,
        min_mask_region_area: int | None = None,
    ) -> dict[str, Any]:
        """Masks of everything in a picture, named where CLIP recognises one of the words.

        Args:
            image: the picture.
            words: names to choose from, as in "dog. pizza"; absent or empty names nothing.
            points_per_side: the grid of points that are prompted, 1 to 64.
            pred_iou_thresh: lowest predicted IoU of a mask, 0 to 1.
            stability_score_thresh: lowest stability score of a mask, 0 to 1.
            naming_threshold: lowest CLIP score of a name, 0 to 1; other masks are called "unnamed".
            min_mask_region_area: holes and islands of fewer pixels are removed from the masks; 0 keeps them.

        Returns:
            a result as /segment answers; its phrases are the words and "unnamed".
        """
        changes = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
        }
        # The generator of the fallback has the same settings, and they are checked where they are replaced.
        given = {name: value for name, value in changes.items() if value is not None}
        cleaning = {} if min_mask_region_area is None else {"min_mask_region_area": min_mask_region_area}
        with _spoken_of_as_settings():
            config = configs.override(for_people(self._pipeline.config), fallback=given, refinement=cleaning)
        settings = config.fallback
        if settings.points_per_side > MAX_POINTS_PER_SIDE:
            raise ConfigError(f"points_per_side must be at most {MAX_POINTS_PER_SIDE}, got {settings.points_per_side}")
        naming = _NAMING_THRESHOLD if naming_threshold is None else naming_threshold
        if not isinstance(naming, (int, float)) or not 0 <= naming <= 1:
            raise ConfigError(f"naming_threshold must lie in [0, 1], got {naming!r}")
        source, watch = self._open(image), self._deadline()
        found = self._pipeline.everything(
            source,
            words or (),
            watch,
            naming_threshold=naming,
            progress=lambda done, total: watch.check(),
            min_mask_region_area=config.refinement.min_mask_region_area,
            **{name: getattr(settings, name) for name in changes},
        )
        return _answer(found, source, self._pipeline, watch)

    @property
    def _pipeline(self) -> Pipeline:
        return self.studio.pipeline

    def _deadline(self) -> Deadline:
        # On a GPU kernels run on after the call that started them, and would be counted in a later stage.
        synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else None
        return Deadline(self.studio.limits.seconds, synchronize)

    def _open(self, image: Any) -> SourceImage:
        if not isinstance(image, (str, PathLike)):
            raise ImageError(f"the image must be a file, got {type(image).__name__}")
        return fit(image, self.studio.limits)

    def _asked(
        self,
        text: str,
        box_threshold: Any,
        mode: Any,
        filtering: Any,
        clip_threshold: Any,
        refine_rounds: Any,
        fallback: Any,
    ) -> _Question:
        """A text and settings as they came, all of them checked."""
        given = {"mode": mode, "clip_threshold": clip_threshold, "refine_rounds": refine_rounds}
        given |= {"filtering": None if filtering is None else {"enabled": filtering}}
        given |= {"fallback": None if fallback is None else {"source": fallback}}
        studio = self.studio
        threshold = studio.defaults.box_threshold if box_threshold is None else box_threshold
        with _spoken_of_as_settings():
            configs.override(studio.pipeline.config, box_threshold=threshold)
            pipeline = studio.defaults.adjust(studio.pipeline)
            pipeline = pipeline.with_config(**{name: value for name, value in given.items() if value is not None})
        return _Question(parse(text), pipeline, threshold)

    def _segmented(self, image: Any, question: _Question, watch: Deadline) -> dict[str, Any]:
        with watch.stage("open"):
            source = self._open(image)
        pipeline = question.pipeline
        found = pipeline.segment(source, question.phrases, watch, box_threshold=question.box_threshold)
        return _answer(found, source, pipeline, watch)


@contextmanager
def _spoken_of_as_settings() -> Iterator[None]:
    """Errors name the setting that a caller gave, and not how it is passed on."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("overrides: ")) from error


def _answer(instances: Instances, source: SourceImage, pipeline: Pipeline, watch: Deadline) -> dict[str, Any]:
    section: dict[str, Any] = {"orientation": source.orientation}
    if source.path is not None:
        section = {"file": source.path.name, **section}
    seconds = {stage: round(spent, 4) for stage, spent in watch.seconds.items()}
    return {**instances.to_dict(section, pipeline.models), "notes": list(source.notes), "seconds": seconds}


def _read(result: Any, image_size: tuple[int, int]) -> Instances:
    """The instances of a result that came over the network: its masks are not to be trusted."""
    if isinstance(result, str):
        try:
            result = json.loads(result)
        except ValueError as error:
            raise ResultError(f"the result is not JSON: {error}") from error
    instances = Instances.from_dict(result)
    if instances.image_size != image_size:
        height, width = instances.image_size
        raise ResultError(
            f"the result must be of this picture of {image_size[1]} x {image_size[0]} pixels, got {width} x {height}"
        )
    for index, rle in enumerate(instances.rles):
        if not _covers_the_picture(rle):
            raise ResultError(f"the mask of instance {index} must be a run-length encoding of the whole picture")
    return instances


def _covers_the_picture(rle: RLE) -> bool:
    # Runs that end early would leave the rest of the mask to whatever lay in memory; encoded anew, they differ.
    try:
        return bool(coco_mask.encode(coco_mask.decode(rle))["counts"].decode("ascii") == rle["counts"])
    except (ValueError, TypeError):
        return False
