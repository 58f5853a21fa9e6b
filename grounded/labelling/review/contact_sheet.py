"""A sheet of small overlays as one HTML file, to be looked at anywhere."""

import base64
import heapq
from collections.abc import Iterator
from html import escape
from math import inf
from os import PathLike
from pathlib import Path

from PIL import Image

from grounded.data.phrases import shortened
from grounded.errors import OutputError
from grounded.labelling import store
from grounded.labelling.records import Record
from grounded.labelling.review import apply, log
from grounded.labelling.review.agreement import agreement
from grounded.labelling.review.images import jpeg, overlay
from grounded.labelling.review.index import Entry, entries
from grounded.labelling.sources import Source
from grounded.labelling.store.reading import Follower
from grounded.utils.files import write_atomically

_SIDE = 320  # pixels of the longer side
_STYLE = (Path(__file__).with_name("static") / "sheet.css").read_text(encoding="utf-8")


def write_sheet(folder: str | PathLike[str], source: Source | None, path: str | PathLike[str], limit: int = 200) -> int:
    """Write a sheet of the pictures of a run whose lowest scores are lowest, corrected as far as they were reviewed.

    Args:
        folder: of the run.
        source: of its pictures; overlays are on grey where one is missing.
        path: of the HTML file, which holds the small pictures itself and asks for nothing from elsewhere.
        limit: of the number of pictures; one takes about 30 KB.

    Returns:
        how many pictures are on it.

    Raises:
        ResultError: the folder holds no run, or its reviews do not fit.
        OutputError: the file cannot be written.
    """
    if Path(path).is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    said, places = log.by_file(log.read(folder)), store.record_index(folder)
    worst = heapq.nsmallest(limit, entries(Follower(folder), set()), key=_doubt)
    figures = [
        _figure(apply.apply(store.record_at(*places[entry.file]), said.get(entry.file, ())), source) for entry in worst
    ]
    title = escape(Path(folder).resolve().name)
    shown = f"{len(worst)} of {len(places)} pictures" if len(worst) < len(places) else f"{len(places)} pictures"
    lines = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<p>{shown}, those with the lowest scores first.</p>",
        *([f"<p>{escape(str(agreement(folder)))}</p>"] if said else []),
        "<main>",
        *figures,
        "</main></html>",
    ]
    write_atomically(path, "\n".join(lines).encode())
    return len(worst)


def _doubt(entry: Entry) -> tuple[float, str]:
    score = entry.score(None)
    return inf if score is None else score, entry.file


def _figure(record: Record, source: Source | None) -> str:
    data = base64.b64encode(jpeg(_small(record, source), quality=80)).decode()
    name = escape(record.image.file)
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{name}" loading="lazy">'
        f"<figcaption><strong>{name}</strong>{''.join(_lines(record))}</figcaption></figure>"
    )


def _small(record: Record, source: Source | None) -> Image.Image:
    return overlay(source, record, _SIDE)


def _lines(record: Record) -> Iterator[str]:
    """Number and lowest score of each phrase that was found."""
    counts: dict[str, int] = {}
    for label in record.instances.labels.tolist():
        counts[label] = counts.get(label, 0) + 1
    lowest = dict(Entry.of(record.to_dict()).lowest)
    for phrase, count in counts.items():
        score = "" if lowest[phrase] != lowest[phrase] else f", lowest {lowest[phrase]:.2f}"
        yield f"<span>{count} {escape(shortened(phrase))}{score}</span>"
    if not counts:
        yield "<span>nothing</span>"
