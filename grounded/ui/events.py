"""Functions behind the events of the main tab: a page and what the user did -> the next page and what is shown of it.

Each answers at once with a `Front`, what a user waits for; `rest` fills in what may come a moment later.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from grounded.errors import ImageError, PromptError
from grounded.ui import views
from grounded.ui.announced import Announced
from grounded.ui.options import Options
from grounded.ui.page import Page, hidden_by
from grounded.ui.session import Session
from grounded.ui.strokes import strokes
from grounded.ui.studio import Studio, Tool


class Front(NamedTuple):
    """What every event answers with."""

    page: Page
    canvas: Image.Image | None  # the picture to press on
    status: str  # HTML


class Rest(NamedTuple):
    """Updates of all else that depends on the page."""

    annotated: Any
    phrases: Any
    table: Any
    instance: Any
    other: Any
    alternatives: Any
    undo: Any
    relabel: Any
    delete: Any
    merge: Any
    downloads: Any
    editor: Any


@dataclass(frozen=True)
class Events:
    """Errors are those of `Studio`; nothing is changed then."""

    studio: Studio

    def open(self, upload: dict[str, Any] | None) -> Front:
        """Begin with another picture, as the browser tells of it before anything has read it; None for none.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        if upload is None:
            return front(Page())
        if not upload.get("path"):
            raise ImageError("the picture must be an uploaded file, got none")
        name = Path(upload.get("orig_name") or upload["path"]).stem
        return front(Page(self.studio.open(upload["path"], name)))

    def run(self, page: Page, text: str, *controls: Any, progress: Any = gr.Progress()) -> Front:  # noqa: B008
        """Find what the text names, under the position of the controls, in the order of the fields of `Options`."""
        options = options_at(controls)
        watch = Announced(self.studio.limits.seconds, lambda share, words: progress(share, desc=words))
        session = self.studio.segment(page.session, text, options, watch)
        return front(replace(page, session=session, asked=(text, options)))

    def again(self, page: Page, text: str, *controls: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        """`run` after a control was moved: only where something was asked, and not the same once more."""
        if page.asked is None or page.asked[1] == options_at(controls):
            return tuple(gr.skip() for _ in Front._fields)
        return self.run(page, text if text.strip() else page.asked[0], *controls, progress=progress)

    def show(self, page: Page, phrases: list[str]) -> Front:
        """Show the instances of these phrases only."""
        return front(replace(page, hidden=hidden_by(phrases, page)))

    def press(self, page: Page, tool: Tool, phrase: str, event: gr.SelectData) -> Front:
        """A press on the canvas."""
        x, y = event.index
        place = views.to_picture(page.session.opened, float(x), float(y))
        return self._changed(page, lambda session: self.studio.press(session, tool, *place, phrase))

    def select(self, page: Page, index: int | None) -> Front:
        """Pick an instance in the list."""
        return self._changed(page, lambda session: self.studio.select(session, index))

    def undo(self, page: Page) -> Front:
        return self._changed(page, self.studio.undo)

    def relabel(self, page: Page, phrase: str) -> Front:
        return self._changed(page, lambda session: self.studio.relabel(session, phrase))

    def merge(self, page: Page, other: int | None) -> Front:
        """Merge the selected instance with another."""
        if other is None:
            raise PromptError("choose in the list which instance to merge the selected one with")
        return self._changed(page, lambda session: self.studio.merge(session, other))

    def delete(self, page: Page) -> Front:
        return self._changed(page, self.studio.delete)

    def choose(self, page: Page, event: gr.SelectData) -> Front:
        """Take another mask that the last press may mean."""
        return self._changed(page, lambda session: self.studio.choose(session, event.index))

    def brush(self, page: Page, drawing: dict[str, Any] | None) -> Front:
        """Apply what was painted and erased over the picture, layers as RGBA arrays."""
        layers = (drawing or {}).get("layers") or []
        painted = strokes([np.asarray(layer) for layer in layers], page.session.opened.size)
        return self._changed(page, lambda session: self.studio.stroke(session, *painted))

    def _changed(self, page: Page, change: Callable[[Session], Session]) -> Front:
        return front(replace(page, session=change(page.session)))


def options_at(controls: Sequence[Any]) -> Options:
    """The options under the position of the controls; a browser has no floats that end in .0."""
    box_threshold, mode, filtering, clip_threshold, rounds, fallback, fallback_threshold = controls
    return Options(
        float(box_threshold), mode, filtering, float(clip_threshold), int(rounds), fallback, float(fallback_threshold)
    )


def front(page: Page) -> Front:
    """What is shown at once."""
    session = page.session
    canvas = None if session.picture is None else views.canvas(session, page.hidden)
    lines = [*views.status(session), views.times(session)]
    told = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return Front(page, canvas, f'<div role="status">{told}</div>')


def rest(page: Page) -> Rest:
    """What may come a moment later."""
    session, found = page.session, page.session.instances
    selected = session.work.selected if session.work else None
    named = views.names(found)
    others = [] if selected is None else [choice for choice in named if choice[1] != selected]
    choices = views.alternatives(session)
    phrases = [phrase for _, phrase in views.counts(found)]
    return Rest(
        annotated=_annotated(page),
        phrases=gr.update(
            choices=views.counts(found),
            value=[phrase for phrase in phrases if phrase not in page.hidden],
            visible=bool(phrases),
        ),
        table=gr.update(value=views.table(found), visible=len(found) > 0),
        instance=gr.update(choices=named, value=selected, interactive=len(found) > 0),
        other=gr.update(choices=others, value=None, interactive=bool(others)),
        alternatives=gr.update(value=choices, visible=len(choices) > 1, selected_index=None),
        undo=gr.update(interactive=bool(session.history)),
        relabel=gr.update(interactive=selected is not None),
        delete=gr.update(interactive=selected is not None),
        merge=gr.update(interactive=bool(others)),
        downloads=gr.update(visible=len(found) > 0),
        editor=background(page) if page.painting else gr.skip(),
    )


def paint(page: Page) -> tuple[Page, Any]:
    """Open the brush: the editor gets the canvas to paint on."""
    page = replace(page, painting=True)
    return page, background(page)


def put_away(page: Page) -> Page:
    """Close the brush."""
    return replace(page, painting=False)


def background(page: Page) -> Any:
    """An empty drawing over the canvas."""
    if page.session.picture is None:
        return None
    return {"background": views.canvas(page.session, page.hidden), "layers": [], "composite": None}


def _annotated(page: Page) -> Any:
    if page.session.picture is None:
        return gr.update(value=None)
    return gr.update(
        value=views.annotated(page.session, page.hidden),
        color_map=views.colours(page.session.instances),
    )
