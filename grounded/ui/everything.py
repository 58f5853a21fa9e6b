"""Functions behind the events of the tab that finds masks of everything."""

import html
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.interactive.everything import UNNAMED
from grounded.ui import views
from grounded.ui.deadline import Deadline
from grounded.ui.events import Events
from grounded.ui.inputs import rested
from grounded.ui.page import Page, hidden_by
from grounded.ui.palette import own_colours
from grounded.ui.progress import Line, Report, steps, words
from grounded.ui.session import Session, Work
from grounded.ui.studio import Studio

MOST_SHOWN = 100  # masks in the picture: each is a picture of its own for the browser
COLUMNS = ("#", "name", "CLIP", "predicted IoU", "area, px")


class Shown(NamedTuple):
    """What the events answer with: values or updates of components; `gr.skip()` for what stays as it is."""

    page: Any
    progress: Any  # HTML
    status: Any  # HTML
    picture: Any
    phrases: Any
    table: Any
    downloads: Any
    start: Any  # the button, which rests while a search goes on


def open_picture(studio: Studio, upload: dict[str, Any] | None) -> Shown:
    """Begin with another picture, as the browser tells of it; None for none.

    Raises:
        ImageError: it cannot be read, or is too large.
    """
    return shown(Events(studio).open(upload).page)


def run(
    studio: Studio,
    page: Page,
    names: str,
    points_per_side: int | float,
    pred_iou_thresh: int | float,
    stability_score_thresh: int | float,
    min_mask_region_area: int | float,
    crop_n_layers: int | float,
    naming_threshold: int | float,
) -> Iterator[Shown]:
    """Find masks of everything, and name them where `names` is not empty. Closing the generator ends the search.

    Yields:
        how far it is, and at the end what was found.

    Raises:
        PromptError: there is no picture, or no phrase in `names`.
        TimeLimitError: the time is up.
    """
    session, line, deadline = page.session, Line("points"), Deadline(studio.limits.seconds)
    session.opened  # noqa: B018  # told at once where there is none
    yield _going_on(line.waiting("Encoding the picture"))._replace(start=gr.update(interactive=False))

    def search(report: Report) -> Session:
        def at(done: int, total: int) -> None:
            deadline.check()
            report(done, total)

        return studio.everything(
            session,
            names.strip(),
            progress=at,
            naming_threshold=float(naming_threshold),
            points_per_side=int(points_per_side),
            pred_iou_thresh=float(pred_iou_thresh),
            stability_score_thresh=float(stability_score_thresh),
            min_mask_region_area=int(min_mask_region_area),
            crop_n_layers=int(crop_n_layers),
            crop_n_points_downscale_factor=2,  # crops are small: they need no grid as fine as the picture's
        )

    try:
        found = yield from _told(steps(search), line)
        yield shown(Page(found))._replace(start=rested())
    except Exception:
        yield _going_on("")._replace(start=rested())  # a bar must not stand where nothing goes on
        raise


def stopped() -> str:
    """The progress line after a user has cancelled."""
    return words("Cancelled.")


def show(page: Page, phrases: list[str]) -> Shown:
    """Show the masks of these names only."""
    return shown(replace(page, hidden=hidden_by(phrases, page)))


def shown(page: Page) -> Shown:
    """All that is shown of a page."""
    found = page.session.instances
    there = set(found.labels.tolist())
    counts = [choice for choice in views.counts(found) if choice[1] in there]
    return Shown(
        page=page,
        progress="",
        status=status(page),
        picture=_picture(page),
        phrases=gr.update(
            choices=counts,
            value=[phrase for _, phrase in counts if phrase not in page.hidden],
            visible=len(counts) > 1,
        ),
        table=gr.update(value=table(found), visible=len(found) > 0),
        downloads=gr.update(visible=len(found) > 0),
        start=gr.skip(),
    )


def table(found: Instances) -> list[list[str | int | float | None]]:
    """One row for each mask, by `COLUMNS`."""
    rows = views.table(found)
    places = [views.COLUMNS.index(name) for name in ("#", "phrase", "CLIP", "predicted IoU", "area, px")]
    return [[row[place] for place in places] for row in rows]


def sections(page: Page) -> tuple[Any, list[tuple[np.ndarray, str]]]:
    """The picture, and of the largest masks that are not hidden a tint in [0, 1] with its label, small ones on top."""
    found = page.session.instances
    areas = np.array([coco_mask.area(rle) for rle in found.rles])
    rows = [row for row in np.argsort(-areas, kind="stable").tolist() if found.labels[row] not in page.hidden]
    rows = rows[:MOST_SHOWN]
    largest = replace(page.session, work=Work(found[rows]))
    picture, tints = views.annotated(largest)
    return picture, [(tint, _label(found, row)) for (tint, _), row in zip(tints, rows, strict=True)]


def _told(search: Generator[tuple[int, int], None, Session], line: Line) -> Generator[Shown, None, Session]:
    with closing(search):
        while True:
            try:
                done, total = next(search)
            except StopIteration as end:
                return end.value
            yield _going_on(line.at(done, total) if done < total else line.waiting("Drawing the masks"))


def _going_on(progress: str) -> Shown:
    return Shown(gr.skip(), progress, *(gr.skip() for _ in Shown._fields[2:]))


def _picture(page: Page) -> Any:
    if page.session.picture is None:
        return gr.update(value=None)
    found = page.session.instances
    colours = {_label(found, row): colour for row, colour in enumerate(own_colours(len(found)))}
    return gr.update(value=sections(page), color_map=colours)


def _label(found: Instances, row: int) -> str:
    name = str(found.labels[row])
    return str(row + 1) if name == UNNAMED else f"{row + 1} {name}"  # most are unnamed, and many fill a screen


def _found(instances: Instances) -> str:
    """How many masks there are of each name, and which names fit none."""
    counts = Counter(instances.labels.tolist())
    there = ", ".join(f"{name} ({counts[name]})" for name in instances.phrases if counts[name])
    missing = ", ".join(name for name in instances.phrases if not counts[name] and name != UNNAMED)
    total = f"{len(instances)} mask{'s' * (len(instances) != 1)}"
    return (f"{total}: {there}." if there else "Nothing was found.") + (f" None of: {missing}." if missing else "")


def status(page: Page) -> str:
    """What there is and what to do next, as HTML."""
    session = page.session
    if session.picture is None:
        lines = ["Add a picture or pick an example, and press Find everything."]
    elif session.work is None:
        lines = ["Press Find everything."]
    else:
        notes = views.status(session)[1:]
        lines = [_found(session.instances), *notes, views.times(session)]
        count = len(views.shown(session.instances, page.hidden))
        if count > MOST_SHOWN:
            lines.insert(1, f"The picture shows the {MOST_SHOWN} largest masks; the downloads have all {count}.")
        if len(session.instances) == 0:
            lines.insert(1, "Lower the thresholds, or set more points.")
    told = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return f'<div role="status">{told}</div>'
