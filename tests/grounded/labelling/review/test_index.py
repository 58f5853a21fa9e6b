from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.records import Record
from grounded.labelling.review.index import SORTS, IndexEntry, RecordIndex, UnknownImageError, read_entries
from grounded.labelling.store.reader import RunFollower
from tests.grounded.labelling.reviewed import record, write_run


def scored(file: str, *scores: float) -> Record:
    made = record(file, count=len(scores))
    return replace(made, instances=replace(made.instances, scores=np.array(scores, np.float32)))


@pytest.fixture
def index(tmp_path: Path) -> RecordIndex:
    found = [scored("a", 0.5, 0.25), scored("b", 0.75), scored("c"), scored("d", 0.5, float("nan"), 0.125)]
    index = RecordIndex(write_run(tmp_path, *found, scored("e", float("nan"))))
    index.wait()
    return index


def names(found: tuple[IndexEntry, ...]) -> str:
    return "".join(entry.file for entry in found)


@pytest.mark.parametrize(
    ("sort", "phrase", "expected"),
    [
        pytest.param("lowest", None, "dabce", id="unknown scores last"),
        pytest.param("highest", None, "badce", id="highest first, unknown scores last"),
        pytest.param("most", None, "dabec", id="most"),
        pytest.param("fewest", None, "cbead", id="fewest"),
        pytest.param("name", None, "abcde", id="name"),
        pytest.param("lowest", "dog", "ad", id="of a phrase its own score"),
        pytest.param("lowest", "cat", "dabe", id="of another phrase"),
        pytest.param("name", "hen", "", id="no such phrase"),
    ],
)
def test_orders(sort: str, phrase: str | None, expected: str, index: RecordIndex):
    page = index.page(sort, phrase)
    assert names(page.entries) == expected and page.total == len(expected)
    # In parts it is the same list.
    parts, after = "", None
    while part := names(index.page(sort, phrase, after=after, limit=2).entries):
        parts, after = parts + part, part[-1]
    assert parts == expected


def test_filters(index: RecordIndex):
    page = index.page("name", include=lambda file: file in "ace", limit=1)
    assert names(page.entries) == "a" and page.total == 3
    # What the part follows need not be in the list any more.
    assert names(index.page("name", include=lambda file: file in "ace", after="b").entries) == "ce"
    assert names(index.page("name", "dog", extra_files=["c"]).entries) == "acd"


def test_phrases_by_frequency(index: RecordIndex):
    assert index.phrases() == {"cat": 4, "dog": 2}
    assert index.entries_read == len(index) == 5 and index.error is None


def test_records_are_read_when_they_are_asked_for(index: RecordIndex):
    assert len(index.record("d").instances) == 3
    with pytest.raises(UnknownImageError, match="no image 'z'"):
        index.record("z")


def test_records_that_are_written_meanwhile(tmp_path: Path):
    index = RecordIndex(write_run(tmp_path, scored("a", 0.5)))
    index.wait()
    shard = next((tmp_path / "records").iterdir())
    line = scored("b", 0.25).to_line()
    with shard.open("ab") as file:
        file.write(line[:-5])
    index.refresh()
    assert len(index) == 1  # the line is not done
    with shard.open("ab") as file:
        file.write(line[-5:] + scored("c", 0.75).to_line() + line)
    index.refresh()
    index.wait()
    assert names(index.page("lowest").entries) == "bac" and len(index.record("b").instances) == 1
    other = tmp_path / "other"  # another run, with more records
    other.write_bytes(b"".join(scored(file, 0.5).to_line() for file in "defghi"))
    other.replace(shard)
    index.refresh()
    index.wait()
    assert names(index.page("name").entries) == "defghi" and len(index) == 6
    shard.unlink()
    index.refresh()
    assert index.page("name").total == len(index) == 0


def test_no_entry_is_there_before_its_place(tmp_path: Path):
    write_run(tmp_path, scored("a", 0.5))
    shard = next((tmp_path / "records").iterdir())
    names_of, contents = RunFollower(tmp_path), RunFollower(tmp_path)
    assert len(list(names_of.lines())) == 1
    with shard.open("ab") as file:
        file.write(scored("b", 0.25).to_line())
    assert [entry.file for entry in read_entries(contents, set(), names_of)] == ["a"]
    assert len(list(names_of.lines())) == 1
    assert [entry.file for entry in read_entries(contents, set(), names_of)] == ["b"]


def test_an_empty_run(tmp_path: Path):
    index = RecordIndex(write_run(tmp_path))
    index.wait()
    assert [index.page(sort).total for sort in SORTS] == [0] * 5


def test_no_folder(tmp_path: Path):
    with pytest.raises(ResultError, match="no such folder"):
        RecordIndex(tmp_path / "none")


def test_a_damaged_record_is_told_and_costs_only_what_follows(tmp_path: Path):
    folder = write_run(tmp_path, scored("a", 0.5))
    shard = next((folder / "records").iterdir())
    shard.write_bytes(shard.read_bytes() + b'{"image":{"file":"b"},"phrases":3}\n')
    index = RecordIndex(folder)
    index.wait()
    assert names(index.page("name").entries) == "a"
    assert index.error is not None and "bytes from its beginning" in index.error


@pytest.mark.long
def test_a_hundred_thousand_records(tmp_path: Path):
    folder = write_run(tmp_path)
    line = scored("NAME", 0.5, 0.25).to_line()
    with (folder / "records" / "00000.jsonl").open("wb") as file:
        file.writelines(line.replace(b"NAME", b"%06d" % i) for i in range(100_000))
    index = RecordIndex(folder)
    assert len(index) == 100_000
    assert len(index.record("099999").instances) == 2  # before all have been read
    index.wait()
    last = index.page("lowest", after="099990", limit=60)
    assert len(last.entries) == 9 and last.total == 100_000
