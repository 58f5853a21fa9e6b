import pytest

from grounded.models.detectors import sizes

EDGES = {"shortest_edge": 800, "longest_edge": 1333}


@pytest.mark.parametrize(
    ("rule", "image_size", "expected"),
    [
        pytest.param(EDGES, None, EDGES, id="as saved"),
        pytest.param(EDGES, 400, {"shortest_edge": 400, "longest_edge": 666}, id="longer edge keeps its ratio"),
        pytest.param({"height": 320, "width": 320}, 64, {"height": 64, "width": 64}, id="square"),
        pytest.param({**EDGES, "height": None}, None, EDGES, id="unset keys are dropped"),
    ],
)
def test_with_image_size(rule: dict, image_size: int | None, expected: dict):
    assert sizes.with_image_size(rule, image_size) == expected


@pytest.mark.parametrize(
    ("image_size", "rule", "expected"),
    [
        pytest.param((480, 640), EDGES, (800, 1066), id="shorter edge"),
        pytest.param((480, 1600), EDGES, (400, 1333), id="longer edge wins"),
        pytest.param((1, 1), EDGES, (800, 800), id="one pixel"),
        pytest.param((1, 5000), EDGES, (1, 1333), id="a line keeps one pixel"),
        pytest.param((5000, 1), EDGES, (1333, 1), id="an upright line"),
        pytest.param((480, 640), {"height": 320, "width": 300}, (320, 300), id="both sides given"),
        pytest.param((480, 640), {"max_height": 100, "max_width": 100}, (75, 100), id="fitted inside"),
    ],
)
def test_resized(image_size: tuple[int, int], rule: dict[str, int], expected: tuple[int, int]):
    assert sizes.resized(image_size, rule) == expected


def test_unknown_rule():
    with pytest.raises(ValueError, match="size must have shortest_edge"):
        sizes.resized((4, 4), {"longest_edge": 10})


@pytest.mark.parametrize(
    ("size", "minimum", "expected"),
    [
        pytest.param((64, 64), 85, (64, 64), id="just enough: 64 + 16 + 4 + 1"),
        pytest.param((64, 64), 86, (72, 64), id="one more is needed"),
        pytest.param((32, 32), 64, (56, 56), id="both sides grow"),
        pytest.param((1, 1), 1, (1, 1), id="one location is enough"),
        pytest.param((1, 960), 300, (16, 960), id="a line grows thicker, not longer"),
    ],
)
def test_enlarged(size: tuple[int, int], minimum: int, expected: tuple[int, int]):
    strides = (8, 16, 32, 64)
    result = sizes.enlarged(size, strides, minimum)
    assert result == expected
    assert sizes.feature_locations(result, strides) >= minimum
