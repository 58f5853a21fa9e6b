import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats import panoptic
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.panoptic import PanopticExporter, PanopticReader
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats import made
from tests.grounded.labelling.formats.reading import fuzz_file, masks, read


def test_segments_come_back_to_the_bit(tmp_path: Path):
    lost = made.write(PanopticExporter, made.ALL, made.CLASSES, tmp_path)
    data = json.loads((tmp_path / "panoptic.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert list(names.values()) == list(made.CLASSES) and list(names) == [1, 2, 3]
    assert all(category["isthing"] == 1 for category in data["categories"])
    assert [image["file_name"] for image in data["images"]] == [record.image.file for record in made.ALL]
    assert [image["id"] for image in data["images"]] == [one["image_id"] for one in data["annotations"]]
    for record, annotation in zip(made.ALL, data["annotations"], strict=True):
        with Image.open(tmp_path / "panoptic" / annotation["file_name"]) as opened:
            ids = np.asarray(opened).astype(int) @ [1, 256, 65536]
        expected = made.shown(record)
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(segments)
        for number, (mask, label) in enumerate(zip(made.visible(expected), expected.labels, strict=True), start=1):
            np.testing.assert_array_equal(ids == number, mask)
            assert (number in segments) == mask.any()
            if mask.any():
                assert names[segments[number]["category_id"]] == label
                assert segments[number]["area"] == mask.sum()
    assert +lost == {
        "instances left out, as their masks are empty": 1,
        "instances partly under better ones": 1,
        "instances wholly under better ones": 1,
        "images renamed, as another one's name differs by the extension alone": 1,
        "scores": 11,
    }


def test_copies(tmp_path: Path):
    made.write(PanopticExporter, made.ALL, made.CLASSES, tmp_path, made.images)
    for image in json.loads((tmp_path / "panoptic.json").read_text(encoding="utf-8"))["images"]:
        with Image.open(tmp_path / "images" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])


def test_no_records(tmp_path: Path):
    assert not +made.write(PanopticExporter, [], [], tmp_path)
    data = json.loads((tmp_path / "panoptic.json").read_text(encoding="utf-8"))
    assert data["images"] == data["annotations"] == data["categories"] == []


def exported(folder: Path) -> tuple[Path, dict]:
    made.write(PanopticExporter, [made.RECORDS["overlapping"]], made.CLASSES, folder)
    path = folder / "panoptic.json"
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_odd_segments_are_left_out_alone(tmp_path: Path):
    path, data = exported(tmp_path)
    first, second, third = data["annotations"][0]["segments_info"]
    second["category_id"], first["iscrowd"], third["id"] = 99, 1, 77
    path.write_text(json.dumps(data))
    (image,), notes = read(path)
    assert len(masks(image)) == 1 and image.left_out == 3
    why = ("overlapping.jpg segment 2: its category is not listed", "overlapping.jpg segment 77: it has no pixel")
    assert notes == [
        f"{panoptic.CROWDS}: 1 (overlapping.jpg)",
        f"{DAMAGED}: 2 ({', '.join(why)})",
        f"{panoptic.NO_SEGMENT}: 1 (overlapping.jpg segment 3)",
    ]


def test_png_files_elsewhere(tmp_path: Path):
    path, data = exported(tmp_path)
    path = path.rename(tmp_path / "panoptic_val.json")
    (tmp_path / "panoptic").rename(tmp_path / "panoptic_val")
    (image,), _ = read(path)
    assert len(masks(image)) == 3
    data["annotations"][0]["file_name"] = "../../etc/passwd"
    path.write_text(json.dumps(data))
    (image,), _ = read(path)
    assert "cannot be read" in image.error or "no PNG file" in image.error


@pytest.mark.parametrize("content", ["[]", "{}", '{"annotations": [{"image_id": 1, "segmentation": []}]}'])
def test_what_is_refused(content: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ResultError, match="is not of COCO panoptic"):
        PanopticReader.open(tmp_path / "a.json")


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    path, _ = exported(tmp_path)
    fuzz_file(path, "panoptic", [path.read_bytes()], count)
