import pytest

from grounded.labelling.formats.image_names import ImageNames, without_upload_prefix

FILES = ["a.jpg", "cats/b.jpg", "dogs/b.jpg", "dogs/c.jpg", "val/dogs/c.jpg", "d#2.jpg", "é 1.jpg", "100%25.jpg"]
DECOMPOSED = "e\u0301 1.jpg"


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
        pytest.param(["data\\cats\\b.jpg"], ["cats/b.jpg"], id="backslashes"),
        pytest.param(["C:\\x\\dogs\\b.jpg"], ["dogs/b.jpg"], id="a drive"),
        pytest.param(["./cats//b.jpg"], ["cats/b.jpg"], id="parts of nothing"),
        pytest.param(["https://example.com/x/cats/b.jpg?size=3#top"], ["cats/b.jpg"], id="address"),
        pytest.param(["file:///home/me/a.jpg"], ["a.jpg"], id="address of a file"),
        pytest.param(["s3://bucket/cats/b.jpg"], ["cats/b.jpg"], id="bucket"),
        pytest.param(["https://example.com/%C3%A9%201.jpg"], ["é 1.jpg"], id="encoded address"),
        pytest.param(["%C3%A9%201.jpg"], ["é 1.jpg"], id="encoded"),
        pytest.param(["100%25.jpg"], ["100%25.jpg"], id="as it is, though it reads like encoded"),
        pytest.param([DECOMPOSED], ["é 1.jpg"], id="decomposed"),
        pytest.param(["x/" + DECOMPOSED], ["é 1.jpg"], id="decomposed, in a folder"),
        pytest.param(["x/val/dogs/c.jpg"], ["val/dogs/c.jpg"], id="the longer end"),
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


def test_names_that_are_spelled_alike_are_ambiguous():
    names = ImageNames(["é.jpg", "e\u0301.jpg"])
    assert names.candidates(["é.jpg"]) == ["é.jpg"]
    assert names.candidates(["x/é.jpg"]) == ["é.jpg", "e\u0301.jpg"]


def matched(files: list[str], items: list[str], **options: bool) -> dict[str, str | bool | None]:
    """The file of each item, None where it is of none, and False where that is ambiguous."""
    found = ImageNames(files).match(items, lambda item: [item], **options)
    return {one.item: False if one.is_ambiguous else one.file for one in found}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param(["x/a.jpg", "a.jpg"], {"a.jpg": "a.jpg", "x/a.jpg": None}, id="the exact one first"),
        pytest.param(["x/a.jpg", "y/a.jpg"], {"x/a.jpg": False, "y/a.jpg": False}, id="two that fit the same"),
        pytest.param(["x/a.jpg"], {"x/a.jpg": "a.jpg"}, id="one that fits"),
        pytest.param(["b.jpg", "cats/b.jpg"], {"cats/b.jpg": "cats/b.jpg", "b.jpg": False}, id="never by elimination"),
        pytest.param(["e.jpg"], {"e.jpg": None}, id="unknown"),
        pytest.param([], {}, id="nothing"),
    ],
)
def test_match(items: list[str], expected: dict[str, str | bool | None]):
    assert matched(FILES, items) == expected
    assert list(matched(FILES, items)) == list(expected)


def test_match_of_the_same_folder():
    assert matched(FILES, ["birds/b.jpg"], same_folder=True) == {"birds/b.jpg": None}
    assert matched(FILES, ["birds/b.jpg"]) == {"birds/b.jpg": False}


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
