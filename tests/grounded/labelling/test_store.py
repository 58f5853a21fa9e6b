import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grounded.errors import BusyError, ConfigError, OutputError, ResultError
from grounded.labelling.records import Record
from grounded.labelling.store import (
    Failure,
    Run,
    damaged_lines,
    fingerprint,
    index_records,
    open_run,
    read_done_files,
    read_failures,
    read_record_at,
    read_records,
)
from tests.fuzzing import FUZZ_COUNTS, fuzz
from tests.grounded.failures import unprivileged
from tests.grounded.labelling.formats import made, runs
from tests.grounded.labelling.standin import PHRASES, record

RUN = Run(
    source="/data/images",
    phrases=PHRASES,
    vocabulary={"classes": ["bright", "dark"]},
    configuration={"detector": {"box_threshold": 0.3, "kind": "x"}, "device": "cpu"},
    models={"detector": "none"},
    config="0123",
)


def fill(folder: Path, *files: str, run: Run = RUN, worker: int = 0) -> Path:
    with open_run(folder, run) as writer:
        for file in files:
            assert writer.append(record(file), worker)
    return folder


def names(folder: Path) -> list[str]:
    return [found.image.file for found in read_records(folder)]


def test_a_run_reads_back(tmp_path: Path):
    fill(tmp_path / "out")
    assert Run.read(tmp_path / "out") == RUN
    assert Run.from_dict({**RUN.to_dict(), "from a later version": 1}) == RUN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run"),
        ("{", "not JSON"),
        ("[]", "not a run"),
        ('{"source": "x"}', "'phrases'"),
        ('{"source": "x", "phrases": 3}', "not a run"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultError, match=message):
        Run.read(tmp_path)


def test_fingerprints_tell_values_apart_but_not_their_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 16


def test_records_are_read_shard_by_shard_and_once(tmp_path: Path):
    fill(tmp_path, "a.png", "b.png")
    fill(tmp_path, "c.png", worker=12)
    (tmp_path / "records" / "00099.jsonl").write_bytes(record("a.png").to_line() + record("d.png").to_line())
    assert names(tmp_path) == ["a.png", "b.png", "c.png", "d.png"]
    assert read_done_files(tmp_path) == {"a.png", "b.png", "c.png", "d.png"}
    index = index_records(tmp_path)
    assert index["c.png"] == (tmp_path / "records" / "00012.jsonl", 0)
    assert {file: read_record_at(*place).image.file for file, place in index.items()} == {file: file for file in index}


def test_an_empty_run(tmp_path: Path):
    fill(tmp_path)
    assert (names(tmp_path), read_done_files(tmp_path), read_failures(tmp_path), index_records(tmp_path)) == (
        [],
        set(),
        {},
        {},
    )


def test_an_image_has_one_record(tmp_path: Path):
    fill(tmp_path, "a.png")
    with open_run(tmp_path, RUN) as writer:
        assert writer.done == {"a.png"}
        assert not writer.append(record("a.png"))
        assert not writer.fail(Failure(file="a.png", reason="late"))
    assert names(tmp_path) == ["a.png"]
    assert read_failures(tmp_path) == {}


@pytest.mark.parametrize("name", ["a.png", 'q"uo\\te.png', "犬.png", "\\xff.png"])
def test_names_are_read_without_the_rest(tmp_path: Path, name: str):
    fill(tmp_path, name)
    assert read_done_files(tmp_path) == {name}


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b"\n", b'{"image": []}\n'])
def test_a_line_in_the_midst_that_is_no_record_is_an_error(tmp_path: Path, line: bytes):
    fill(tmp_path, "a.png")
    shard = tmp_path / "records" / "00000.jsonl"
    shard.write_bytes(line + shard.read_bytes())
    for read in (read_done_files, names, index_records):
        with pytest.raises(ResultError, match=r"00000\.jsonl"):
            read(tmp_path)


def test_reading_what_is_not_there(tmp_path: Path):
    with pytest.raises(ResultError, match="no such folder"):
        read_done_files(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="cannot read"):
        read_record_at(tmp_path / "nowhere.jsonl", 0)
    fill(tmp_path, "a.png")
    with pytest.raises(ResultError, match="3 bytes"):
        read_record_at(tmp_path / "records" / "00000.jsonl", 3)


def test_a_line_cut_off_anywhere_is_not_read_and_then_removed(tmp_path: Path):
    fill(tmp_path, "a.png", "b.png")
    shard = tmp_path / "records" / "00000.jsonl"
    whole = shard.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        shard.write_bytes(whole[:end])
        assert read_done_files(tmp_path) == {"a.png"}
        with open_run(tmp_path, RUN) as writer:
            assert writer.done == {"a.png"}
            assert shard.stat().st_size == first
            if end % 50 == 0:  # waits for the disk
                writer.append(record("b.png"))
                assert shard.read_bytes() == whole


@pytest.mark.parametrize("tail", [0, 10, (1 << 16) - 1, 1 << 16, 200_000])
def test_a_long_cut_off_line_is_removed(tmp_path: Path, tail: int):
    fill(tmp_path, "a.png")
    for path in (tmp_path / "records" / "00000.jsonl", tmp_path / "records" / "00001.jsonl"):
        with path.open("ab") as file:
            file.write(b"x" * tail)
    with open_run(tmp_path, RUN) as writer:
        assert writer.done == {"a.png"}
    assert (tmp_path / "records" / "00001.jsonl").stat().st_size == 0
    assert names(tmp_path) == ["a.png"]


def test_failures(tmp_path: Path):
    with open_run(tmp_path, RUN) as writer:
        writer.fail(Failure(file="a.png", reason="no\timage", kind="image"))
        writer.fail(Failure(file="b.png", reason="out of memory"))
    assert read_failures(tmp_path)["a.png"] == Failure(file="a.png", reason="no\timage", kind="image", attempts=1)
    with (tmp_path / "failures.jsonl").open("ab") as file:
        file.write(b'{"file": "c.pn')
    with open_run(tmp_path, RUN) as writer:
        assert set(writer.failed) == {"a.png", "b.png"}
        writer.fail(Failure(file="a.png", reason="again"))
        writer.append(record("b.png"))
        assert read_failures(tmp_path)["a.png"].attempts == 2  # also while the run goes on
        assert set(read_failures(tmp_path)) == {"a.png"}
    lines = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file": "a.png", "reason": "again", "kind": "model", "attempts": 2}
    ]


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"file": "a", "reason": "b", "attempts": "x"}'])
def test_what_is_no_failure_is_refused(line: str):
    with pytest.raises(ResultError, match="not a failure"):
        Failure.from_line(line)


CHANGES = {
    "setting": (
        replace(RUN, config="4567", configuration={"detector": {"box_threshold": 0.4, "kind": "x"}, "device": "cpu"}),
        r"differs in detector\.box_threshold;",
    ),
    "phrases": (replace(RUN, config="4567", phrases=("x",)), "differs in phrases;"),
    "vocabulary": (replace(RUN, config="4567", vocabulary={}), "differs in vocabulary;"),
    "tiles": (replace(RUN, config="4567", tiles={"size": 512}), "differs in tiles;"),
    "unknown": (replace(RUN, config="4567"), "differs in the configuration;"),
    "source": (replace(RUN, source="/data/others"), "is a run on /data/images, got /data/others|on /data/images"),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_another_question_is_refused_and_restart_begins_again(tmp_path: Path, changed: str):
    run, message = CHANGES[changed]
    fill(tmp_path, "a.png")
    (tmp_path / "reviews.jsonl").write_bytes(b"{}\n")
    (tmp_path / "source_ids.json").write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match=message) as raised:
        open_run(tmp_path, run)
    assert "--restart" in str(raised.value)
    assert Run.read(tmp_path) == RUN
    with open_run(tmp_path, run, restart=True) as writer:
        assert writer.done == set()
        writer.append(record("b.png"))
    assert names(tmp_path) == ["b.png"]
    assert Run.read(tmp_path) == run
    aside = tmp_path / "replaced" / "001"
    assert names(aside) == ["a.png"] and Run.read(aside) == RUN
    for name in ("reviews.jsonl", "source_ids.json"):
        assert (aside / name).exists() and not (tmp_path / name).exists()
    open_run(tmp_path, run, restart=True).close()
    assert names(tmp_path / "replaced" / "002") == ["b.png"]


def test_what_does_not_change_answers_may_change(tmp_path: Path):
    fill(tmp_path, "a.png")
    later = replace(RUN, version="99", phrase_scores=False)
    fill(tmp_path, "b.png", run=later)
    assert Run.read(tmp_path) == later
    assert names(tmp_path) == ["a.png", "b.png"]


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path):
    with open_run(tmp_path, RUN) as writer:
        writer.require_weights({"detector": "1", "clip": "2"})
        writer.require_weights({"detector": "3", "clip": "2"})  # nothing is labelled yet
        writer.append(record("a.png"))
        with pytest.raises(ConfigError, match="other weights of detector under the same name; use --restart"):
            writer.require_weights({"detector": "1", "clip": "2"})
    with open_run(tmp_path, replace(RUN, version="99")) as writer:
        with pytest.raises(ConfigError, match="other weights of detector and clip"):
            writer.require_weights({"detector": "1", "clip": "1"})
        writer.require_weights({"detector": "3", "segmenter": "4"})  # what either does not know is not compared
    assert Run.read(tmp_path).weights == {"detector": "3", "clip": "2", "segmenter": "4"}
    with open_run(tmp_path, RUN, restart=True) as writer:
        writer.require_weights({"detector": "1"})
    assert Run.read(tmp_path).weights == {"detector": "1"}


def test_a_run_states_the_commits_of_its_models(tmp_path: Path):
    run = replace(RUN, models={"detector": "owner/name", "clip": None})
    with open_run(tmp_path, run) as writer:
        writer.require_weights({"detector": "1"}, {"detector": "owner/name@abc", "clip": None})
        assert writer.run.models == {"detector": "owner/name@abc", "clip": None}
    assert Run.read(tmp_path).models == {"detector": "owner/name@abc", "clip": None}


def test_a_place_that_cannot_be_stored_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"must be UTF-8, .* got dir\\udcff"):
        open_run(tmp_path, replace(RUN, source="dir\udcff"))
    open_run(tmp_path, RUN).close()


def test_restart_of_nothing(tmp_path: Path):
    with open_run(tmp_path / "new" / "folder", RUN, restart=True) as writer:
        assert writer.done == set()
    assert not (tmp_path / "new" / "folder" / "replaced").exists()


def test_records_without_their_run_are_not_mixed_with_others(tmp_path: Path):
    fill(tmp_path, "a.png")
    (tmp_path / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"holds records.*--restart"):
        open_run(tmp_path, RUN)
    with open_run(tmp_path, RUN, restart=True) as writer:
        assert writer.done == set()


def test_two_runs_at_once_are_refused(tmp_path: Path):
    with open_run(tmp_path, RUN) as writer:
        for restart in (False, True):
            with pytest.raises(BusyError, match=f"another run is writing into {tmp_path}: process {os.getpid()}"):
                open_run(tmp_path, RUN, restart=restart)
        writer.append(record("a.png"))
    assert names(tmp_path) == ["a.png"]
    open_run(tmp_path, RUN).close()


def test_a_refused_run_lets_go_of_the_folder(tmp_path: Path):
    fill(tmp_path)
    with pytest.raises(ConfigError, match="differs"):
        open_run(tmp_path, replace(RUN, config="4567"))
    open_run(tmp_path, RUN).close()


def test_lines_reach_the_system_at_once_and_the_disk_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    fsync = os.fsync
    with open_run(tmp_path, RUN, sync_seconds=3600.0) as writer:
        monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), fsync(handle)))
        writer.append(record("a.png"))
        synced.clear()  # that of the folder, which has a new file
        writer.append(record("b.png"))
        assert names(tmp_path) == ["a.png", "b.png"]
        assert synced == []
    assert len(synced) == 1
    with open_run(tmp_path, RUN, sync_seconds=0.0) as writer:
        writer.append(record("c.png"))
        synced.clear()
        writer.append(record("d.png"))
        assert len(synced) == 1


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    tmp_path.chmod(0o555)
    with unprivileged(), pytest.raises(OutputError, match="cannot write"):
        open_run(tmp_path / "out", RUN)
    tmp_path.chmod(0o755)


def test_without_phrase_scores(tmp_path: Path):
    fill(tmp_path, "a.png", run=replace(RUN, phrase_scores=False))
    assert b"phrase_scores" not in (tmp_path / "records" / "00000.jsonl").read_bytes()


def damage(folder: Path, file: str, damage: Callable[[bytes], bytes]) -> None:
    """Change the line of one record in its shard."""
    (shard,) = (folder / "records").glob("*.jsonl")
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(damage(line) if f'"{file}"'.encode() in line else line for line in lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda line: line[:30] + b"\n", "not a line of JSON", id="cut off"),
        pytest.param(lambda line: line.replace(b'"counts":"', b'"counts":"1'), "the mask of instance 0 can", id="mask"),
        pytest.param(lambda line: line.replace(b'"size":[', b'"size":[1'), "the mask of instance 0 cannot", id="size"),
        pytest.param(lambda line: b"[" * 100_000 + b"\n", "not a line of JSON", id="nested"),
    ],
)
def test_damaged_records_are_named_and_left_out(change: Callable[[bytes], bytes], message: str, tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["one"], made.RECORDS["holes"]])
    damage(folder, "one.jpg", change)
    damaged: list[str] = []
    assert [one.image.file for one in read_records(folder, damaged)] == ["holes.jpg"]
    (line,) = damaged
    assert message in line and "00000.jsonl, 0 bytes from its beginning" in line
    assert "one.jpg" in line or b"counts" not in change(b'"counts":"')
    assert set(index_records(folder, [])) >= {"holes.jpg"}
    with pytest.raises(ResultError, match=message):
        list(read_records(folder))
    assert damaged_lines([]) == []
    assert damaged_lines(damaged) == [f"left out: {line}", "1 records or reviews cannot be read"]


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_lines(count: int, tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["overlapping"]])
    (shard,) = (folder / "records").glob("*.jsonl")

    def read(content: bytes) -> None:
        shard.write_bytes(content.rstrip(b"\n") + b"\n")
        damaged: list[str] = []
        for one in read_records(folder, damaged):
            assert one.instances.masks.shape == (len(one.instances), *one.instances.image_size)
            assert Record.from_line(one.to_line()).image == one.image
        index_records(folder, damaged)
        list(read_records(folder))

    fuzz([shard.read_bytes()], read, count)
