"""The folder of a labelling run: its description, records, failures and reviews.

    run.json              images, phrases, settings and models; written before the first record
    records/NNNNN.jsonl   one line per finished image, one file per worker
    failures.jsonl        one line per failed image; a later line about the same image counts, and so does a record
    clips.jsonl           one line per clip that was tracked to its end
    reviews.jsonl         corrections by a person
    source_ids.json       ids of images and categories, where these come from a COCO file
    replaced/NNN/         files of a run that was restarted
    .lock, .lock-owner    held by the run that writes, and which process that is

Lines are only ever appended. A run that is killed leaves at most one cut-off line per file: readers skip it, and the
next `Writer` removes it.
"""

from grounded.labelling.store.reader import (
    FramePlace,
    damaged_lines,
    index_frames,
    index_records,
    read_done_files,
    read_failures,
    read_record_at,
    read_records,
)
from grounded.labelling.store.run import Failure, FinishedClip, Run, fingerprint
from grounded.labelling.store.writer import Writer, open_run

__all__ = [
    "Failure",
    "FinishedClip",
    "FramePlace",
    "Run",
    "Writer",
    "damaged_lines",
    "fingerprint",
    "index_frames",
    "index_records",
    "open_run",
    "read_done_files",
    "read_failures",
    "read_record_at",
    "read_records",
]
