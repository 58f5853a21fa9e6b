import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.data.image import SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import OutputError
from grounded.output.write import mask_name, output_folders, write_result
from tests.grounded.data.test_instances import MASKS, assert_same, build
from tests.grounded.failures import fill_disk


@pytest.mark.parametrize(
    ("images", "folders"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["a.png"], ["."], id="one"),
        pytest.param(["a.png", "b.jpg"], ["a", "b"], id="two"),
        pytest.param(["x/a.png", "y/a.png", "a.jpg"], ["a", "a-2", "a-3"], id="equal stems"),
        pytest.param(["a.png", "a-2.png", "b/a.png"], ["a", "a-2", "a-3"], id="number already taken"),
        pytest.param(["A.png", "a.png"], ["A", "a-2"], id="equal but for case"),
        pytest.param(["a.b.png", "a.c.png"], ["a.b", "a.c"], id="dots"),
        pytest.param([f"{'猫' * 84}.p", f"x/{'猫' * 84}.p"], ["猫" * 80, f"{'猫' * 80}-2"], id="long"),
    ],
)
def test_output_folders(images: list[str], folders: list[str]):
    assert output_folders([Path(image) for image in images], Path("out")) == [Path("out") / name for name in folders]


def test_output_folders_of_addresses():
    images = [
        "http://host/a%20b.png?x=1",
        "https://other/a%20b.png",
        "http://host/",
        "file:///x/c.png",
        "s3://d/..",
        "e",
    ]
    assert output_folders(images, Path("out")) == [
        Path("out") / n for n in ("a b", "a b-2", "image", "c", "image-2", "e")
    ]


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("a dog", "007-a-dog.png"),
        ("../etc/passwd", "007-etc-passwd.png"),
        ("Café: red?", "007-cafe-red.png"),
        ("猫", "007-phrase.png"),
        ("word " * 30, "007-word-word-word-word-word-word-word-word.png"),
    ],
)
def test_mask_name(phrase: str, name: str):
    assert mask_name(7, phrase) == name


@pytest.mark.parametrize("instances", [build(), Instances.empty(("a dog",), (30, 40))], ids=["three", "none"])
def test_result_is_complete(instances: Instances, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "image.png", exif=exif)  # upright: 40 wide, 30 high
    write_result(tmp_path / "out", open_image(tmp_path / "image.png"), instances, {"detector": "bundled:detector"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", "overlay.png", "result.json"]
    assert_same(Instances.from_json(tmp_path / "out" / "result.json"), instances)
    data = json.loads((tmp_path / "out" / "result.json").read_text())
    assert data["image"] == {"file": "image.png", "orientation": 6, "width": 40, "height": 30}
    assert data["models"] == {"detector": "bundled:detector"}
    assert Image.open(tmp_path / "out" / "overlay.png").size == (40, 30)
    names = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert names == ["000-pizza.png", "001-a-dog.png", "002-pizza.png"][: len(instances)]
    for name, mask in zip(names, MASKS, strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / name)), mask * np.uint8(255))


def test_a_second_run_leaves_no_masks_of_the_first(tmp_path: Path):
    source = open_image(np.zeros((30, 40, 3), np.uint8))
    write_result(tmp_path, source, build())
    (tmp_path / "masks" / "own.png").write_bytes(b"not ours")
    write_result(tmp_path, source, build()[1])
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["000-a-dog.png", "own.png"]


def test_notes_and_odd_names_are_stored(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"no\xfftext.png")  # no text, and a file name all the same
    Image.new("RGBA", (40, 30)).save(path)
    write_result(tmp_path / "out", open_image(path), Instances.empty(("a dog",), (30, 40)))
    image = json.loads((tmp_path / "out" / "result.json").read_text())["image"]
    assert (image["file"], image["notes"]) == ("no\ufffdtext.png", ["transparent pixels are shown on white"])


def test_the_address_is_stored(tmp_path: Path):
    source = SourceImage(Image.new("RGB", (40, 30)), address="https://me:secret@host/x/a%20b.png?size=2")
    write_result(tmp_path / "out", source, Instances.empty(("a dog",), (30, 40)))
    image = json.loads((tmp_path / "out" / "result.json").read_text())["image"]
    assert (image["file"], image["address"]) == ("a b.png", "https://host/x/a%20b.png?size=2")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file", ["001-a-dog.png", "overlay.png", "result.json"])
def test_a_full_disk_leaves_the_earlier_result(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = open_image(np.zeros((30, 40, 3), np.uint8))
    write_result(tmp_path / "old", source, build()[:1])
    before = contents(tmp_path)
    fill_disk(monkeypatch, file)
    for folder in ("old", "new/folder"):
        with pytest.raises(OutputError, match=rf"^cannot write {tmp_path}/{folder}/.*{file}: the disk is full$"):
            write_result(tmp_path / folder, source, build())
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_file_in_place_of_the_masks(tmp_path: Path):
    (tmp_path / "masks").write_bytes(b"")
    for instances in (build(), Instances.empty(("a dog",), (30, 40))):
        with pytest.raises(OutputError, match="cannot write"):
            write_result(tmp_path, open_image(np.zeros((30, 40, 3), np.uint8)), instances)
    assert list(contents(tmp_path)) == ["masks"]
