from pathlib import Path

import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.mot import UNMARKED, TextClip, read_text_clip
from grounded.labelling.formats.annotations import Notes
from segany.utils.rle import rle_area
from tests.grounded.evaluation.made import rle
from tests.grounded.evaluation.video.made import SIZE, masks

LEFT, RIGHT = (rle(masks({1: place})[1])["counts"] for place in ("left", "right"))
HEIGHT, WIDTH = SIZE


def read(tmp_path: Path, text: str, is_truth: bool = True, notes: Notes | None = None) -> TextClip:
    path = tmp_path / "clip.txt"
    path.write_text(text)
    return read_text_clip(path, "clip", is_truth, notes or Notes())


def test_boxes(tmp_path: Path):
    clip = read(tmp_path, "1,2,10,20,30,40,1,1,0.5\n\n3, 2, 11.5, 20, 30, 40, 1\n1,-1,0,0,5,5\n")
    assert list(clip.numbers) == [0, 1, 2] and not clip.lists_frames
    assert [clip.read(number).ids for number in range(5)] == [(2, -1), (), (2,), (), ()]
    assert clip.read(0).boxes.tolist() == [[9, 19, 39, 59], [-1, -1, 4, 4]]
    assert clip.read(0).rles is None and clip.read(1).rles is None


def test_boxes_of_the_truth_may_be_marked_not_to_count(tmp_path: Path):
    notes, text = Notes(), "1,1,0,0,5,5,0,8,1\n1,2,0,0,5,5,1,1,1\n"
    assert read(tmp_path, text, notes=notes).read(0).ids == (2,)
    assert notes.lines() == [f"{UNMARKED}: 1"]
    assert read(tmp_path, text, is_truth=False).read(0).ids == (1, 2), "in results it is a score"


def test_masks(tmp_path: Path):
    region = f"1 10000 10 {HEIGHT} {WIDTH} {RIGHT}"
    text = f"1 2001 2 {HEIGHT} {WIDTH} {LEFT}\n{region}\n2 2001 2 {HEIGHT} {WIDTH} {RIGHT}\n"
    clip = read(tmp_path, text)
    first, second = clip.read(0), clip.read(1)
    assert first.ids == second.ids == (2001,) and first.image_size == SIZE
    assert first.rles is not None and first.rles[0]["counts"] == LEFT
    assert first.ignored is not None and rle_area([first.ignored]) == 80
    assert second.ignored is None and clip.read(2).rles == ()
    assert read(tmp_path, text, is_truth=False).read(0).ids == (2001, 10000), "results have no such regions"


def test_an_empty_file_has_no_object(tmp_path: Path):
    clip = read(tmp_path, "")
    assert list(clip.numbers) == [] and clip.read(4).ids == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("1,2,3,4\n", "line 1: expected frame, id, left, top, width and height", id="too few"),
        pytest.param("1,2,3,4,5,6\nx,2,3,4,5,6\n", "line 2: could not convert", id="no number"),
        pytest.param("1.5,2,3,4,5,6\n", "must be whole numbers", id="half a frame"),
        pytest.param("1,2,3,4,nan,6\n", "line 1: expected", id="nan"),
        pytest.param("1,2,3,4,5,6\n1,2,3,4,5,6\n", "line 2: object 2 is twice in frame 1", id="box twice"),
        pytest.param("name\n", "line 1: expected frame, id, class", id="another text"),
        pytest.param(f"1 1 1 {HEIGHT} 7 {LEFT}\n", "line 1: run lengths", id="runs of another size"),
        pytest.param(f"1 1 1 {HEIGHT} {WIDTH} {LEFT}\n" * 2, "line 2: object 1 is twice", id="mask twice"),
        pytest.param(f"1 1 1 {HEIGHT} {WIDTH} {LEFT}\n1 2 1 1 1 1\n", "masks of one size", id="two sizes"),
    ],
)
def test_bad_text(tmp_path: Path, text: str, message: str):
    with pytest.raises(ResultError, match=message) as error:
        read(tmp_path, text)
    assert str(tmp_path / "clip.txt") in str(error.value)
