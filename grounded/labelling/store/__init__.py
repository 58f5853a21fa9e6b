"""A run's folder: what was asked (`run.json`), what was found (`records/`) and what failed (`failures.jsonl`).

    run.json              what was asked, of which pictures, by which models; written before the first record
    records/NNNNN.jsonl   one line per finished picture, one file per worker
    failures.jsonl        one line per failed picture; a later line about the same picture holds, and so does a record
    reviews.jsonl         corrections by a person
    replaced/NNN/         what a restart put aside
    .lock                 held by the run that writes

Lines are only ever appended. A run that is killed leaves at most one cut-off line per file: readers skip it, and the
next `Writer` removes it.
"""

from grounded.labelling.store.reading import failures, files_done, record_at, record_index, records
from grounded.labelling.store.run import Failure, Run, fingerprint
from grounded.labelling.store.writer import Writer, open_run

__all__ = [
    "Failure",
    "Run",
    "Writer",
    "failures",
    "files_done",
    "fingerprint",
    "open_run",
    "record_at",
    "record_index",
    "records",
]
