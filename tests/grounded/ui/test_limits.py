from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.data.image import SourceImage
from grounded.errors import ImageError
from grounded.ui.limits import Limits, fit
from tests.grounded.conftest import picture


@pytest.mark.parametrize(
    ("size", "max_side", "fitted"),
    [
        pytest.param((80, 60), 80, (80, 60), id="just fits"),
        pytest.param((80, 60), 2048, (80, 60), id="never scaled up"),
        pytest.param((80, 60), 40, (40, 30), id="wide"),
        pytest.param((60, 80), 40, (30, 40), id="high"),
        pytest.param((81, 7), 80, (80, 7), id="a pixel too many"),
        pytest.param((900, 2), 90, (90, 1), id="a line"),
        pytest.param((1, 900), 90, (1, 90), id="a column"),
    ],
)
def test_size(size: tuple[int, int], max_side: int, fitted: tuple[int, int]):
    image = picture(size[1], size[0])
    source = fit(image, Limits(max_side=max_side))
    assert source.pixels.size == fitted
    if size == fitted:
        assert source.pixels is image
        assert source.notes == ()
    else:
        assert source.notes == (f"scaled down from {size[0]} x {size[1]} to {fitted[0]} x {fitted[1]} pixels",)


def test_what_is_scaled_down_looks_alike():
    image = picture(600, 800)
    small = np.asarray(fit(image, Limits(max_side=80)).pixels, np.float32)
    expected = np.asarray(image.resize((80, 60), Image.Resampling.BOX), np.float32)
    assert np.abs(small - expected).mean() < 2


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_keep_what_is_known_of_them(tmp_path: Path, suffix: str):
    exif, path = Image.Exif(), tmp_path / f"turned.{suffix}"
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    picture(60, 80).save(path, exif=exif)
    source = fit(path, Limits(max_side=40))
    assert source.pixels.size == (30, 40)
    assert source.path == path
    assert source.orientation == 6
    assert source.notes == ("scaled down from 60 x 80 to 30 x 40 pixels",)


def test_notes_are_added_to_others():
    image = Image.new("RGBA", (80, 60))
    notes = fit(image, Limits(max_side=40)).notes
    assert notes == ("transparent pixels are shown on white", "scaled down from 80 x 60 to 40 x 30 pixels")


def test_a_source_that_fits_is_taken_as_it_is():
    source = SourceImage(picture(), notes=("something",))
    assert fit(source, Limits()) is source


def test_files_of_too_many_pixels_are_refused(tmp_path: Path):
    picture(60, 80).save(tmp_path / "large.png")
    assert fit(tmp_path / "large.png", Limits(max_megapixels=0.0048)).size == (60, 80)
    with pytest.raises(ImageError, match=r"large.png is too large: 80 x 60 pixels, .* and the limit is 0.0047"):
        fit(tmp_path / "large.png", Limits(max_megapixels=0.0047))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param("absent.png", "no such image", id="no file"),
        pytest.param(__file__, "not an image", id="no image"),
        pytest.param(np.zeros((4, 4)), "must be uint8", id="floats"),
    ],
)
def test_what_is_no_picture(image: str | np.ndarray, message: str):
    with pytest.raises(ImageError, match=message):
        fit(image, Limits())
