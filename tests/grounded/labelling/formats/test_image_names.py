import pytest

from grounded.labelling.formats.image_names import ImageNames, without_upload_prefix

FILES = ["a.jpg", "cats/b.jpg", "dogs/b.jpg", "dogs/c.jpg", "val/dogs/c.jpg", "d#2.jpg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["cats/b.jpg"], ["cats/b.jpg"], id="as it is"),
        pytest.param(["/data/mine/cats/b.jpg"], ["cats/b.jpg"], id="more folders"),
        pytest.param(["b.jpg"], ["cats/b.jpg", "dogs/b.jpg"], id="ambiguous"),
        pytest.param(["dogs/c.jpg"], ["dogs/c.jpg"], id="one as it is, one with more folders"),
        pytest.param(["upload/1/a.jpg"], ["a.jpg"], id="moved"),
        pytest.param(["birds/b.jpg"], ["cats/b.jpg", "dogs/b.jpg"], id="moved and ambiguous"),
        pytest.param(["B.jpg", "cats/b.jpg"], ["cats/b.jpg"], id="the second name"),
        pytest.param(["aa.jpg"], [], id="no end of a word"),
        pytest.param(["e.jpg"], [], id="unknown"),
        pytest.param([""], [], id="empty"),
        pytest.param([], [], id="none"),
    ],
)
def test_candidates(names: list[str], expected: list[str]):
    assert ImageNames(FILES).candidates(names) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("b.jpg", ["cats/b.jpg", "dogs/b.jpg"], id="in the order of the images"),
        pytest.param("/data/cats/b.jpg", ["cats/b.jpg"], id="more folders"),
        pytest.param("birds/b.jpg", [], id="another folder"),
        pytest.param("a.jpg", ["a.jpg"], id="as it is"),
    ],
)
def test_candidates_of_the_same_folder(name: str, expected: list[str]):
    assert ImageNames(FILES).candidates([name], same_folder=True) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("1/0a1b2c3d-cat.jpg", "cat.jpg", id="uploaded"),
        pytest.param("images/0a1b2c3d__cat.jpg", "cat.jpg", id="exported"),
        pytest.param("0a1b2c3d-", "0a1b2c3d-", id="nothing behind"),
        pytest.param("0a1b2c3-cat.jpg", "0a1b2c3-cat.jpg", id="too short"),
        pytest.param("a/cat.jpg", "cat.jpg", id="nothing in front"),
    ],
)
def test_without_upload_prefix(name: str, expected: str):
    assert without_upload_prefix(name) == expected
