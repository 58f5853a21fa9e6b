from pathlib import Path

import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats.image_sizes import images_by_stem, size_of_first, stated_size, upright_size


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        pytest.param(30, 40, (30, 40), id="numbers"),
        pytest.param("30", 40.0, (30, 40), id="text and a float"),
        pytest.param(None, 40, None, id="none"),
        pytest.param(0, 40, None, id="zero"),
        pytest.param(-30, 40, None, id="negative"),
        pytest.param(30.5, 40, None, id="a half"),
        pytest.param(float("nan"), 40, None, id="nan"),
        pytest.param([30], {}, None, id="lists"),
        pytest.param(True, 40, None, id="a bool"),
        pytest.param(20_000, 10_001, ResultError, id="too large"),
        pytest.param(10**9, 10**9, ResultError, id="far too large"),
    ],
)
def test_stated_size(height: object, width: object, expected: tuple[int, int] | type[Exception] | None):
    if expected is ResultError:
        with pytest.raises(ResultError, match="must have up to 200 megapixels"):
            stated_size(height, width)
    else:
        assert stated_size(height, width) == expected


@pytest.mark.parametrize(("orientation", "expected"), [(1, (30, 40)), (3, (30, 40)), (6, (40, 30)), (8, (40, 30))])
def test_upright_size(orientation: int, expected: tuple[int, int], tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert upright_size(tmp_path / "a.jpg") == expected
    assert upright_size(tmp_path / "b.jpg") is upright_size(tmp_path) is upright_size(Path("/dev/zero")) is None
    assert size_of_first([tmp_path / "none.jpg", tmp_path / "b.jpg", tmp_path / "a.jpg"]) == expected
    assert size_of_first([]) is None


def test_images_by_stem(tmp_path: Path):
    for name in ("a.jpg", "a.PNG", "b.c.webp", "d.txt", ".e.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = {stem: [path.name for path in paths] for stem, paths in images_by_stem(tmp_path).items()}
    assert found == {"a": ["a.PNG", "a.jpg"], "b.c": ["b.c.webp"]}
    assert images_by_stem(tmp_path / "none") == {}
