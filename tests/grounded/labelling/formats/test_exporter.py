"""Exports as a whole: folders that are complete or absent, names, copies of images, the report of losses."""

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ConfigError, ImageError, OutputError, ResultError
from grounded.labelling.formats import EXPORT_FORMATS, NOTE
from grounded.labelling.formats.exporter import ExportNames, copy_image, copy_suffix, export, within_folder
from grounded.labelling.records import ImageInfo, Record
from tests.grounded.labelling.formats import made

REQUIRED = {"parquet": "pyarrow"}
OWN = ("coco", "yolo-seg", "yolo-box", "voc", "png", "panoptic", "csv", "parquet")
formats = pytest.mark.parametrize("name", EXPORT_FORMATS)


def export_all(name: str, folder: Path, **options: object) -> object:
    if name in REQUIRED:
        pytest.importorskip(REQUIRED[name])
    return export(name, made.ALL, made.CLASSES, folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@formats
def test_a_format_is_complete_and_alike_every_time(name: str, tmp_path: Path):
    first = export_all(name, tmp_path / "deep" / "a", images=made.images)
    second = export_all(name, tmp_path / "b", images=made.images)
    assert first == second and (first.images, first.instances) == (len(made.ALL), 14)
    assert contents(tmp_path / "deep" / "a") == contents(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]


@formats
def test_no_records(name: str, tmp_path: Path):
    if name in REQUIRED:
        pytest.importorskip(REQUIRED[name])
    summary = export(name, [], made.CLASSES, tmp_path / "out")
    assert (summary.images, summary.instances, summary.lines()) == (0, 0, [])
    assert "Nothing is lost." in (tmp_path / "out" / NOTE).read_text(encoding="utf-8")


@formats
def test_records_are_taken_one_by_one(name: str, tmp_path: Path):
    if name in REQUIRED:
        pytest.importorskip(REQUIRED[name])
    alive: Counter[str] = Counter()

    class Counted(Record):
        def __del__(self) -> None:
            alive["now"] -= 1

    def stream() -> Iterator[Record]:
        for i in range(12):
            one = Counted(**{**vars(made.RECORDS["one"]), "image": ImageInfo(file=f"{i}.jpg", width=40, height=30)})
            alive["now"] += 1
            alive["most"] = max(alive["most"], alive["now"])
            yield one
            del one

    export(name, stream(), made.CLASSES, tmp_path / "out")
    assert alive["now"] == 0 and alive["most"] <= 3


def test_what_is_lost_is_stated(tmp_path: Path):
    summary = export("yolo-seg", made.ALL, made.CLASSES, tmp_path / "out")
    lines = summary.lines()
    assert lines == sorted(lines) and "holes joined to the outline by bridges of no width: 2" in lines
    assert any("EXIF orientation" in line and line.endswith(": 1") for line in lines)
    note = (tmp_path / "out" / NOTE).read_text(encoding="utf-8")
    assert "11 images, 14 instances as yolo-seg" in note
    assert all(f"- {line}" in note for line in lines)
    with_copies = export("yolo-seg", made.ALL, made.CLASSES, tmp_path / "copies", made.images)
    assert not any("EXIF" in line for line in with_copies.lines())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("bmp", [], []), ConfigError, "format must be one of coco, .*, got 'bmp'"),
        (("coco", [], ["a", "b", "a"]), ConfigError, "classes must differ from one another, got 'a' twice"),
        (("coco", made.ALL, []), ResultError, "one.jpg: 'a dog' is not among the 0 classes"),
    ],
    ids=["no such format", "a class twice", "a label that is no class"],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        export(*arguments, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ResultError("damaged")], ids=["interrupt", "damaged"])
def test_nothing_is_left_of_an_export_that_stops(name: str, error: BaseException, tmp_path: Path):
    def broken() -> Iterator[Record]:
        yield from made.ALL
        raise error

    if name in REQUIRED:
        pytest.importorskip(REQUIRED[name])
    with pytest.raises(type(error)):
        export(name, broken(), made.CLASSES, tmp_path / "deep" / "out")
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What the system does when a disk is full, it does also to files that grow beyond a limit."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [50, 600])
@pytest.mark.parametrize("name", OWN)
def test_a_full_disk(name: str, size: int, tmp_path: Path):
    with pytest.raises(OutputError, match=r"^cannot write "), files_of_at_most(size):
        export_all(name, tmp_path / "out", images=made.images)
    assert not list(tmp_path.iterdir())


class TestFolders:
    def test_an_empty_folder_is_taken(self, tmp_path: Path):
        (tmp_path / "out").mkdir()
        export("csv", [], [], tmp_path / "out")
        assert (tmp_path / "out" / "images.csv").is_file()

    def test_the_mode_is_that_of_other_folders(self, tmp_path: Path):
        export("csv", [], [], tmp_path / "out")
        (tmp_path / "other").mkdir()
        assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_only_an_earlier_export_is_replaced_and_only_when_asked(self, tmp_path: Path):
        out = tmp_path / "out"
        export("csv", made.ALL, made.CLASSES, out)
        before = contents(out)
        with pytest.raises(OutputError, match="must be new or empty, got"):
            export("coco", made.ALL, made.CLASSES, out)
        assert contents(out) == before
        export("coco", made.ALL, made.CLASSES, out, replace=True)
        assert set(contents(out)) == {"instances.json", NOTE}
        (out / NOTE).unlink()
        with pytest.raises(OutputError, match=f"must be new, empty, or have {NOTE} in it, got"):
            export("csv", made.ALL, made.CLASSES, out, replace=True)
        assert set(contents(out)) == {"instances.json"}

    def test_an_earlier_export_stays_until_the_new_one_is_there(self, tmp_path: Path):
        def broken() -> Iterator[Record]:
            assert (tmp_path / "out" / "images.csv").is_file()
            yield made.RECORDS["one"]
            raise ResultError("damaged")

        export("csv", made.ALL, made.CLASSES, tmp_path / "out")
        before = contents(tmp_path / "out")
        with pytest.raises(ResultError, match="damaged"):
            export("coco", broken(), made.CLASSES, tmp_path / "out", replace=True)
        assert contents(tmp_path / "out") == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_file_is_no_folder(self, tmp_path: Path):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(OutputError, match="the output must be a folder, got the file"):
            export("csv", [], [], tmp_path / "out")
        with pytest.raises(OutputError, match="cannot write"):
            export("csv", [], [], tmp_path / "out" / "below")

    def test_a_link_stays_a_link(self, tmp_path: Path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
        export("csv", [], [], tmp_path / "out")
        assert (tmp_path / "out").is_symlink() and (tmp_path / "elsewhere" / "images.csv").is_file()


class TestNames:
    @pytest.mark.parametrize(
        ("file", "expected"),
        [
            ("a.jpg", "a.jpg"),
            ("a/b.jpg", "a/b.jpg"),
            ("/data/a.jpg", "data/a.jpg"),
            ("../../etc/passwd", "_/_/etc/passwd"),
            ("./a//b/./c.png", "a/b/c.png"),
            ("shard.tar/x#2.jpg", "shard.tar/x#2.jpg"),
            ("..", "_"),
            ("", "_"),
            ("/", "_"),
            ("a\0b", "a_b"),
            ("..a/b..", "..a/b.."),
        ],
    )
    def test_names_stay_within_the_folder(self, file: str, expected: str):
        assert within_folder(file) == expected

    def test_stems_differ(self):
        lost: Counter[str] = Counter()
        names = ExportNames(lost)
        files = ["a.jpg", "a.png", "b/a.jpg", "a.tar.gz", "a", "a-2.jpg", ".hidden", "a.jpg"]
        stems = [names.stem(ImageInfo(file=file, width=1, height=1)) for file in files]
        assert stems == ["a", "a-2", "b/a", "a.tar", "a-3", "a-2-2", ".hidden", "a-4"]
        assert lost.total() == 4

    def test_names_of_copies_differ(self):
        names = ExportNames(Counter())
        files = ["a/b.jpg", "a/b.png", "/a/b.jpg", "a//b.jpg"]
        expected = ["a/b.jpg", "a/b.png", "a/b-2.jpg", "a/b-3.jpg"]
        assert [names.file(ImageInfo(file=file, width=1, height=1)) for file in files] == expected


class TestCopies:
    @staticmethod
    def stored(kind: str, mode: str, orientation: int) -> bytes:
        """An image whose upper left corner is light as it is stored."""
        values = np.zeros((16, 24), np.uint8)
        values[:4, :8] = 255
        image, exif, buffer = Image.fromarray(values).convert(mode), Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        image.save(buffer, format=kind, exif=exif)
        return buffer.getvalue()

    def save(self, folder: Path, data: bytes, file: str, orientation: int, sha256: str | None = None) -> Counter[str]:
        image, lost = ImageInfo(file=file, width=16, height=24, orientation=orientation, sha256=sha256), Counter()
        copy_image(folder / f"copy{copy_suffix(image)}", image, lambda name: data, lost)
        return lost

    def test_bytes_stay_the_same(self, tmp_path: Path):
        data = self.stored("JPEG", "RGB", 1)
        assert not self.save(tmp_path, data, "a.jpg", 1, hashlib.sha256(data).hexdigest())
        assert (tmp_path / "copy.jpg").read_bytes() == data

    @pytest.mark.parametrize(
        ("kind", "file", "mode", "name"),
        [
            ("JPEG", "a.JPG", "RGB", "copy.JPG"),
            ("JPEG", "a.jpeg", "L", "copy.jpeg"),
            ("JPEG", "a.jpg", "CMYK", "copy.jpg"),
            ("PNG", "a.png", "RGBA", "copy.png"),
            ("PNG", "misnamed.jpg", "RGBA", "copy.jpg"),
            ("WEBP", "a.webp", "RGB", "copy.webp"),
            ("TIFF", "a.tif", "RGB", "copy.tif"),
            ("JPEG", "a.heic", "RGB", "copy.heic.png"),
        ],
    )
    def test_turned_images_come_upright(self, tmp_path: Path, kind: str, file: str, mode: str, name: str):
        from grounded.data.image import open_image

        stored = tmp_path / "stored"
        stored.write_bytes(self.stored(kind, mode, 6))
        self.save(tmp_path, stored.read_bytes(), file, 6)
        expected, copy = open_image(stored), open_image(tmp_path / name)
        assert (copy.orientation, copy.size) == (1, (24, 16))
        difference = np.abs(np.asarray(copy.pixels, int) - np.asarray(expected.pixels, int))
        assert difference.max() <= 40 and difference.mean() < 2  # JPEG is not exact
        assert np.asarray(copy.pixels)[2, 13].min() > 200  # turned clockwise, the light corner is on the right

    def test_an_image_that_has_changed(self, tmp_path: Path):
        lost = self.save(tmp_path, self.stored("JPEG", "RGB", 1), "a.jpg", 1, "0" * 64)
        assert lost == {"images that have changed since they were labelled": 1}

    def test_an_image_that_cannot_be_turned(self, tmp_path: Path):
        with pytest.raises(ImageError, match=r"cannot turn a\.jpg upright: cannot identify"):
            self.save(tmp_path, b"no image", "a.jpg", 6)

    def test_an_image_that_is_gone(self, tmp_path: Path):
        def gone(file: str) -> bytes:
            raise ImageError("no such image")

        with pytest.raises(ImageError, match=r"cannot copy one\.jpg: no such image"):
            export("coco", made.ALL, made.CLASSES, tmp_path / "out", gone)
        assert not list(tmp_path.iterdir())


def test_records_without_boxes_of_a_detector_are_exported_alike(tmp_path: Path):
    """Boxes in exports are of the masks, whatever the detector said."""
    one = made.RECORDS["one"]
    moved = replace(one, instances=replace(one.instances, boxes=np.full((1, 4), np.nan, np.float32)))
    for name in ("coco", "yolo-box", "voc"):
        first, second = tmp_path / f"{name} 1", tmp_path / f"{name} 2"
        export(name, [one], made.CLASSES, first)
        export(name, [moved], made.CLASSES, second)
        assert contents(first) == contents(second)
