"""A contact sheet of a run: small overlays in one HTML file that needs no server."""

import base64
import heapq
from collections import Counter
from dataclasses import dataclass
from math import inf, isnan
from os import PathLike
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from grounded.data.phrases import shortened
from grounded.errors import OutputError
from grounded.labelling.records import Record
from grounded.labelling.review.agreement import run_agreement
from grounded.labelling.review.apply import apply_reviews
from grounded.labelling.review.images import draw_record
from grounded.labelling.review.index import IndexEntry, read_entries
from grounded.labelling.review.log import group_by_file, read_reviews
from grounded.labelling.sources import Source
from grounded.labelling.store import index_records, read_record_at
from grounded.labelling.store.reader import RunFollower
from grounded.utils.files import image_bytes, write_atomically

_SIDE = 320  # pixels of the longer side
_environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("static")),
    undefined=StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class _Figure:
    file: str
    jpeg: str  # base64
    captions: list[str]


def write_contact_sheet(
    folder: str | PathLike[str], source: Source | None, path: str | PathLike[str], limit: int = 200
) -> int:
    """Write a sheet of the images of a run whose lowest scores are lowest, with the corrections so far.

    Args:
        folder: of the run.
        source: of its images; overlays are on grey where one is missing.
        path: of the HTML file, which holds the small images itself and loads nothing.
        limit: most images on the sheet; one takes about 30 KB.

    Returns:
        number of images on the sheet.

    Raises:
        ResultError: the folder holds no run, or its reviews do not fit.
        OutputError: the file cannot be written.
    """
    if Path(path).is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    reviews, places = group_by_file(read_reviews(folder)), index_records(folder)
    worst = heapq.nsmallest(limit, read_entries(RunFollower(folder), set()), key=_lowest_score_first)
    records = (apply_reviews(read_record_at(*places[one.file]), reviews.get(one.file, ())) for one in worst)
    page = _environment.get_template("contact_sheet.html.jinja").render(
        title=Path(folder).resolve().name,
        total=len(places),
        agreement=str(run_agreement(folder)) if reviews else None,
        figures=[_figure(record, source) for record in records],
    )
    write_atomically(path, page.encode())
    return len(worst)


def _lowest_score_first(entry: IndexEntry) -> tuple[float, str]:
    score = entry.lowest_score(None)
    return inf if score is None else score, entry.file


def _figure(record: Record, source: Source | None) -> _Figure:
    data = image_bytes(draw_record(source, record, _SIDE), "JPEG", quality=80)
    lowest = dict(IndexEntry.from_dict(record.to_dict()).lowest_scores)
    captions = []
    for phrase, count in Counter(record.instances.labels.tolist()).items():
        score = "" if isnan(lowest[phrase]) else f", lowest {lowest[phrase]:.2f}"
        captions.append(f"{count} {shortened(phrase)}{score}")
    return _Figure(record.image.file, base64.b64encode(data).decode(), captions)
