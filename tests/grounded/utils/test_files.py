import io
import os
from pathlib import Path

import pytest
from PIL import Image

from grounded.errors import BusyError, OutputError
from grounded.utils.files import (
    atomic_files,
    atomic_folder,
    check_folder,
    cut_name,
    image_bytes,
    json_bytes,
    locked,
    open_atomically,
    open_new,
    output_errors,
    write_atomically,
    write_new,
)
from tests.grounded.failures import fill_disk, unprivileged


def test_writes_and_replaces(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("letter", ["x", "é", "猫", "🐶"])
def test_the_longest_names(letter: str, tmp_path: Path):
    """File systems count bytes, up to 255 of them."""
    name = letter * (255 // len(letter.encode()))
    write_atomically(tmp_path / name, b"data")
    with atomic_folder(tmp_path / "below" / name) as folder:
        write_new(folder / "one", b"1")
    assert sorted(tree(tmp_path)) == sorted([name, "below", f"below/{name}", f"below/{name}/one"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("short", "short"), ("猫" * 4, "猫" * 3), ("x猫猫猫", "x猫猫"), ("\udcff" * 12, "")],
    ids=ascii,
)
def test_cut_name(name: str, expected: str):
    assert cut_name(name, 9) == expected


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


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_together_in_the_order_of_writing(tmp_path: Path):
    with atomic_files() as write:
        write(tmp_path / "a" / "one", b"1")
        write(tmp_path / "two", b"2")
        assert not (tmp_path / "two").exists()
    assert tree(tmp_path) == ["a", "a/one", "two"]
    assert (tmp_path / "two").read_bytes() == b"2"


def test_none_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.chdir(tmp_path)
    with atomic_files():
        assert tree(tmp_path) == ["old"]
    assert tree(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_all_the_old_files(error: type[BaseException], tmp_path: Path):
    (tmp_path / "one").write_bytes(b"old")
    with pytest.raises(error), atomic_files() as write:
        write(tmp_path / "one", b"new")
        write(tmp_path / "new" / "folder" / "two", b"new")
        raise error
    assert tree(tmp_path) == ["one"]
    assert (tmp_path / "one").read_bytes() == b"old"


def test_bit_by_bit(tmp_path: Path):
    path = tmp_path / "new" / "file.txt"
    for text in (b"one", b"two"):
        with open_atomically(path) as file:
            file.write(text[:1])
            file.flush()
            assert not path.exists() or path.read_bytes() == b"one"
            file.write(text[1:])
        assert path.read_bytes() == text
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_of_a_file_that_fails_nothing_is_left(error: type[BaseException], tmp_path: Path):
    with pytest.raises(error), open_atomically(tmp_path / "new" / "file.txt") as file:
        file.write(b"half")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["at the end", "half way"])
def test_bit_by_bit_onto_a_full_disk(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new" / "file.txt"
    fill_disk(monkeypatch, "file.txt")
    full = pytest.raises(OutputError, match=r"cannot write .*file.txt: the disk is full")
    with full, open_atomically(path) as file, output_errors(path):
        file.write(bytes(size))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill_disk(monkeypatch, "two")
    (tmp_path / "one").write_bytes(b"old")
    message = rf"^cannot write {tmp_path}/new/two: the disk is full$"
    with pytest.raises(OutputError, match=message), atomic_files() as write:
        write(tmp_path / "one", b"new")
        write(tmp_path / "new" / "two", b"new")
    assert tree(tmp_path) == ["one"]
    assert (tmp_path / "one").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("/dev/null", "Not a directory"),
        ("/dev/null/below", "Not a directory"),
        ("/proc/none", "No such file"),
        ("n" * 300, "File name too long"),
    ],
)
def test_folders_that_take_no_files(folder: str, reason: str, tmp_path: Path):
    with pytest.raises(OutputError, match=f"^cannot write .*: {reason}"):
        check_folder(tmp_path / folder)
    with pytest.raises(OutputError, match=f"^cannot write .*/file: {reason}"):
        write_atomically(tmp_path / folder / "file", b"")
    assert tree(tmp_path) == []


def test_no_permission(tmp_path: Path):
    tmp_path.chmod(0o555)
    with unprivileged(), pytest.raises(OutputError, match="Permission denied"):
        check_folder(tmp_path)
    tmp_path.chmod(0o755)


def test_a_checked_folder_is_left_as_it_was(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    for name in ("new/folder", "full"):
        check_folder(tmp_path / name)
    assert tree(tmp_path) == ["full", "full/file"]


def test_json_bytes():
    assert json_bytes({"猫": [1, None]}) == '{\n "猫": [\n  1,\n  null\n ]\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes([float("nan")])


def test_image_bytes():
    image = Image.new("RGB", (40, 30), "red")
    assert Image.open(io.BytesIO(image_bytes(image))).format == "PNG"
    assert len(image_bytes(image, "JPEG", quality=95)) > len(image_bytes(image, "JPEG", quality=10))


def test_a_folder_takes_its_place_when_it_is_complete(tmp_path: Path):
    with atomic_folder(tmp_path / "new" / "folder") as folder:
        write_new(folder / "a" / "one", b"1")
        assert not (tmp_path / "new" / "folder").exists()
    assert tree(tmp_path) == ["new", "new/folder", "new/folder/a", "new/folder/a/one"]


def test_a_folder_with_the_mark_is_replaced(tmp_path: Path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mark").write_bytes(b"")
    (tmp_path / "link").symlink_to("old")
    with atomic_folder(tmp_path / "link", mark="mark") as folder:
        write_new(folder / "one", b"1")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "old") == ["one"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_of_a_folder_that_fails_nothing_is_left(error: type[BaseException], tmp_path: Path):
    with pytest.raises(error), atomic_folder(tmp_path / "new" / "folder") as folder:
        write_new(folder / "one", b"1")
        raise error
    assert tree(tmp_path) == []


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exchange_that_stops_half_way_leaves_the_old_folder(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mark").write_bytes(b"")
    replace, calls = os.replace, []

    def stopped_at_the_second(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise error
        replace(source, target)

    with pytest.raises((error, OutputError)), atomic_folder(tmp_path / "old", mark="mark") as folder:
        write_new(folder / "one", b"1")
        monkeypatch.setattr(os, "replace", stopped_at_the_second)
    assert len(calls) == 3 and tree(tmp_path) == ["old", "old/mark"]


def test_a_folder_with_something_else_is_refused(tmp_path: Path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_bytes(b"")
    for mark, message in ((None, "must be new or empty, got"), ("mark", "must be new, empty, or have mark in it, got")):
        with pytest.raises(OutputError, match=message), atomic_folder(tmp_path / "old", mark):
            pytest.fail("the body must not run")
    with pytest.raises(OutputError, match="must be a folder, got the file"), atomic_folder(tmp_path / "old" / "file"):
        pytest.fail("the body must not run")
    assert tree(tmp_path) == ["old", "old/file"]


def test_new_files_are_never_written_over_old_ones(tmp_path: Path):
    with open_new(tmp_path / "new" / "file") as write:
        write(b"one")
        write(b", two")
    assert (tmp_path / "new" / "file").read_bytes() == b"one, two"
    with pytest.raises(OutputError, match=r"cannot write .*file: File exists"):
        write_new(tmp_path / "new" / "file", b"")
    assert (tmp_path / "new" / "file").read_bytes() == b"one, two"


def test_a_folder_is_for_one_process(tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    refused = pytest.raises(BusyError, match=f"another process works in {folder}")
    with locked(folder, "works in"), refused, locked(folder, "works in"):
        pytest.fail("the body must not run")
    with locked(folder, "works in"):
        pass
