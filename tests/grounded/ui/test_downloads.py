import base64
import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gradio.utils import get_upload_folder
from PIL import Image
from pycocotools.coco import COCO

from grounded.data.image import SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import ImageError, OutputError, PromptError
from grounded.output.draw import draw
from grounded.output.polygons import Polygon, polygons_to_mask
from grounded.ui import downloads
from grounded.ui.actions import Actions
from grounded.ui.downloads import DOWNLOADS, open_zip, safe_stem, write_download
from grounded.ui.state import AppState
from tests.data import PICNIC, disk
from tests.grounded.data.test_formats import build
from tests.grounded.failures import fill_disk

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
MASKS = np.stack(
    [
        disk(30, 40, 12, 15, 9) & ~disk(30, 40, 12, 15, 4),  # with a hole
        disk(30, 40, 30, 9, 4) | disk(30, 40, 30, 24, 3),  # two parts
        np.zeros((30, 40), bool),
    ]
)
FOUND = build(MASKS, [0, 1, 0], [0.9, 0.8, float("nan")], ("a dog", "Käse: alt"))
SOURCE = open_image(PIXELS)
CASES = {"found": FOUND, "none": Instances.empty(("a dog",), (30, 40)), "no phrase": Instances.empty((), (30, 40))}
cases = pytest.mark.parametrize("instances", CASES.values(), ids=CASES.keys())

LABELME_KEYS = ["label", "points", "group_id", "description", "shape_type", "flags", "mask"]

Download = Callable[[SourceImage, Instances, Path, str], Path]
WRITERS: dict[str, Download] = {
    "scene-overlay.png": downloads.write_overlay,
    "scene-cutouts.zip": downloads.write_cutouts,
    "scene-masks.zip": downloads.write_masks,
    "scene-coco.json": downloads.write_coco,
    "scene.json": downloads.write_labelme,
}
each = pytest.mark.parametrize(("file", "download"), WRITERS.items(), ids=WRITERS.keys())


def unzipped(path: Path) -> dict[str, Image.Image]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        return {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}


@each
@pytest.mark.parametrize("name", ["scene", "scene.JPG"])
def test_named_after_the_image_and_nothing_else_is_left(file: str, download: Download, name: str, tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # over an older one
        assert download(SOURCE, FOUND, folder, name) == folder / file
    assert os.listdir(folder) == [file]
    (tmp_path / "plain").write_bytes(b"")
    assert (folder / file).stat().st_mode == (tmp_path / "plain").stat().st_mode


@each
def test_of_another_image(file: str, download: Download, tmp_path: Path):
    with pytest.raises(ImageError, match=r"must be of \(height, width\) \(30, 40\), got \(29, 40\)"):
        download(open_image(PIXELS[1:]), FOUND, tmp_path, "scene")
    assert not os.listdir(tmp_path)


@each
def test_a_folder_that_takes_no_files(file: str, download: Download, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=f"^cannot write {tmp_path}/file/{file}: "):
        download(SOURCE, FOUND, tmp_path / "file", "scene")


@cases
def test_overlay_is_what_is_drawn(instances: Instances, tmp_path: Path):
    path = downloads.write_overlay(SOURCE, instances, tmp_path, "scene")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(draw(SOURCE, instances)))


@cases
def test_masks(instances: Instances, tmp_path: Path):
    images = unzipped(downloads.write_masks(SOURCE, instances, tmp_path, "scene"))
    assert list(images) == ["000-a-dog.png", "001-kase-alt.png", "002-a-dog.png"][: len(instances)]
    for image, mask in zip(images.values(), MASKS, strict=False):
        np.testing.assert_array_equal(np.asarray(image), mask * np.uint8(255))


@cases
def test_cutouts(instances: Instances, tmp_path: Path):
    images = unzipped(downloads.write_cutouts(SOURCE, instances, tmp_path, "scene"))
    assert list(images) == ["000-a-dog.png", "001-kase-alt.png", "002-a-dog.png"][: len(instances)]
    for image, mask in zip(images.values(), MASKS, strict=False):
        assert image.mode == "RGBA"
        pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels[pixels[..., 3] > 0][:, :3], PIXELS[mask])


@cases
def test_coco_is_read_by_pycocotools(instances: Instances, tmp_path: Path):
    path = downloads.write_coco(SOURCE, instances, tmp_path, "scene")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["scene.png"]
    annotations = coco.loadAnns(coco.getAnnIds())
    for annotation, mask in zip(annotations, instances.masks, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)


@cases
def test_labelme_gives_back_the_masks(instances: Instances, tmp_path: Path):
    path = downloads.write_labelme(SOURCE, instances, tmp_path, "scene")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert [(key, type(value)) for key, value in data.items()] == [
        ("version", str),
        ("flags", dict),
        ("shapes", list),
        ("imagePath", str),
        ("imageData", str),
        ("imageHeight", int),
        ("imageWidth", int),
    ]
    assert (data["imageHeight"], data["imageWidth"], data["imagePath"]) == (30, 40, "scene.png")
    image = Image.open(io.BytesIO(base64.b64decode(data["imageData"])))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
    for shape in data["shapes"]:
        assert list(shape) == [*LABELME_KEYS, "instance"]
        assert (shape["shape_type"], shape["flags"], shape["mask"]) == ("polygon", {}, None)
    for row, (label, mask) in enumerate(zip(instances.labels, instances.masks, strict=True)):
        shapes = [shape for shape in data["shapes"] if shape["group_id"] == row]
        assert {shape["label"] for shape in shapes} == ({str(label)} if mask.any() else set())
        polygons = [Polygon(np.array(shape["points"])) for shape in shapes]
        np.testing.assert_array_equal(polygons_to_mask(polygons, (30, 40)), mask)


def test_labelme_groups_and_descriptions(tmp_path: Path):
    data = json.loads(downloads.write_labelme(SOURCE, FOUND, tmp_path, "scene").read_text(encoding="utf-8"))
    told = [(shape["label"], shape["group_id"], shape["description"]) for shape in data["shapes"]]
    assert told == [("a dog", 0, "score 0.900"), *[("Käse: alt", 1, "score 0.800")] * 2]
    unknown = build(MASKS[:1], [0], [float("nan")], ("a dog",))
    data = json.loads(downloads.write_labelme(SOURCE, unknown, tmp_path, "scene").read_text())
    assert [shape["description"] for shape in data["shapes"]] == [""]


def test_labelme_without_the_image(tmp_path: Path):
    path = downloads.write_labelme(SOURCE, FOUND, tmp_path, "scene", embedded=False)
    assert json.loads(path.read_text(encoding="utf-8"))["imageData"] is None


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        pytest.param("scene", None, "scene.png", id="no file"),
        pytest.param("scene", "a1b2.jpeg", "scene.jpeg", id="the ending of the file"),
        pytest.param("scene.JPG", "a1b2.jpeg", "scene.JPG", id="an ending of its own"),
        pytest.param("scene.v2", "a1b2.jpeg", "scene.v2.jpeg", id="no ending of images"),
        pytest.param("", "a1b2.jpeg", "image.jpeg", id="empty"),
        pytest.param("../a/Käse 猫?", None, "Käse 猫?.png", id="folders"),
        pytest.param("a\ud800\udcffb", None, "a??b.png", id="no text"),
    ],
)
def test_name_of_the_image_in_annotations(name: str, file: str | None, expected: str, tmp_path: Path):
    source = SourceImage(SOURCE.pixels, Path("folder") / file if file else None)
    coco, labelme = (
        json.loads(download(source, FOUND, tmp_path, name).read_text(encoding="utf-8"))
        for download in (downloads.write_coco, downloads.write_labelme)
    )
    assert coco["images"][0]["file_name"] == expected
    assert labelme["imagePath"] == expected


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        pytest.param("picnic", "picnic", id="plain"),
        pytest.param("picnic.PNG", "picnic", id="ending"),
        pytest.param("scene.v2", "scene.v2", id="an ending of nothing"),
        pytest.param("Mein Bild (3)", "Mein Bild (3)", id="spaces"),
        pytest.param("Ka\u0308se 猫 हिन्दी", "Käse 猫 हिन्दी", id="letters of any script"),
        pytest.param("../../etc/passwd", "etc-passwd", id="folders"),
        pytest.param("..\\C:\\a.jpg", "C--a", id="folders of Windows"),
        pytest.param('a<b>c:d"e|f?g*h#i%j&k', "a-b-c-d-e-f-g-h-i-j-k", id="forbidden"),
        pytest.param("a\x00b\nc\u202ed\ud800e", "a-b-c-d-e", id="control characters"),
        pytest.param(" .hidden. ", "hidden", id="dots and spaces at the ends"),
        pytest.param("", "image", id="empty"),
        pytest.param("...", "image", id="nothing harmless"),
        pytest.param("NUL", "image-NUL", id="device"),
        pytest.param("com1.tar.png", "image-com1.tar", id="device with an ending"),
        pytest.param("console", "console", id="no device"),
        pytest.param("x" * 5000, "x" * 80, id="long"),
        pytest.param("猫" * 5000, "猫" * 26, id="long in bytes"),
    ],
)
def test_file_stem(name: str, stem: str, tmp_path: Path):
    assert safe_stem(name) == stem
    assert safe_stem(stem) == stem
    for download in WRITERS.values():
        assert download(SOURCE, FOUND[:1], tmp_path, name).parent == tmp_path
    assert len(os.listdir(tmp_path)) == len(WRITERS)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_zip_is_complete_or_absent(error: type[BaseException], tmp_path: Path):
    path = tmp_path / "a.zip"
    for before in ([], ["a.zip"]):
        with pytest.raises(error), open_zip(path) as write:
            write("one.png", b"1")
            assert not before or path.read_bytes() == b"old"
            raise error
        assert os.listdir(tmp_path) == before
        path.write_bytes(b"old")
    with open_zip(path) as write:
        write("one.png", b"1" * 999)
        write("two.json", b"2" * 999)
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: (info.file_size, info.compress_size < 99) for info in archive.infolist()}
    assert sizes == {"one.png": (999, False), "two.json": (999, True)}
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = downloads.write_overlay(SOURCE, FOUND, tmp_path, "scene").read_bytes()
    fill_disk(monkeypatch, "scene-overlay.png")
    with pytest.raises(OutputError, match=r"scene-overlay\.png: the disk is full$"):
        downloads.write_overlay(SOURCE, FOUND[:0], tmp_path, "scene")
    assert (tmp_path / "scene-overlay.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["scene-overlay.png"]


@pytest.fixture(scope="module")
def found(actions: Actions) -> AppState:
    return actions.segment(actions.open(PICNIC), "a dog. pizza")


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return Path(get_upload_folder())


def phrases(path: str, kind: str) -> set[str]:
    """What a file is about."""
    if kind in ("cutouts", "masks"):
        with zipfile.ZipFile(path) as archive:
            return {Path(name).stem.split("-", 1)[1] for name in archive.namelist()}
    if kind == "coco":
        data = json.loads(Path(path).read_text())
        names = {category["id"]: category["name"] for category in data["categories"]}
        return {names[one["category_id"]].replace(" ", "-") for one in data["annotations"]}
    if kind == "labelme":
        return {shape["label"].replace(" ", "-") for shape in json.loads(Path(path).read_text())["shapes"]}
    with Image.open(path) as image:
        assert image.size == (640, 480)
    return set()


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_a_file_holds_what_is_shown(found: AppState, uploads: Path, kind: str):
    path = write_download(found, kind)
    assert uploads in Path(path).parents and Path(path).name.startswith("picnic")
    assert phrases(path, kind) == (set() if kind == "overlay" else {"a-dog", "pizza"})
    hidden = replace(found, hidden=frozenset({"pizza"}))
    assert phrases(write_download(hidden, kind), kind) == (set() if kind == "overlay" else {"a-dog"})
    assert write_download(found, kind) != path  # two users may have images of one name


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_nothing_to_download(found: AppState, kind: str):
    for empty in (AppState(), replace(found, hidden=frozenset({"a dog", "pizza"}))):
        with pytest.raises(PromptError, match="nothing to download"):
            write_download(empty, kind)
