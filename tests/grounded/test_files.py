from pathlib import Path

import pytest

from grounded.files import write_atomically


def test_writes_and_replaces(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_mode_is_that_of_a_plain_file(tmp_path: Path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "taken").mkdir()  # a folder cannot be replaced by a file
    (tmp_path / "taken" / "inside").write_bytes(b"old")
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken" / "inside").read_bytes() == b"old"
