"""What the app does with an image, without any of its layout: each action takes a state and returns the next one."""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from grounded.config import PipelineConfig, load, override
from grounded.data.clicks import validate_points
from grounded.data.image import ImageLike
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.interactive import edit
from grounded.pipeline import Pipeline, Text
from grounded.query import QuerySettings
from grounded.stages.cache import StageCache
from grounded.ui.clips import load_video
from grounded.ui.progress import Deadline
from grounded.ui.state import AppState, Click, EditState, Limits, open_within
from grounded.utils.timing import Stopwatch
from grounded.video.pipeline import VideoPipeline
from segany.utils.rle import decode_rle, encode_rle, rle_area, rle_contains

Tool = Literal["select", "add point", "remove point", "new by click", "new by box"]
TOOLS: tuple[Tool, ...] = ("select", "add point", "remove point", "new by click", "new by box")

# The detector is loaded with a threshold as low as its slider goes, so that moving the slider needs no detector.
LOWEST_BOX_THRESHOLD = 0.05
# A grid of so many points to a side is twice as fine as the published default; its cost grows with the square.
MAX_POINTS_PER_SIDE = 64
# Of automatic masks in the app: stricter than the fallback's, because CLIP does not filter these masks.
_MIN_QUALITY = 0.6  # predicted IoU and stability score
_MIN_REGION_AREA = 100  # pixels of holes and islands, which would also keep two masks of one object apart


@dataclass(frozen=True)
class Actions:
    """The models and limits that all users share, and one method for each action of a user."""

    pipeline: Pipeline
    config: PipelineConfig  # as it was asked for; the pipeline's own may have a lower box threshold
    limits: Limits
    video: VideoPipeline | None = None  # None where no clips can be followed
    video_missing: str = ""  # then a sentence on what is missing

    @classmethod
    def from_config(
        cls, source: str | PathLike[str] | PipelineConfig | None = None, limits: Limits | None = None
    ) -> "Actions":
        """Load all models of a configuration, since a user may switch on the ones that it leaves out.

        Raises:
            ConfigError: the configuration is wrong.
            CheckpointError: weights are missing or do not fit.
        """
        config = load(source)
        threshold = min(config.detector.threshold, LOWEST_BOX_THRESHOLD)
        pipeline = Pipeline.from_config(config, load_all=True, box_threshold=threshold)
        video, missing = load_video(pipeline)
        return cls(pipeline, config, limits or Limits(), video, missing)

    @property
    def defaults(self) -> QuerySettings:
        """The settings that a user starts from."""
        return QuerySettings.from_config(self.config)

    def with_settings(self, settings: QuerySettings) -> tuple[Pipeline, float]:
        """The pipeline under these settings, and the box threshold for its `segment`.

        Raises:
            ConfigError: the settings do not fit one another, or need a model that was not loaded.
        """
        config = settings.apply(self.config)
        sections = ("prompting", "filtering", "refinement", "fallback")
        pipeline = self.pipeline.with_config(**{name: getattr(config, name) for name in sections})
        return pipeline, config.detector.threshold

    def open(self, image: ImageLike, name: str | None = None) -> AppState:
        """A new state with an image. `name` is for downloads; None takes that of the file.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        source = open_within(image, self.limits)
        if name is None and isinstance(image, (str, PathLike)):
            name = Path(image).stem
        return AppState(image=source, name=name or "image", cache=StageCache())

    def segment(
        self,
        state: AppState,
        text: Text,
        settings: QuerySettings | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> AppState:
        """Find what a text names. `undo` brings back the instances from before, with their corrections.

        Args:
            state: with an image.
            text: as in `Pipeline.segment`.
            settings: of this query.
            stopwatch: for the stages; None gives them `limits.seconds` of time.

        Raises:
            PromptError: no image, or no phrase in the text.
            ConfigError: the settings do not fit one another.
        """
        image = state.require_image()
        stopwatch = stopwatch or Deadline(self.limits.seconds)
        pipeline, threshold = self.with_settings(settings or QuerySettings())
        found = pipeline.segment(image, text, stopwatch=stopwatch, box_threshold=threshold, cache=state.cache)
        return state.with_step(EditState(found)).with_seconds(stopwatch.seconds)

    def everything(self, state: AppState, words: Text = (), **options: Any) -> AppState:
        """Masks of everything, named where CLIP recognises one of the words; see `Pipeline.everything`."""
        image, stopwatch = state.require_image(), Deadline(self.limits.seconds)
        embedding = self.pipeline.encode(image, cache=state.cache, stopwatch=stopwatch)
        found = self.pipeline.everything(image, words, stopwatch=stopwatch, embedding=embedding, **options)
        return state.with_step(EditState(found)).with_seconds(stopwatch.seconds)

    def press(self, state: AppState, tool: Tool, x: float, y: float, phrase: str = "") -> AppState:
        """A press on the image at (x, y), in its pixels; `phrase` is for a new instance.

        Raises:
            PromptError: no image, no instance selected, no phrase, or a point outside the image.
        """
        validate_points([[x, y]], [1], state.require_image().size)
        if tool == "select":
            return self.select(state, instance_at(state.instances, x, y))
        if tool in ("add point", "remove point"):
            return self.click(state, Click(x, y, tool == "add point"))
        if tool == "new by click":
            return self._add_instance(state, phrase, points=[[x, y]])
        # Of two presses that draw a box the first is remembered; the second makes an instance.
        edits = state.edits or EditState(state.instances)
        if edits.corner is None:
            return replace(state, edits=replace(edits, corner=(x, y)))
        (x0, x1), (y0, y1) = sorted((edits.corner[0], x)), sorted((edits.corner[1], y))
        return self._add_instance(replace(state, edits=replace(edits, corner=None)), phrase, box=[x0, y0, x1, y1])

    def select(self, state: AppState, index: int | None) -> AppState:
        """Choose the instance to correct; None for none. Earlier clicks on another one are finished with this.

        Raises:
            PromptError: there is no such instance.
        """
        if index is not None and not 0 <= index < len(state.instances):
            raise PromptError(f"there are {len(state.instances)} instances, got number {index + 1}")
        if state.edits is None:
            return state
        # Looking at another instance changes nothing, so there is nothing to undo.
        return replace(state, edits=EditState(state.instances, selected=index), seconds={})

    def click(self, state: AppState, click: Click) -> AppState:
        """Correct the selected instance by one more point, together with the clicks and strokes so far.

        Raises:
            PromptError: no instance is selected, or the point lies outside the image.
        """
        edits, index = _selected(state)
        return self._correct(state, replace(edits, clicks=(*edits.clicks, click)), index)

    def stroke(
        self, state: AppState, brush: Bool[np.ndarray, "h w"] | None, eraser: Bool[np.ndarray, "h w"] | None
    ) -> AppState:
        """Correct the selected instance by painted and erased pixels, masks of the size of the image.

        Strokes are added to those so far. Where a brush and an eraser meet the later one counts; within one call that
        is the eraser.

        Raises:
            PromptError: no instance is selected, nothing was painted, or the masks are of another size.
        """
        edits, index = _selected(state)
        blank = np.zeros(state.require_image().size, bool)
        brush, eraser = (blank if mask is None else mask for mask in (brush, eraser))
        for name, mask in (("brush", brush), ("eraser", eraser)):
            if mask.shape != blank.shape:
                raise PromptError(f"{name} must be {blank.shape}, got {mask.shape}")
        if not (brush | eraser).any():
            raise PromptError("nothing was painted: draw on the image with the brush or the eraser first")
        painted, erased = (blank if rle is None else decode_rle([rle])[0].numpy() for rle in edits.strokes)
        strokes = encode_rle(np.stack([(painted | brush) & ~eraser, (erased & ~brush) | eraser]))
        return self._correct(state, replace(edits, strokes=(strokes[0], strokes[1])), index)

    def choose(self, state: AppState, number: int) -> AppState:
        """Take another of the alternative masks of the selected instance; 0 is the likeliest.

        Raises:
            PromptError: there are no alternatives, or not so many.
        """
        edits, index = _selected(state)
        count = 0 if edits.alternatives is None else len(edits.alternatives)
        if edits.alternatives is None or not 0 <= number < count:
            raise PromptError(f"there are {count} alternatives for the selected instance, got number {number + 1}")
        instances = edit.add(_without(edits.instances, index), edits.alternatives[number])
        return state.with_step(replace(edits, instances=instances, selected=len(instances) - 1))

    def relabel(self, state: AppState, phrase: str) -> AppState:
        """Give the selected instance another phrase.

        Raises:
            PromptError: no instance is selected, or the phrase is empty.
        """
        edits, index = _selected(state)
        return state.with_step(EditState(edit.relabel(edits.instances, index, phrase), index))

    def merge(self, state: AppState, other: int) -> AppState:
        """Make one instance of the selected and another one, with the phrase of the selected.

        Raises:
            PromptError: no instance is selected, there is no such other, or it is the same.
        """
        edits, index = _selected(state)
        if other == index or not 0 <= other < len(edits.instances):
            raise PromptError("choose an instance other than the selected one to merge with it")
        merged = edit.merge(edits.instances, [index, other])
        return state.with_step(EditState(merged, index - (other < index)))

    def delete(self, state: AppState) -> AppState:
        """Drop the selected instance.

        Raises:
            PromptError: no instance is selected.
        """
        edits, index = _selected(state)
        return state.with_step(EditState(_without(edits.instances, index)))

    def undo(self, state: AppState) -> AppState:
        """Go back by one step, down to the image alone; half a box is a step as well. Without steps nothing changes."""
        if state.edits is not None and state.edits.corner is not None:
            return replace(state, edits=replace(state.edits, corner=None), seconds={})
        if not state.history:
            return state
        return replace(state, edits=state.history[-1], history=state.history[:-1], seconds={})

    def _correct(self, state: AppState, edits: EditState, index: int) -> AppState:
        """Correct the mask that the instance had when it was selected, by all clicks and strokes since then."""
        image, stopwatch = state.require_image(), Deadline(self.limits.seconds)
        before = edits.instances if edits.uncorrected is None else edits.uncorrected
        brush, eraser = (None if rle is None else decode_rle([rle])[0].numpy() for rle in edits.strokes)
        embedding = self.pipeline.encode(image, cache=state.cache, stopwatch=stopwatch)
        with stopwatch.stage("refine"):
            corrected = self.pipeline.refine(
                image,
                before,
                index,
                [[click.x, click.y] for click in edits.clicks],
                [int(click.foreground) for click in edits.clicks],
                brush=brush,
                eraser=eraser,
                embedding=embedding,
                cache=state.cache,
            )
        after = EditState(corrected, index, edits.clicks, edits.strokes, before)
        return state.with_step(after).with_seconds(stopwatch.seconds)

    def _add_instance(self, state: AppState, phrase: str, **prompt: Any) -> AppState:
        """Add the best mask for a click or a box, and select it."""
        image, stopwatch = state.require_image(), Deadline(self.limits.seconds)
        embedding = self.pipeline.encode(image, cache=state.cache, stopwatch=stopwatch)
        with stopwatch.stage("segment"):
            candidates = self.pipeline.candidates(image, phrase, embedding=embedding, **prompt)
        if len(candidates) == 0:
            raise PromptError("nothing was found there: try another place")
        instances = edit.add(state.instances, candidates[0])
        alternatives = candidates if len(candidates) > 1 else None
        after = EditState(instances, len(instances) - 1, alternatives=alternatives)
        return state.with_step(after).with_seconds(stopwatch.seconds)


def interactive_defaults(config: PipelineConfig) -> PipelineConfig:
    """The configuration with thresholds for automatic masks under which all of them are worth showing to a user."""
    fallback, refinement = config.fallback, config.refinement
    return override(
        config,
        fallback={
            "pred_iou_thresh": max(fallback.pred_iou_thresh, _MIN_QUALITY),
            "stability_score_thresh": max(fallback.stability_score_thresh, _MIN_QUALITY),
        },
        refinement={"min_mask_region_area": max(refinement.min_mask_region_area, _MIN_REGION_AREA)},
    )


def instance_at(instances: Instances, x: float, y: float) -> int | None:
    """The smallest instance whose mask has the pixel at (x, y); None where there is none."""
    height, width = instances.image_size
    if not (0 <= int(x) < width and 0 <= int(y) < height):
        return None
    # Looked up in the runs: decoding all masks of a large image takes too long for a press.
    here = np.flatnonzero(rle_contains(instances.rles, int(x), int(y)))
    areas = rle_area([instances.rles[index] for index in here])
    return int(here[areas.argmin()]) if len(here) else None


def _selected(state: AppState) -> tuple[EditState, int]:
    if state.edits is None or state.edits.selected is None:
        raise PromptError("no instance is selected: choose the tool 'select' and press on one, or pick it in the list")
    return state.edits, state.edits.selected


def _without(instances: Instances, index: int) -> Instances:
    return instances[[row for row in range(len(instances)) if row != index]]
