import json
import math
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import DAMAGED, AnnotatedImage, Notes, guess_format
from grounded.labelling.formats.sa1b import (
    FOREIGN,
    NO_PIXEL,
    UNNAMED,
    Sa1bExporter,
    Sa1bMask,
    Sa1bReader,
    annotation_file,
)
from segany.utils.rle import decode_rle, encode_rle
from tests.fuzzing import FUZZ_COUNTS, fuzz
from tests.grounded.labelling.formats import made

SIZE = 20, 30


def square(left: int = 4, side: int = 6) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[5 : 5 + side, left : left + side] = True
    return mask


def entry(mask: np.ndarray, **others) -> dict:
    """An annotation as SA-1B has it."""
    ys, xs = np.nonzero(mask)
    rle = encode_rle(mask[None])[0]
    return {
        "id": 534,
        "segmentation": {"size": list(SIZE), "counts": rle["counts"]},
        "bbox": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1] if len(xs) else [0, 0, 0, 0],
        "area": int(mask.sum()),
        "predicted_iou": 0.91,
        "stability_score": 0.97,
        "crop_box": [0, 0, SIZE[1], SIZE[0]],
        "point_coords": [[6.5, 7.5]],
        **others,
    }


def file_of(*annotations: dict, **image) -> dict:
    size = {"height": SIZE[0], "width": SIZE[1]}
    return {"image": {"image_id": 7, "file_name": "sa_7.jpg", **size, **image}, "annotations": list(annotations)}


def read(folder: Path, **files: object) -> tuple[list[AnnotatedImage], Notes]:
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    notes = Notes()
    return list(Sa1bReader.open(folder).images(notes)), notes


def test_masks_of_sa1b_have_no_name(tmp_path: Path):
    (image,), notes = read(tmp_path, sa_7=file_of(entry(square()), entry(square(12, 3))))
    assert (image.image_size, image.names[0], image.error) == (SIZE, "sa_7.jpg", "") and not notes.counts
    assert [one.label for one in image.annotations] == [UNNAMED] * 2 and image.annotations[0].score == 0.91
    masks = decode_rle([one.rle for one in image.annotations]).numpy()
    np.testing.assert_array_equal(masks, [square(), square(12, 3)])
    assert Sa1bReader.open(tmp_path).labels() == (UNNAMED,)


@pytest.mark.parametrize("keys", [["image", "annotations"], ["annotations", "image"]])
def test_files_are_told_by_their_contents(tmp_path: Path, keys: list[str]):
    data = file_of(entry(square()))
    (tmp_path / "sa_7.json").write_text(json.dumps({key: data[key] for key in keys}))
    assert guess_format(tmp_path) == guess_format(tmp_path / "sa_7.json") == "sa1b"


def test_what_is_known_of_a_mask_is_written():
    rle = encode_rle(square()[None])[0]
    mask = Sa1bMask(
        rle=rle, predicted_iou=0.9, stability_score=0.95, crop_box=(2.0, 0.0, 22.0, 20.0), points=((6.5, 7.5),)
    )
    data = json.loads(json.dumps(annotation_file(3, "a.jpg", SIZE, [mask, Sa1bMask(rle=rle)])))
    assert data["image"] == {"image_id": 3, "width": 30, "height": 20, "file_name": "a.jpg"}
    known, unknown = data["annotations"]
    assert known == {
        **entry(square()),
        "id": 1,
        "predicted_iou": 0.9,
        "stability_score": 0.95,
        "crop_box": [2, 0, 20, 20],
    }
    assert unknown["predicted_iou"] is None and unknown["stability_score"] is None
    assert unknown["crop_box"] == [0, 0, 30, 20] and unknown["point_coords"] == []


def test_every_image_has_a_file(tmp_path: Path):
    made.write(Sa1bExporter, made.ALL, made.CLASSES, tmp_path)
    files = {path: json.loads(path.read_text()) for path in tmp_path.rglob("*.json")}
    assert sorted(data["image"]["image_id"] for data in files.values()) == list(range(1, 1 + len(made.ALL)))
    for record in made.ALL:
        (data,) = (data for data in files.values() if data["image_name"] == record.image.file)
        assert [one["label"] for one in data["annotations"]] == made.shown(record).labels.tolist()


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        pytest.param("text", DAMAGED, id="no object"),
        pytest.param({}, DAMAGED, id="no mask"),
        pytest.param({"segmentation": [[1, 1, 5, 1, 5, 5]]}, DAMAGED, id="polygon"),
        pytest.param({"segmentation": {"size": [9, 9], "counts": [81]}}, DAMAGED, id="another size"),
        pytest.param(entry(square(), label=["a"]), DAMAGED, id="label"),
        pytest.param(entry(np.zeros(SIZE, bool)), NO_PIXEL, id="empty"),
    ],
)
def test_a_damaged_annotation_costs_itself_alone(tmp_path: Path, annotation: object, kind: str):
    (image,), notes = read(tmp_path, sa_7=file_of(annotation, entry(square())))
    assert len(image.annotations) == 1 and image.left_out == 1 and dict(notes.counts) == {kind: 1}


def test_odd_numbers_are_not_taken(tmp_path: Path):
    (image,), _ = read(tmp_path, sa_7=file_of(entry(square(), predicted_iou="high")))
    assert math.isnan(image.annotations[0].score)


def test_other_files_are_named(tmp_path: Path):
    images, notes = read(tmp_path, a=file_of(entry(square())), b={"shapes": []}, c=file_of(width=-3))
    assert [image.error[:9] for image in images] == ["", "the image"] and dict(notes.counts) == {FOREIGN: 1}
    with pytest.raises(ResultError, match="not a file of SA-1B"):
        Sa1bReader.open(tmp_path / "b.json")
    (tmp_path / "none").mkdir()
    with pytest.raises(ResultError, match=r"no \*\.json"):
        Sa1bReader.open(tmp_path / "none")


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(tmp_path: Path, count: int):
    def read_one(content: bytes) -> None:
        (tmp_path / "a.json").write_bytes(content)
        reader = Sa1bReader.open(tmp_path / "a.json")
        reader.labels()
        list(reader.images(Notes()))

    fuzz([json.dumps(file_of(entry(square()), entry(square(12, 3), label="a dog"))).encode()], read_one, count)
