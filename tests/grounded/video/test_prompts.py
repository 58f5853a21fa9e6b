import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounded.errors import PromptError
from grounded.video.output.mask_folder import davis_palette, indexed_image
from grounded.video.prompts import read_masks, read_prompts
from segany.utils.rle import decode_rle, encode_rle, rle_area
from tests.grounded.video.clips import square

SIZE = (48, 64)
IDS = np.zeros(SIZE, np.uint8)
IDS[square(0)], IDS[square(12)], IDS[30:, :5] = 1, 7, 255  # the last is void


def save(path: Path, kind: str) -> Path:
    grey = np.where(square(0), 255, 0).astype(np.uint8)
    images = {
        "indexed": lambda: indexed_image(IDS),
        "grey ids": lambda: Image.fromarray(IDS),
        "16 bit ids": lambda: Image.fromarray(np.where(IDS == 255, 65535, IDS.astype(np.uint16)).astype(np.uint16)),
        "colours": lambda: Image.fromarray(davis_palette()[IDS]),
        "black and white": lambda: Image.fromarray(grey),
        "1 bit": lambda: Image.fromarray(grey).convert("1"),
        "black and white RGB": lambda: Image.fromarray(grey).convert("RGB"),
        "black and white, indexed": lambda: Image.fromarray(grey).convert("P"),
        "opaque RGBA": lambda: Image.fromarray(grey).convert("RGBA"),
        "grey 1": lambda: Image.fromarray(grey // 255),
        "background": lambda: Image.new("L", SIZE[::-1]),
        "void alone": lambda: indexed_image(grey),
        "photo": lambda: Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)),
        "16 bit noise": lambda: Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(SIZE)),
        "transparent": lambda: Image.new("RGBA", SIZE[::-1]),
        "grey and alpha": lambda: Image.new("LA", SIZE[::-1]),
        "size": lambda: Image.new("L", (48, 64)),
    }
    images[kind]().save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("indexed", [1, 7]),
        ("grey ids", [1, 7]),
        ("16 bit ids", [1, 7]),
        ("colours", [1, 7]),
        ("black and white", [1]),
        ("1 bit", [1]),
        ("black and white RGB", [1]),
        ("black and white, indexed", [1]),
        ("opaque RGBA", [1]),
        ("grey 1", [1]),
    ],
)
def test_masks_of_a_frame(kind: str, ids: list[int], tmp_path: Path):
    masks, labels = read_masks(save(tmp_path / "first.png", kind), SIZE, frame=3)
    assert list(masks) == [3] and sorted(masks[3]) == ids and labels == {}
    for name, rle in masks[3].items():
        np.testing.assert_array_equal(decode_rle([rle])[0].numpy(), square(0) if name == 1 else square(12))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("background", "marks no object"),
        ("void alone", "marks no object"),
        ("photo", "in the colours of DAVIS, got the colour #"),
        ("16 bit noise", "got 3071 different values: it is no mask"),
        ("transparent", "without transparency"),
        ("grey and alpha", "got mode LA"),
        ("size", "must be of the size of the frames, 64x48, got 48x64"),
    ],
)
def test_images_that_are_no_masks(kind: str, message: str, tmp_path: Path):
    with pytest.raises(PromptError, match=message):
        read_masks(save(tmp_path / "first.png", kind), SIZE)


def test_files_that_are_no_masks(tmp_path: Path):
    Image.fromarray(IDS).save(tmp_path / "a.jpg")
    with pytest.raises(PromptError, match="must be a PNG, got JPEG"):
        read_masks(tmp_path / "a.jpg", SIZE)
    with pytest.raises(PromptError, match=r"cannot read the mask .*missing.png: No such file"):
        read_masks(tmp_path / "missing.png", SIZE)
    save(tmp_path / "cut.png", "indexed").write_bytes((tmp_path / "cut.png").read_bytes()[:-60])
    with pytest.raises(PromptError, match="cannot read the mask"):
        read_masks(tmp_path / "cut.png", SIZE)


def test_a_folder_by_frame_numbers(tmp_path: Path):
    for name, kind in [("00000.png", "indexed"), ("00012.png", "background"), ("7.png", "grey ids")]:
        save(tmp_path / name, kind)
    (tmp_path / "labels.json").write_text('{"1": "a dog"}')
    masks, labels = read_masks(tmp_path, SIZE)
    assert {number: sorted(objects) for number, objects in masks.items()} == {0: [1, 7], 7: [1, 7], 12: []}
    assert list(masks) == [0, 7, 12] and labels == {1: "a dog"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "holds no PNG"),
        ({"first.png": "indexed"}, r"named by the numbers of their frames, as 00000.png, got .*first.png"),
        ({"1.png": "indexed", "01.png": "indexed"}, "are masks of one frame"),
        ({"1.png": "background", "2.png": "background"}, "its 2 masks are background alone"),
        ({"0.png": "indexed", "1.png": "size"}, r"1.png must be of the size of the frames"),
        ({"0.png": "indexed", "labels.json": "[]"}, r"labels.json must state the label of each id"),
        ({"0.png": "indexed", "labels.json": "{"}, r"labels.json is not JSON"),
    ],
    ids=str,
)
def test_folders_that_hold_no_masks(names: dict[str, str], message: str, tmp_path: Path):
    for name, content in names.items():
        if name.endswith(".json"):
            (tmp_path / name).write_text(content)
        else:
            save(tmp_path / name, content)
    with pytest.raises(PromptError, match=message):
        read_masks(tmp_path, SIZE)


# ---- JSON ----

RLE = encode_rle(square(0)[None])[0]
POLYGON = [10, 5, 20, 5, 20, 15, 10, 15]


def write(folder: Path, *prompts: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps({"prompts": list(prompts)}))
    return path


def test_prompts(tmp_path: Path):
    path = write(
        tmp_path,
        {"frame": 9, "id": 2, "mask": {"size": [48, 64], "counts": [0, 48 * 64]}},
        {"frame": 0, "id": 2, "label": "a cat", "polygons": [POLYGON]},
        {"frame": 0, "id": 1, "label": "a dog", "points": [[3, 4.5], [60, 40]], "point_labels": [1, 0]},
        {"frame": 5, "id": 1, "label": "a dog", "box": [0, 0, 64, 48], "points": [[1, 1]]},
        {"frame": 7, "id": 1, "mask": RLE},
    )
    prompts = read_prompts(path, SIZE)
    assert [(p.frame, p.track_id, p.label) for p in prompts] == [
        (0, 1, "a dog"), (0, 2, "a cat"), (5, 1, "a dog"), (7, 1, None), (9, 2, None),
    ]  # fmt: skip
    assert prompts[0].points == ((3, 4.5), (60, 40)) and prompts[0].point_labels == (1, 0)
    assert prompts[1].rle is not None and rle_area([prompts[1].rle]).tolist() == [100]
    assert prompts[2].box == (0, 0, 64, 48) and prompts[2].point_labels == (1,) and prompts[2].rle is None
    assert prompts[3].rle == RLE
    assert prompts[4].rle is not None and rle_area([prompts[4].rle]).tolist() == [48 * 64]


BOX = {"frame": 0, "id": 1, "box": [0, 0, 9, 9]}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "holds no prompt"),
        ([BOX, {"id": 1, "box": [0, 0, 9, 9]}], r"the key prompts\[1\].frame is missing"),
        ([{**BOX, "frame": -1}], r"prompts\[0\].frame must not be negative, got -1"),
        ([{**BOX, "frame": 1.5}], r"prompts\[0\].frame must be int, got float 1.5"),
        ([{**BOX, "id": 0}], r"prompts\[0\].id must lie in \[1, 1000000\], got 0"),
        ([{**BOX, "boxes": 1}], r"unknown key prompts\[0\].boxes: expected one of frame, id"),
        ([{**BOX, "box": ["0", 0, 9, 9]}], r"prompts\[0\].box\[0\] must be float, got str '0'"),
        ([{**BOX, "box": [0, 0, 9]}], r"prompts\[0\]: box must be \[x0, y0, x1, y1\], got 3 numbers"),
        ([{**BOX, "box": [0, 0, 99, 9]}], r"prompts\[0\]: box must lie in the frame of 64x48 pixels"),
        ([{**BOX, "box": [9, 0, 9, 9]}], r"prompts\[0\]: box must lie in the frame"),
        ([{**BOX, "box": [0, 0, float("nan"), 9]}], r"prompts\[0\]: box must lie in the frame"),
        ([{**BOX, "points": [[1, 2, 3]]}], r"prompts\[0\]: points must be \(k, 2\)"),
        ([{**BOX, "points": [[1, 2], [3]]}], r"prompts\[0\]: points must be numbers in a rectangular array"),
        ([{**BOX, "points": [[1, 99]]}], r"prompts\[0\]: points must lie in the image of 64 x 48"),
        ([{**BOX, "points": [[1, 2]], "point_labels": [2]}], r"prompts\[0\]: labels must be 1"),
        ([{**BOX, "points": [[1, 2]], "point_labels": [1, 1]}], r"prompts\[0\]: labels must be one per point"),
        ([{**BOX, "point_labels": [1]}], r"prompts\[0\]: point_labels need points"),
        ([{"frame": 0, "id": 1}], r"prompts\[0\]: expected either mask, or polygons, or points"),
        ([{**BOX, "mask": RLE}], r"prompts\[0\]: expected either mask, or polygons, or points"),
        ([BOX, {"frame": 1, "id": 1, "mask": {**RLE, "size": [9, 9]}}], r"prompts\[1\]: a mask must be of the image's"),
        ([{"frame": 1, "id": 1, "mask": {**RLE, "counts": "xyz~"}}], r"prompts\[0\]: compressed run lengths"),
        ([{"frame": 1, "id": 1, "polygons": [[1, 2, 3, 4]]}], r"prompts\[0\]: a polygon must have three corners"),
        ([{"frame": 1, "id": 1, "polygons": [[1e9] * 6]}], r"prompts\[0\]: corners of a polygon must be finite"),
        ([BOX, BOX], r"prompts\[1\]: there must be one prompt for id 1 on frame 0"),
        ([{**BOX, "label": "a dog"}, {**BOX, "frame": 1, "label": "a cat"}], r"prompts\[1\]: label must be 'a dog'"),
        ([5], r"prompts\[0\] must be a mapping, got int 5"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:40],
)
def test_errors_name_the_entry(prompts: list[Any], message: str, tmp_path: Path):
    path = write(tmp_path, *prompts)
    with pytest.raises(PromptError, match=message) as caught:
        read_prompts(path, SIZE)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "must be a mapping"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("{}", "prompts is missing")],
    ids=["list", "cut off", "deep", "empty"],
)
def test_files_that_hold_no_prompts(text: str, message: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PromptError, match=message):
        read_prompts(tmp_path / "a.json", SIZE)


def test_missing_file(tmp_path: Path):
    with pytest.raises(PromptError, match=r"cannot read .*: No such file"):
        read_prompts(tmp_path / "a.json", SIZE)
