import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from grounded.errors import ResultError
from grounded.labelling import store
from grounded.labelling.formats.annotations import AnnotatedImage, Notes, open_annotations
from grounded.labelling.formats.coco import (
    CocoExporter,
    CocoFile,
    CocoImage,
    CocoReader,
    annotation_rle,
    coco_from_dict,
    read_coco,
    read_coco_images,
    segmentation_to_rle,
)
from grounded.labelling.formats.ground_truth import import_ground_truth, run_of
from segany.utils.rle import RLE, decode_rle, encode_rle
from tests.data import disk
from tests.grounded.labelling.formats import made

SQUARE = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]
MASK = disk(30, 40, 20, 15, 9)
(COMPRESSED,) = encode_rle(MASK[None])
RUNS = np.diff(np.flatnonzero(np.diff(MASK.T.ravel(), prepend=False)), prepend=0, append=MASK.size).tolist()
FULL = {"size": [30, 40], "counts": RUNS}
FORMS = {
    "one polygon": [SQUARE],
    "two polygons": [SQUARE, [20.5, 20.5, 30.2, 20.5, 25.1, 28.8]],
    "beyond the image": [[-5.0, -5.0, 60.0, -5.0, 60.0, 10.0]],
    "compressed": dict(COMPRESSED),
    "runs": FULL,
    "nothing": {"size": [30, 40], "counts": [30 * 40]},
}


def file(folder: Path, segmentations: list, **extra: object) -> Path:
    data = {
        "images": [
            {"id": 7, "file_name": "sub/a.jpg", "height": 30, "width": 40},
            {"id": 8, "file_name": "b.jpg", "height": 30, "width": 40},
        ],
        "categories": [{"id": 3, "name": "a dog"}, {"id": 9, "name": "a cat"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": segmentation}
            for i, segmentation in enumerate(segmentations, start=1)
        ],
        **extra,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def read(path: Path) -> tuple[list[AnnotatedImage], Notes]:
    notes = Notes()
    return list(CocoReader.open(path).images(notes)), notes


@pytest.mark.parametrize("segmentation", FORMS.values(), ids=FORMS)
def test_masks_are_those_of_pycocotools(segmentation: object, tmp_path: Path):
    path = file(tmp_path, [segmentation])
    with contextlib.redirect_stdout(io.StringIO()):
        public = COCO(str(path))
    (image, empty), notes = read(path)
    assert (image.names, image.image_size, image.error) == (("sub/a.jpg", "a.jpg"), (30, 40), "")
    (annotation,) = image.annotations
    assert annotation.label == "a dog" and np.isnan(annotation.score)
    assert annotation.is_rounded == isinstance(segmentation, list)
    np.testing.assert_array_equal(decode_rle([annotation.rle])[0].numpy(), public.annToMask(public.anns[1]) > 0)
    assert empty.annotations == ()
    assert not notes.lines()


def test_runs_are_what_they_say():
    np.testing.assert_array_equal(decode_rle([segmentation_to_rle(FULL, (30, 40))])[0].numpy(), MASK)


def test_crowds_scores_and_annotations_without_masks(tmp_path: Path):
    path = file(tmp_path, [FULL, [], FULL])
    data = json.loads(path.read_text())
    data["annotations"][0] |= {"iscrowd": 1, "score": 0.25}
    data["annotations"].append({"id": 9, "image_id": 1000, "category_id": 3, "segmentation": [SQUARE]})
    path.write_text(json.dumps(data))
    (image, _), notes = read(path)
    assert image.annotations[0].score == 0.25
    assert notes.lines() == [
        "annotations of images that are not listed, left out: 1",
        "crowd regions, each of them one instance: 1 (sub/a.jpg)",
        "annotations without a mask, left out: 1 (sub/a.jpg)",
    ]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param([[1, 2, 3, 4]], "three corners or more, got 4 coordinates", id="two corners"),
        pytest.param([[1, 2, 3, 4], []], "three corners or more, got 4 coordinates", id="nothing but lines"),
        pytest.param([SQUARE, [1, 2, 3]], "three corners or more, got 3", id="odd, among others"),
        pytest.param([[float("nan"), 1, 2, 3, 4, 5]], "coordinates up to 1000000, got nan", id="not finite"),
        pytest.param([[0, 0, 1e9, 0, 1e9, 1e9]], "coordinates up to 1000000, got 1e", id="far away"),
        pytest.param([[1, 2, 3, 4, 5, 6, 7]], "three corners or more, got 7", id="odd"),
        pytest.param([["a"] * 6], "not a mask in COCO's forms", id="no numbers"),
        pytest.param(
            {"size": [40, 30], "counts": [1200]}, r"of the image's size \[30, 40\], got \[40, 30\]", id="size"
        ),
        pytest.param({"size": [30, 40], "counts": [10, 5]}, "add up to 1200", id="too few"),
        pytest.param({"size": [30, 40], "counts": [1300, -100]}, "add up to 1200", id="negative"),
        pytest.param({"size": [30, 40], "counts": [600.5, 599.5]}, "add up to 1200", id="half a pixel"),
        pytest.param({"size": [30, 40], "counts": "51"}, "add up to 1200", id="too few, compressed"),
        pytest.param({"size": [30, 40], "counts": ""}, "not a mask in COCO's forms", id="empty text"),
        pytest.param({"size": [30, 40], "counts": "abc"}, "not a mask in COCO's forms", id="damaged"),
        pytest.param({"size": [30, 40]}, "not a mask in COCO's forms: 'counts'", id="no counts"),
        pytest.param("text", "not a mask in COCO's forms", id="text"),
    ],
)
def test_a_damaged_mask_is_an_error_of_its_image(segmentation: object, message: str, tmp_path: Path):
    with pytest.raises(ResultError, match=message):
        segmentation_to_rle(segmentation, (30, 40))
    (image, other), _ = read(file(tmp_path, [FULL, segmentation]))
    assert image.error.startswith("annotation 2: ") and not image.annotations
    assert not other.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"images": [{"id": 7, "file_name": "a.jpg"}]}, "must have a width and a height", id="no size"),
        pytest.param({"categories": []}, "must be of a category listed", id="no category"),
    ],
)
def test_what_an_image_needs(changes: dict, message: str, tmp_path: Path):
    (image, *_), _ = read(file(tmp_path, [FULL], **changes))
    assert message in image.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "is not JSON", id="no JSON"),
        pytest.param("[]", "not a COCO annotation file", id="a list"),
        pytest.param('{"images": []}', "must hold 'categories', got none", id="keys missing"),
        pytest.param(
            '{"images": [1], "categories": [], "annotations": []}', "not a COCO annotation file", id="no image"
        ),
    ],
)
def test_what_is_no_coco_file(content: str, message: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=message):
        read_coco(path)


def test_photographs_have_the_masks_of_pycocotools(tmp_path: Path):
    root = os.environ.get("GROUNDED_TEST_DATA")
    path = Path(root or "none") / "coco-tiny" / "annotations" / "instances_val2017.json"
    if not path.is_file():
        pytest.skip(f"needs COCO annotations: GROUNDED_TEST_DATA is not set, or there is no {path}")
    reader, notes = open_annotations(path), Notes()
    result = import_ground_truth(tmp_path / "run", reader, run_of(reader, path, "coco", str(path)), notes)
    with contextlib.redirect_stdout(io.StringIO()):
        public = COCO(str(path))
    assert (result.images, result.instances, result.refused) == (len(public.imgs), len(public.anns), {})
    ids = {image["file_name"]: image["id"] for image in public.imgs.values()}
    seen = 0
    for record in store.read_records(tmp_path / "run"):
        annotations = public.imgToAnns[ids.pop(record.image.file)]
        for rle, label, annotation in zip(record.instances.rles, record.instances.labels, annotations, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(rle), public.annToMask(annotation))
            assert label == public.cats[annotation["category_id"]]["name"]
            seen += 1
    assert not ids and seen == len(public.anns)
    assert sum("crowd" in line for line in notes.lines()) == any(a["iscrowd"] for a in public.anns.values())


@pytest.mark.parametrize(
    "counts", [COMPRESSED["counts"], COMPRESSED["counts"].encode(), RUNS, [float(r) for r in RUNS]]
)
def test_run_lengths_of_all_kinds_are_one_rle(counts: object):
    expected = RLE(size=[30, 40], counts=COMPRESSED["counts"])
    assert segmentation_to_rle({"size": [30, 40], "counts": counts}, (30, 40)) == expected


@pytest.mark.parametrize("segmentation", [None, [], [[]], {}], ids=["null", "empty", "empty polygon", "empty object"])
def test_no_segmentation(segmentation: object):
    assert segmentation_to_rle(segmentation, (30, 40)) is None
    assert annotation_rle({"id": 1, "segmentation": segmentation}, (30, 40)) is None
    assert annotation_rle({"id": 1}, (30, 40)) is None


def test_polygons_without_area_are_dropped_beside_others():
    expected = segmentation_to_rle([SQUARE], (30, 40))
    assert segmentation_to_rle([SQUARE, [1, 1, 2, 2], []], (30, 40)) == expected


def test_ids_and_annotations_stay_as_they_are():
    square = {"id": "x", "image_id": "a", "category_id": "dog", "segmentation": [SQUARE]}
    stray = {"id": 2, "image_id": 99, "category_id": "dog"}
    data = {
        "images": [{"id": "a", "file_name": "a.jpg", "height": 30, "width": 40}, {"id": 2, "height": "?"}],
        "categories": [{"id": "dog", "name": "a dog"}],
        "annotations": [square, stray],
    }
    assert coco_from_dict(data) == CocoFile(
        images=(CocoImage("a", "a.jpg", (30, 40)), CocoImage(2, None, None)),
        categories={"dog": "a dog"},
        annotations={"a": [square], 2: [], 99: [stray]},
    )


def test_the_list_of_images_alone(tmp_path: Path):
    path = tmp_path / "images.json"
    path.write_text('{"images": [{"file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg", "height": 3, "width": 4}]}')
    assert read_coco_images(path) == (CocoImage(None, "a.jpg", None), CocoImage(1, "b.jpg", (3, 4)))
    path.write_text("[]")
    with pytest.raises(ResultError, match=r"images\.json is not a COCO file: expected .*, got TypeError"):
        read_coco_images(path)
    with pytest.raises(ResultError, match="cannot read"):
        read_coco_images(tmp_path / "none.json")


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_pycocotools_reads_the_same_masks(tmp_path: Path):
    lost = made.write(CocoExporter, made.ALL, made.CLASSES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]
    data = load(tmp_path / "instances.json")
    assert data.loadCats(data.getCatIds()) == [{"id": i + 1, "name": label} for i, label in enumerate(made.CLASSES)]
    assert sorted(data.imgs) == list(range(1, len(made.ALL) + 1))
    assert sorted(data.anns) == list(range(1, len(data.anns) + 1))
    for image_id, record in enumerate(made.ALL, start=1):
        image, expected = data.imgs[image_id], made.shown(record)
        assert image["file_name"] == record.image.file
        assert (image["width"], image["height"]) == (record.image.width, record.image.height)
        annotations = data.loadAnns(data.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(expected)
        for annotation, one in zip(annotations, expected, strict=True):
            mask = data.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, one.masks[0])
            assert data.cats[annotation["category_id"]]["name"] == one.labels[0]
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation.get("score", made.NAN) == pytest.approx(one.scores[0], nan_ok=True)
    assert +lost == {"instances left out, as their masks are empty": 1}


def test_no_records(tmp_path: Path):
    assert not +made.write(CocoExporter, [], made.CLASSES, tmp_path)
    data = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    assert (data["images"], data["annotations"], len(data["categories"])) == ([], [], 3)


def test_orientation_is_stated_unless_images_are_copied(tmp_path: Path):
    turned = made.RECORDS["turned"]
    made.write(CocoExporter, [turned], made.CLASSES, tmp_path / "a")
    made.write(CocoExporter, [turned], made.CLASSES, tmp_path / "b", made.images)
    first, second = (json.loads((tmp_path / name / "instances.json").read_text())["images"][0] for name in "ab")
    assert (first["exif_orientation"], "exif_orientation" in second) == (6, False)
    assert (first["width"], first["height"]) == (second["width"], second["height"]) == (30, 40)


def test_copies_are_where_the_file_says(tmp_path: Path):
    made.write(CocoExporter, made.ALL, made.CLASSES, tmp_path, made.images)
    names = [image["file_name"] for image in load(tmp_path / "instances.json").imgs.values()]
    assert {"one.jpg", "one.png", "sub/sub/whole.jpg", "_/up/x.y.jpg"} < set(names)
    files = {str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*.*")}
    assert files == set(names) and len(names) == len(made.ALL)


def test_a_label_that_is_no_class(tmp_path: Path):
    with pytest.raises(ResultError, match=r"parts\.jpg: 'ein Stück Käse 猫' is not among the 1 classes"):
        made.write(CocoExporter, made.ALL, ["a dog"], tmp_path)
