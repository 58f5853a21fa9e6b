"""What the events of the app do: a session and what the user did -> the next session. Knows nothing of how it looks."""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from grounded import config as configs
from grounded.data.clicks import validate_points
from grounded.data.image import ImageLike
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.interactive import edit
from grounded.pipeline import Pipeline, Text
from grounded.settings import PipelineConfig
from grounded.ui.deadline import Deadline
from grounded.ui.limits import Limits, fit
from grounded.ui.options import Options
from grounded.ui.session import Click, Session, Work
from grounded.utils.timing import Stopwatch
from segany.utils.rle import decode_rle, encode_rle

Tool = Literal["select", "add point", "remove point", "new by click", "new by box"]
TOOLS: tuple[Tool, ...] = ("select", "add point", "remove point", "new by click", "new by box")

# The detector is loaded with a threshold as low as its slider goes, so that moving it needs no detector.
LOWEST_BOX_THRESHOLD = 0.05


@dataclass(frozen=True)
class Studio:
    """The models and limits that all users share, and what an event makes of one user's session."""

    pipeline: Pipeline
    defaults: Options
    limits: Limits

    @classmethod
    def from_config(
        cls, source: str | PathLike[str] | PipelineConfig = "tiny", limits: Limits | None = None
    ) -> "Studio":
        """Load every part of a configuration, since a user may switch on what it leaves out.

        Raises:
            ConfigError: the configuration is wrong.
            segany.CheckpointError: weights are missing or do not fit.
        """
        config = configs.load(source)
        lowest = min(config.detector.box_threshold, LOWEST_BOX_THRESHOLD)
        pipeline = Pipeline.from_config(config, load_all=True, box_threshold=lowest)
        return cls(pipeline, Options.of(config), limits or Limits())

    def open(self, image: ImageLike, name: str | None = None) -> Session:
        """A new session on a picture.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        source = fit(image, self.limits)
        if name is None and isinstance(image, (str, PathLike)):
            name = Path(image).stem
        return Session(picture=source, name=name or "picture")

    def segment(
        self, session: Session, text: Text, options: Options | None = None, watch: Stopwatch | None = None
    ) -> Session:
        """Find what a text names. What was found before, with its corrections, can be had back by `undo`.

        `watch` is told of the stages as they begin; without one, there is `limits.seconds` of time.

        Raises:
            PromptError: no picture, or no phrase in the text.
            ConfigError: the options do not fit one another.
        """
        image, options = session.opened, options or self.defaults
        watch = watch or Deadline(self.limits.seconds)
        pipeline = options.adjust(self.pipeline)
        found = pipeline.segment(image, text, watch, box_threshold=options.box_threshold, cache=session.cache)
        return session.to(Work(found)).timed(watch.seconds)

    def everything(self, session: Session, words: Text = (), **options: Any) -> Session:
        """Masks of everything, named where CLIP recognises one of the words; see `Pipeline.everything`."""
        image, watch = session.opened, Deadline(self.limits.seconds)
        embedding = self._embedding(session, watch)
        found = self.pipeline.everything(image, words, watch, embedding=embedding, **options)
        return session.to(Work(found)).timed(watch.seconds)

    def press(self, session: Session, tool: Tool, x: float, y: float, phrase: str = "") -> Session:
        """A press on the picture at (x, y), in its pixels; `phrase` is for a new instance.

        Raises:
            PromptError: no picture, no instance selected, no phrase, or a point outside the picture.
        """
        validate_points([[x, y]], [1], session.opened.size)
        if tool == "select":
            return self.select(session, instance_at(session.instances, x, y))
        if tool in ("add point", "remove point"):
            return self.click(session, Click(x, y, tool == "add point"))
        if tool == "new by click":
            return self._with_new(session, phrase, points=[[x, y]])
        return self._corner(session, x, y, phrase)

    def select(self, session: Session, index: int | None) -> Session:
        """Choose the instance that corrections are for; None for none. Earlier clicks are done with.

        Raises:
            PromptError: there is no such instance.
        """
        if index is not None and not 0 <= index < len(session.instances):
            raise PromptError(f"there are {len(session.instances)} instances, got number {index + 1}")
        if session.work is None:
            return session
        # To look at another instance changes nothing, so there is nothing to undo.
        return replace(session, work=Work(session.instances, selected=index), seconds={})

    def click(self, session: Session, click: Click) -> Session:
        """Correct the selected instance by one more point, together with the clicks and strokes so far.

        Raises:
            PromptError: no instance is selected, or the point lies outside the picture.
        """
        work, index = _selected(session)
        return self._corrected(session, replace(work, clicks=(*work.clicks, click)), index)

    def stroke(
        self, session: Session, brush: Bool[np.ndarray, "h w"] | None, eraser: Bool[np.ndarray, "h w"] | None
    ) -> Session:
        """Correct the selected instance by what was painted and erased, masks of the size of the picture.

        Strokes add to those so far. Where a brush and an eraser meet the later counts, in one event the eraser.

        Raises:
            PromptError: no instance is selected, nothing was painted, or not on this picture.
        """
        work, index = _selected(session)
        nothing = np.zeros(session.opened.size, bool)
        brush, eraser = (nothing if painted is None else painted for painted in (brush, eraser))
        for name, painted in (("brush", brush), ("eraser", eraser)):
            if painted.shape != nothing.shape:
                raise PromptError(f"{name} must be {nothing.shape}, got {painted.shape}")
        if not (brush | eraser).any():
            raise PromptError("nothing was painted: draw on the picture with the brush or the eraser first")
        painted, erased = (nothing if rle is None else decode_rle([rle])[0].numpy() for rle in work.strokes)
        strokes = encode_rle(np.stack([(painted | brush) & ~eraser, (erased & ~brush) | eraser]))
        return self._corrected(session, replace(work, strokes=(strokes[0], strokes[1])), index)

    def choose(self, session: Session, number: int) -> Session:
        """Take another of the masks that the click which made the selected instance may mean; 0 is the likeliest.

        Raises:
            PromptError: there are no alternatives, or not so many.
        """
        work, index = _selected(session)
        if work.alternatives is None or not 0 <= number < len(work.alternatives):
            count = 0 if work.alternatives is None else len(work.alternatives)
            raise PromptError(f"there are {count} alternatives for the selected instance, got number {number + 1}")
        others = work.instances[[row for row in range(len(work.instances)) if row != index]]
        changed = edit.add(others, work.alternatives[number])
        return session.to(replace(work, instances=changed, selected=len(changed) - 1))

    def relabel(self, session: Session, phrase: str) -> Session:
        """Give the selected instance another phrase.

        Raises:
            PromptError: no instance is selected, or the phrase is empty.
        """
        work, index = _selected(session)
        return session.to(Work(edit.relabel(work.instances, index, phrase), index))

    def merge(self, session: Session, other: int) -> Session:
        """Make the selected instance and another one a single instance, with the phrase of the selected.

        Raises:
            PromptError: no instance is selected, there is no such other, or it is the same.
        """
        work, index = _selected(session)
        if other == index or not 0 <= other < len(work.instances):
            raise PromptError("choose an instance other than the selected one to merge with it")
        merged = edit.merge(work.instances, [index, other])
        return session.to(Work(merged, index - (other < index)))

    def delete(self, session: Session) -> Session:
        """Drop the selected instance.

        Raises:
            PromptError: no instance is selected.
        """
        work, index = _selected(session)
        return session.to(Work(work.instances[[row for row in range(len(work.instances)) if row != index]]))

    def undo(self, session: Session) -> Session:
        """Go back by one step, at last to the picture alone; half a box is a step as well.

        Without any, nothing changes.
        """
        if session.work is not None and session.work.corner is not None:
            return replace(session, work=replace(session.work, corner=None), seconds={})
        if not session.history:
            return session
        return replace(session, work=session.history[-1], history=session.history[:-1], seconds={})

    def _corrected(self, session: Session, work: Work, index: int) -> Session:
        """The selected instance as it was, corrected by all that the user has said of it since."""
        before = work.instances if work.before is None else work.before
        brush, eraser = (None if rle is None else decode_rle([rle])[0].numpy() for rle in work.strokes)
        watch = Deadline(self.limits.seconds)
        embedding = self._embedding(session, watch)
        with watch.stage("refine"):
            corrected = self.pipeline.refine(
                session.opened,
                before,
                index,
                [[c.x, c.y] for c in work.clicks],
                [int(c.foreground) for c in work.clicks],
                brush=brush,
                eraser=eraser,
                embedding=embedding,
                cache=session.cache,
            )
        return session.to(Work(corrected, index, work.clicks, work.strokes, before)).timed(watch.seconds)

    def _corner(self, session: Session, x: float, y: float, phrase: str) -> Session:
        """Of two presses that draw a box the first is remembered; the second makes an instance."""
        work = session.work or Work(session.instances)
        if work.corner is None:
            return replace(session, work=replace(work, corner=(x, y)))
        (x0, x1), (y0, y1) = sorted((work.corner[0], x)), sorted((work.corner[1], y))
        session = replace(session, work=replace(work, corner=None))
        return self._with_new(session, phrase, box=[x0, y0, x1, y1])

    def _with_new(self, session: Session, phrase: str, **shown: Any) -> Session:
        """Add what clicks or a box show, selected."""
        image, watch = session.opened, Deadline(self.limits.seconds)
        embedding = self._embedding(session, watch)
        with watch.stage("decode"):
            found = self.pipeline.candidates(image, phrase, embedding=embedding, **shown)
        if len(found) == 0:
            raise PromptError("nothing was found there: try another place")
        instances = edit.add(session.instances, found[0])
        alternatives = found if len(found) > 1 else None
        return session.to(Work(instances, len(instances) - 1, alternatives=alternatives)).timed(watch.seconds)

    def _embedding(self, session: Session, watch: Stopwatch) -> Any:
        """The image embedding, made once for each picture."""
        return self.pipeline.encode(session.opened, session.cache, watch)


def instance_at(instances: Instances, x: float, y: float) -> int | None:
    """The instance whose mask has the pixel at (x, y), the smallest where several have; None where none has."""
    height, width = instances.image_size
    row, column = int(y), int(x)
    if not (0 <= row < height and 0 <= column < width):
        return None
    # Looked up in the runs: to decode all masks of a large picture takes too long for a press.
    pixel = coco_mask.frPyObjects(np.array([[column, row, 1, 1]], np.float64), height, width)[0]
    here = [i for i, rle in enumerate(instances.rles) if coco_mask.area(coco_mask.merge([rle, pixel], intersect=True))]
    return min(here, key=lambda i: int(coco_mask.area(instances.rles[i])), default=None)


def _selected(session: Session) -> tuple[Work, int]:
    if session.work is None or session.work.selected is None:
        raise PromptError("no instance is selected: choose the tool 'select' and press on one, or pick it in the list")
    return session.work, session.work.selected
