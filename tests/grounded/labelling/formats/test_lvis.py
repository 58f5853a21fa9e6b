import json
from pathlib import Path
from typing import Any

import pytest

from grounded.errors import ResultError
from grounded.labelling.formats.lvis import Federation, read_lvis


def lvis() -> dict[str, Any]:
    """Two images without `file_name`, and classes of two frequencies."""
    address = "http://images.cocodataset.org/val2017/00000000000{}.jpg"
    images = [{"id": i, "height": 4, "width": 5, "coco_url": address.format(i)} for i in (1, 2)]
    images[0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    images[1] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    names = {1: ("bow_(weapon)", "r"), 2: ("cat", "f")}
    categories = [{"id": id, "name": name, "frequency": one} for id, (name, one) in names.items()]
    return {"images": images, "categories": categories, "annotations": []}


def read(folder: Path, data: dict[str, Any]) -> tuple:
    (folder / "lvis.json").write_text(json.dumps(data))
    return read_lvis(folder / "lvis.json")


def test_names_come_from_addresses_and_classes_are_stated_by_image(tmp_path: Path):
    coco, federation = read(tmp_path, lvis())
    first, second = "val2017/000000000001.jpg", "val2017/000000000002.jpg"
    assert [image.file_name for image in coco.images] == [first, second]
    nothing = frozenset()
    assert federation == Federation(
        {"bow_(weapon)": "rare", "cat": "frequent"},
        {first: frozenset({"cat"}), second: nothing},
        {first: frozenset({"bow_(weapon)"}), second: nothing},
    )


def test_a_file_name_goes_before_an_address(tmp_path: Path):
    data = lvis()
    data["images"][0]["file_name"] = "a.jpg"
    assert read(tmp_path, data)[0].images[0].file_name == "a.jpg"


def test_a_coco_file_states_nothing(tmp_path: Path):
    data = lvis()
    for entry in (*data["images"], *data["categories"]):
        for key in ("frequency", "neg_category_ids", "not_exhaustive_category_ids"):
            entry.pop(key, None)
    assert read(tmp_path, data)[1] is None


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        pytest.param("categories", {"frequency": "x"}, "frequency must be one of r, c, f", id="frequency"),
        pytest.param("images", {"neg_category_ids": 3}, "neg_category_ids must be a list", id="no list"),
        pytest.param("images", {"neg_category_ids": None}, "in all images or in none, got 1 of 2", id="some images"),
        pytest.param("categories", {"frequency": None}, "in all categories or in none", id="some categories"),
    ],
)
def test_what_is_stated_in_part_is_refused(tmp_path: Path, place: str, change: dict, message: str):
    data = lvis()
    entry = data[place][0]
    for key, value in change.items():
        entry.update({key: value}) if value is not None else entry.pop(key)
    with pytest.raises(ResultError, match=message):
        read(tmp_path, data)
