import io
import json
import os
import pickle
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from grounded.errors import ConfigError, ImageError
from grounded.labelling.sources import (
    FolderSource,
    ListedFiles,
    SequenceSource,
    TarSource,
    image_suffixes,
    open_source,
)
from grounded.labelling.sources.opening import expand_braces
from tests.data import PICNIC
from tests.http_server import image_server

FILES = ("B.JPG", "a.png", "sub/_.eps", "sub/c.webp", "sub/deep/d.tiff", "sub.x/e.bmp")


def png(color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, and what is to be left out; each file holds its own name."""
    others = (
        "notes.txt",
        "sub/.hidden.png",
        ".cache/f.png",
        "movie.mpg",
        "a.png.part",
        "out/records/g.png",
    )
    for name in (*FILES, *others, "out/run.json"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "images"


def write_tar(path: Path, *names: str, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(png(number))
            tar.addfile(member, io.BytesIO(png(number)))
    return path


def names(spec: str | Path, root: Path | None = None) -> list[str]:
    """The names of all items, after checking what is promised of every source."""
    source = open_source(spec, root)
    items = list(source.items())
    found = [item.file for item in items]
    assert len(set(found)) == len(found)
    assert source.count() in (len(found), None)
    again = open_source(source.spec)
    assert again.spec == source.spec and (os.path.isabs(source.spec) or "://" in source.spec)
    assert [item.file for item in again.items()] == found
    for item in pickle.loads(pickle.dumps(items)):
        assert item.read() == source.get(item.file) == again.get(item.file)
    return found


def test_suffixes():
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".ppm"} <= image_suffixes()
    assert not {".eps", ".mpg", ".h5", ".txt", ".pdf"} & image_suffixes()


def test_a_folder(folder: Path):
    assert names(folder) == ["B.JPG", "a.png", "sub/_.eps", "sub/c.webp", "sub/deep/d.tiff", "sub.x/e.bmp"]
    assert open_source(folder).get("sub/deep/d.tiff") == b"sub/deep/d.tiff"


def test_a_folder_is_named_absolutely(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    assert open_source("images").spec == str(folder)
    assert open_source("images/../images/sub/*.webp").spec == f"{folder}/sub/*.webp"
    monkeypatch.setenv("HOME", str(folder.parent))
    assert names("~/images/sub") == ["_.eps", "c.webp", "deep/d.tiff"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "sub/../../secret.png", "notes.txt", "nowhere.png"])
def test_a_folder_gives_nothing_else(folder: Path, name: str):
    (folder.parent / "secret.png").write_bytes(b"secret")
    with pytest.raises(ImageError):
        open_source(folder).get(name)


def test_links(folder: Path):
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "linked.png").symlink_to(folder / "a.png")
    (folder / "elsewhere").symlink_to(folder / "sub.x")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    found = [item.file for item in open_source(folder).items()]
    assert sorted(set(found) - set(FILES)) == ["elsewhere/e.bmp", "gone.png", "linked.png"]
    with pytest.raises(ImageError, match="no such image"):
        open_source(folder).get("gone.png")


def test_what_is_no_file_is_not_waited_for(folder: Path):
    os.mkfifo(folder / "pipe.png")
    item = next(item for item in open_source(folder).items() if item.file == "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        item.read()


def test_names_that_are_no_text(folder: Path):
    with open(os.path.join(os.fsencode(folder), b"\xff\xe9.png"), "wb") as file:
        file.write(b"bytes")
    (folder / "\\xe9.png").write_bytes(b"text")
    assert {"\\xff\\xe9.png", "\\xe9.png"} <= set(names(folder))
    assert open_source(folder).get("\\xff\\xe9.png") == b"bytes"
    assert open_source(folder).get("\\xe9.png") == b"text"
    (folder / "list.txt").write_bytes(b"\xff\xe9.png\n")
    assert names(folder / "list.txt") == ["\\xff\\xe9.png"]


def test_one_image(folder: Path):
    assert names(folder / "B.JPG") == ["B.JPG"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["B.JPG", "a.png"]),
        ("**/*.webp", ["sub/c.webp"]),
        ("sub*/*", ["sub/_.eps", "sub/c.webp", "sub.x/e.bmp"]),
        ("sub/**", ["_.eps", "c.webp", "deep/d.tiff"]),
        ("{a,B}.*", ["a.png", "B.JPG"]),
        ("{a,a,?}.png", ["a.png"]),
        ("[ab].png", ["a.png"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]):
    assert sorted(names(f"{folder}/{pattern}")) == sorted(expected)


def test_what_exists_is_no_pattern(folder: Path):
    (folder / "[a].png").write_bytes(b"brackets")
    assert names(folder / "[a].png") == ["[a].png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("{a,b}c{d,e}", ["acd", "ace", "bcd", "bce"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{2..2}", ["2"]),
        ("{3..1}", []),
        ("{a", ["{a"]),
    ],
)
def test_braces(pattern: str, expected: list[str]):
    assert expand_braces(pattern) == expected


def test_a_list(folder: Path):
    outside = folder.parent / "other.png"
    outside.write_bytes(b"outside")
    lines = ["\ufeffa.png", "", f"{folder}/sub/c.webp", "./a.png", "sub/../B.JPG  ", "../other.png", "gone.png"]
    (folder / "list.txt").write_text("\r\n".join(lines), encoding="utf-8")
    source = open_source(folder / "list.txt")
    found = [item.file for item in source.items()]
    assert found == ["a.png", "sub/c.webp", "B.JPG", str(outside)[1:], "gone.png"]
    assert source.count() == 5
    assert source.get(str(outside)[1:]) == b"outside"
    for name in ("sub/deep/d.tiff", "../other.png", "gone.png"):
        with pytest.raises(ImageError):
            source.get(name)


def test_images_that_cannot_be_read_are_not_passed_over(tmp_path: Path):
    found = ["a.HEIC", "b.jxl", "c.dng", "d.CR3", "e.svg", "f.avif", "g.exr"]
    for name in [*found, "notes.txt", "movie.mov", "g.json", ".hidden.heic"]:
        (tmp_path / name).write_bytes(b"")
    assert names(tmp_path) == found
    assert sorted(names(f"{tmp_path}/*")) == found
    write_tar(tmp_path / "0.tar", "a.heic", "b.txt")
    assert names(tmp_path / "0.tar") == ["0.tar/a.heic"]


def test_what_the_program_wrote_is_no_image(tmp_path: Path):
    written = {
        "run": ("run.json", "records/1.jsonl", "sheet.png"),
        "export": ("images/a.png", "masks/a.png"),
        "result": ("result.json", "overlay.png", "masks/000-a-dog.png", "own.png"),
        "download": ("annotations.json", "overlays/a.png", "masks/a/000-a-dog.png"),
        "evaluation": ("evaluation.json", "evaluation.md", "worst.png", "confusion.png", "own.png"),
        "others": ("export.txt", "masks/a.png", "overlay.png"),
    }
    for folder, files in written.items():
        for file in files:
            path = tmp_path / "images" / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "images" / "export" / "export.txt").write_text("2 images, 3 instances as coco, by grounded 0.1.\n")
    kept = ["a.png", "evaluation/own.png", "others/masks/a.png", "others/overlay.png", "result/own.png"]
    lines = [
        "download: a download of the app",
        "evaluation: an evaluation",
        "export: an export",
        "result: a result",
        "run: a labelling run",
    ]
    for spec in (tmp_path / "images", f"{tmp_path}/images/**/*.png"):
        assert sorted(names(spec)) == kept
        source = open_source(spec)
        assert isinstance(source, (FolderSource, ListedFiles)) and sorted(source.left_out()) == lines
    assert names(tmp_path / "images" / "export") == ["images/a.png", "masks/a.png"]  # named itself
    assert names(tmp_path / "images" / "result") == ["own.png"]


def test_addresses(folder: Path):
    with image_server() as server:
        host, other = f"{server.url}/image", f"127.0.0.1:{server.server_port}"
        lines = [f"{host}/x/a%20b.png?size=1", f"{host}/c?id=1", f"{host}/c?id=2", (folder / "a.png").as_uri(), "B.JPG"]
        (folder / "list.txt").write_text("\n".join([*lines, lines[0]]))
        source = open_source(folder / "list.txt")
        items = list(source.items())
        assert [items[0].file, *[item.file for item in items[3:]]] == ["127.0.0.1/image/x/a b.png", "a.png", "B.JPG"]
        assert all(re.fullmatch(r"127.0.0.1/image/c-[0-9a-f]{8}", item.file) for item in items[1:3])
        assert [item.address for item in items] == [*lines[:3], None, None]
        assert items[0].read() == source.get(items[0].file) == PICNIC.read_bytes()
        assert pickle.loads(pickle.dumps(items))[1].read() == PICNIC.read_bytes()
        assert names(f"{host}/a.png") == ["127.0.0.1/image/a.png"] and other not in items[0].file
        assert names((folder / "a.png").as_uri()) == ["a.png"]
        (folder / "coco.json").write_text(
            json.dumps({"images": [{"id": 7, "file_name": f"{host}/a.png"}], "annotations": [], "categories": []})
        )
        assert names(folder / "coco.json") == ["127.0.0.1/image/a.png"]
        listed = open_source(folder / "coco.json")
        assert isinstance(listed, ListedFiles) and listed.source_ids is not None
        assert listed.source_ids.images == {"127.0.0.1/image/a.png": 7}
        with pytest.raises(ImageError, match="404"):
            next(open_source(f"{server.url}/status/404").items()).read()
        assert not [path for path, _ in server.requests if "c?id=2" in path]  # nothing is fetched ahead


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s3://bucket/a.png", "must begin with http://, https://, file:// or data:, got s3://bucket/a.png"),
        ("http://host/0.tar", "TAR files must lie on a disk, got the address http://host/0.tar"),
    ],
)
def test_addresses_that_are_no_images(line: str, message: str, tmp_path: Path):
    (tmp_path / "list.txt").write_text(line)
    for spec in (tmp_path / "list.txt", line):
        with pytest.raises(ConfigError, match=message):
            open_source(spec)


def test_a_list_with_a_root(folder: Path, tmp_path: Path):
    (tmp_path / "list").write_text("c.webp\ndeep/d.tiff\n")
    assert names(tmp_path / "list", folder / "sub") == ["c.webp", "deep/d.tiff"]
    assert names(f"{tmp_path}/list::{folder}/sub") == ["c.webp", "deep/d.tiff"]


def test_two_listed_files_of_one_name_are_an_error(tmp_path: Path):
    other = tmp_path / "other"
    inside = tmp_path / "lists" / str(other)[1:]
    for place in (other, inside):
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(b"")
    (tmp_path / "lists" / "list.txt").write_text(f"{other}/a.png\n{inside}/a.png\n")
    with pytest.raises(ConfigError, match="two images would be named"):
        open_source(tmp_path / "lists" / "list.txt")


def test_a_coco_file(folder: Path, tmp_path: Path):
    coco = {"images": [{"id": 1, "file_name": "c.webp"}, {"id": 2, "file_name": "deep/d.tiff"}], "annotations": []}
    (folder / "sub" / "instances.json").write_text(json.dumps(coco))
    assert names(folder / "sub" / "instances.json") == ["c.webp", "deep/d.tiff"]
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    assert names(tmp_path / "instances.json", folder / "sub") == ["c.webp", "deep/d.tiff"]
    with pytest.raises(ConfigError, match=r"do not exist, such as .*c\.webp: use --root"):
        open_source(tmp_path / "instances.json")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar(tmp_path: Path, mode: str):
    members = ("./a.png", "a.json", "sub/b.PNG", "sub/._b.png", "a.png", "/../c.png")
    suffix = mode.removeprefix("w").replace(":", ".")
    path = write_tar(tmp_path / f"0.tar{suffix}", *members, mode=mode)
    prefix = path.name
    assert names(path) == [f"{prefix}/a.png", f"{prefix}/sub/b.PNG", f"{prefix}/a#2.png", f"{prefix}/c.png"]
    assert open_source(path).get(f"{prefix}/a#2.png") == png(4)


def test_shards(tmp_path: Path):
    for shard in ("train/000.tar", "train/001.tar", "val/000.tar"):
        write_tar(tmp_path / shard, "0.png", "1.png")
    expected = [f"{shard}/{name}" for shard in ("000.tar", "001.tar") for name in ("0.png", "1.png")]
    assert names(f"{tmp_path}/train/{{000..001}}.tar") == expected
    assert names(f"{tmp_path}/train/*.tar") == expected
    assert names(f"{tmp_path}/*/000.tar")[::2] == ["train/000.tar/0.png", "val/000.tar/0.png"]
    (tmp_path / "shards.txt").write_text("val/000.tar\ntrain/001.tar\n")
    assert names(tmp_path / "shards.txt")[::2] == ["val/000.tar/0.png", "train/001.tar/0.png"]


def test_more_shards_than_are_remembered(tmp_path: Path):
    for number in range(20):
        write_tar(tmp_path / f"{number:02d}.tar", "a.png")
    source = open_source(f"{tmp_path}/*.tar")
    for _ in range(2):
        assert all(source.get(f"{number:02d}.tar/a.png") == png() for number in range(20))
    assert isinstance(source, TarSource) and len(source._indexes) < 20


def test_a_tar_without_the_image(tmp_path: Path):
    source = open_source(write_tar(tmp_path / "0.tar", "a.png"))
    for name in ("a.png", "0.tar", "0.tar/b.png", "1.tar/a.png"):
        with pytest.raises(ImageError, match="has no image"):
            source.get(name)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_damaged_tar_costs_only_what_follows_the_damage(tmp_path: Path, mode: str):
    suffix = ".gz" if mode == "w:gz" else ""
    whole = write_tar(tmp_path / f"0.tar{suffix}", *(f"{number}.png" for number in range(20)), mode=mode)
    write_tar(tmp_path / f"1.tar{suffix}", "a.png", mode=mode)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2 - 300])
    items = list(open_source(f"{tmp_path}/*.tar{suffix}").items())
    assert items[-1].file == f"1.tar{suffix}/a.png"
    damaged = [item for item in items if item.file == whole.name]
    with pytest.raises(ImageError, match="damaged"):
        damaged[0].read()
    assert (mode != "w" or len(items) > 5) and len(items) < 20


def test_a_listed_tar_that_is_missing_costs_only_itself(tmp_path: Path):
    write_tar(tmp_path / "1.tar", "a.png")
    (tmp_path / "shards.txt").write_text("0.tar\n1.tar\n")
    source = open_source(tmp_path / "shards.txt")
    first, second = source.items()
    assert (first.file, second.file) == ("0.tar", "1.tar/a.png")
    with pytest.raises(ImageError, match="missing or damaged"):
        first.read()


def test_an_uncompressed_tar_is_not_read_for_its_names(tmp_path: Path):
    path = write_tar(tmp_path / "0.tar", "a.png", "b.png")
    items = list(open_source(path).items())
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        items[0].read()


BAD = {
    "missing": ("nowhere", "no such file or folder"),
    "empty folder": ("empty", "empty holds no image$"),
    "folder of TARs": ("shards", r"write .*/shards/\*\.tar"),
    "pattern": ("*.bmp", "no image and no TAR file matches"),
    "empty list": ("empty.txt", "holds no image"),
    "binary": ("binary.dat", "neither an image or a TAR"),
    "list of nothing": ("gone.txt", "lists images that do not exist"),
    "no COCO": ("list.json", "not a COCO file"),
    "no JSON": ("broken.json", "broken.json is not JSON"),
    "empty TAR": ("empty.tar", "holds no image"),
    "root of a missing list": ("nowhere.txt::empty", "no such file"),
    "missing root": ("empty.txt::nowhere", "no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_source_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "gone.txt").write_text("gone.png\n")
    (tmp_path / "binary.dat").write_bytes(b"\x00\x01")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    write_tar(tmp_path / "empty.tar", "notes.txt")
    write_tar(tmp_path / "shards" / "0.tar", "a.png")
    spec, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        open_source(spec)


def test_videos_are_clips_where_they_are_asked_for(tmp_path: Path):
    for name in ("a.png", "b.MP4", "below/c.mkv", "below/d.txt", "e.ts", ".f.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [item.file for item in open_source(tmp_path).items()] == ["a.png"]
    source = open_source(tmp_path, videos=True)
    assert [(item.file, item.clip is not None) for item in source.items()] == [
        ("a.png", False),
        ("b.MP4", True),
        ("below/c.mkv", True),
    ]
    assert source.count() == 3
    for spec in (tmp_path / "b.MP4", tmp_path / "**" / "*.[Mm]*", "http://localhost/a/b.mp4"):
        assert all(item.clip is not None for item in open_source(spec, videos=True).items()), spec
    with pytest.raises(ConfigError, match="no image, no video and no TAR file matches"):
        open_source(tmp_path / "*.bmp", videos=True)


def test_folders_of_images_as_clips(tmp_path: Path):
    frames = [Image.new("RGB", (8, 6), (0, 0, number)) for number in range(3)]
    for folder in ("", "one", "one/two"):
        (tmp_path / "in" / folder).mkdir(exist_ok=True, parents=True)
        for number in (10, 9):
            frames[0].save(tmp_path / "in" / folder / f"{number}.png")
    frames[0].save(tmp_path / "in" / "one" / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "in" / "one" / "still.gif")
    found = {item.file: item.clip for item in SequenceSource.of(open_source(tmp_path / "in", videos=True)).items()}
    names = {file: [name for name, _ in clip.images] for file, clip in found.items() if clip is not None}
    assert names == {
        "in": ["9.png", "10.png"],
        "one/moves.gif": [],
        "one": ["one/9.png", "one/10.png", "one/still.gif"],
        "one/two": ["one/two/9.png", "one/two/10.png"],
    }
    listed = SequenceSource.of(open_source(tmp_path / "in" / "one" / "*" / "*.png", videos=True))
    assert [item.file for item in listed.items()] == ["two"]
    (tmp_path / "in" / "in").mkdir()
    frames[0].save(tmp_path / "in" / "in" / "0.png")
    with pytest.raises(ConfigError, match="two clips would be named in"):
        list(SequenceSource.of(open_source(tmp_path / "in")).items())
