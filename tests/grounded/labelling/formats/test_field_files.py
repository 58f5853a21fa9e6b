"""Files of LabelMe and Label Studio as people bring them, with the right answer for each; beside the project."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from grounded.cli.import_ import import_
from grounded.errors import ConfigError
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.label_studio_reader import NO_AREA, NOT_ANNOTATED, SEVERAL
from grounded.labelling.vocabulary import Vocabulary
from segany.utils.rle import rle_area
from tests.data import ROOT
from tests.fuzzing import time_limit
from tests.grounded.labelling.formats.reading import read

FOLDER = ROOT.parent / "shared" / "data" / "field"
SIZE = (480, 640)
SQUARE, TRIANGLE = ("a dog", 10_000), ("pizza", 5_000)  # labels and areas in pixels
SMALL = ("a dog", 9_216)  # 20% x 30% of the image, half of it

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs the files of {FOLDER}, which are not there")


@pytest.mark.parametrize(
    ("file", "expected", "notes"),
    [
        ("labelme/ok.json", [SQUARE, TRIANGLE], []),
        ("labelme/utf16.json", [SQUARE, TRIANGLE], []),
        ("labelme/windows_path.json", [SQUARE, TRIANGLE], []),
        ("labelme/size_missing.json", [SQUARE, TRIANGLE], []),
        ("labelme/group_two_labels.json", [SQUARE, TRIANGLE], []),
        ("labelme/rectangle_2.json", [SQUARE, TRIANGLE], []),
        ("labelme/rectangle_4.json", [SQUARE, TRIANGLE], []),
        ("labelme/quadrilateral.json", [SQUARE, TRIANGLE], []),
        ("labelme/rotation_4.json", [("a dog", 10_400), TRIANGLE], []),
        ("labelme/circle.json", [("a dog", 5_026), TRIANGLE], []),
        ("labelme/mask_partly_outside.json", [("a dog", None), TRIANGLE], []),
        ("labelme/polygon_2_points.json", [TRIANGLE], [DAMAGED]),
        ("labelme/nan.json", [TRIANGLE], [DAMAGED]),
        ("labelme/label_null.json", [TRIANGLE], [DAMAGED]),
        ("label-studio/ok.json", [SMALL], []),
        ("label-studio/bitmask.json", [("a dog", 2_400), ("pizza", SMALL[1])], []),
        ("label-studio/empty_result.json", [], []),
        ("label-studio/several_annotations.json", [], [SEVERAL]),
        ("label-studio/no_label.json", [("pizza", SMALL[1])], [DAMAGED]),
        ("label-studio/polygon_2_points.json", [("pizza", SMALL[1])], [DAMAGED]),
        ("label-studio/vector.json", [("pizza", SMALL[1])], [NO_AREA]),
        ("label-studio/rotated_90.json", [], [DAMAGED]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files(file: str, expected: list[tuple[str, int | None]], notes: list[str]):
    with time_limit(5):
        (image,), lines = read(FOLDER / file, find_size=lambda names: SIZE if "picnic.png" in names[-1] else None)
    assert (image.error, image.image_size) == ("", SIZE)
    assert [annotation.label for annotation in image.annotations] == [label for label, _ in expected]
    for annotation, (_, area) in zip(image.annotations, expected, strict=True):
        assert rle_area([annotation.rle])[0] == pytest.approx(area or rle_area([annotation.rle])[0], rel=0.02)
    assert [line.partition(":")[0] for line in lines] == notes
    assert (image.left_out > 0) == bool(set(notes) & {DAMAGED, NO_AREA})


def test_a_task_of_two_images():
    images, notes = read(FOLDER / "label-studio" / "two_images.json")
    assert [image.names[-1] for image in images] == ["picnic.png", "shelf.png"]
    assert [len(image.annotations) for image in images] == [1, 1] and notes == []


def test_predictions_alone_are_no_annotations(tmp_path: Path):
    result = CliRunner().invoke(
        import_, [str(FOLDER / "label-studio" / "predictions_only.json"), "--out", str(tmp_path / "new")]
    )
    assert result.exit_code == 1
    assert NOT_ANNOTATED in result.stderr and "no image was imported" in result.stderr


def test_an_annotated_image_without_instances_has_the_size_of_the_image(tmp_path: Path):
    path = FOLDER / "label-studio" / "empty_result.json"
    arguments = [str(path), "--out", str(tmp_path / "new"), "--images", str(ROOT / "examples")]
    result = CliRunner().invoke(import_, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 images, 0 instances" in result.stdout


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("bom", ("a dog",)),
        ("dup", "appears twice"),
        ("norway", "must be text, got int 3: put it in quotes"),  # `no` and `yes` before it are words
        ("odd", ("a, b", "c/d", "e.f", '<x>&"y"', "日本", "a b")),
    ],
)
def test_vocabularies(file: str, expected: tuple[str, ...] | str):
    path = FOLDER / "vocab" / f"{file}.yaml"
    if isinstance(expected, tuple):
        assert Vocabulary.from_yaml(path).class_names == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            Vocabulary.from_yaml(path)
