import json
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.labelling.formats.panoptic import PanopticExporter
from tests.grounded.labelling.formats import made


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
