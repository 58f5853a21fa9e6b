from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ImageError
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.review.images import draw_record, open_record_image, scale_instances
from grounded.labelling.sources import FolderSource
from grounded.utils.files import image_bytes
from segany.utils.rle import decode_rle, encode_rle
from tests.data import disk
from tests.grounded.labelling.review.runs import example_record
from tests.grounded.labelling.reviewed import record


def saved(folder: Path, name: str, size: tuple[int, int], orientation: int = 1) -> FolderSource:
    """An image of (width, height) pixels as stored, red above and blue below."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, :, 0] = pixels[size[1] // 2 :, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / name, exif=exif, quality=95)
    return FolderSource(str(folder))


def about(file: str, width: int, height: int) -> Record:
    made = record(file, count=0)
    empty = replace(made.instances, image_size=(height, width))
    return replace(made, image=ImageInfo(file=file, width=width, height=height), instances=empty)


@pytest.mark.parametrize("reduced_to", [None, 64])
@pytest.mark.parametrize(
    ("name", "orientation", "red_at"),
    [
        pytest.param("a.jpg", 1, (0.5, 0.1), id="JPEG"),
        pytest.param("a.jpg", 6, (0.9, 0.5), id="turned JPEG"),
        pytest.param("a.png", 1, (0.5, 0.1), id="PNG"),
        pytest.param("a.png", 8, (0.1, 0.5), id="turned PNG"),
    ],
)
def test_images_are_upright(
    name: str, orientation: int, red_at: tuple[float, float], reduced_to: int | None, tmp_path: Path
):
    source = saved(tmp_path, name, (800, 400), orientation)
    width, height = (400, 800) if orientation > 4 else (800, 400)
    image = open_record_image(source, about(name, width, height), reduced_to).pixels
    is_reduced = reduced_to is not None and name.endswith("jpg")
    assert image.size == ((width // 4, height // 4) if is_reduced else (width, height))
    x, y = red_at
    for place, is_red in ((red_at, True), ((1 - x, 1 - y), False)):
        red, _, blue = image.getpixel((int(place[0] * image.width), int(place[1] * image.height)))
        assert (red > 200 > 50 > blue) == is_red


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(None, "a.png cannot be found", id="gone"),
        pytest.param(b"no image", "a.png cannot be read", id="damaged"),
        pytest.param(b"\xff\xd8 no image", "a.png cannot be read", id="damaged JPEG"),
        pytest.param(
            image_bytes(Image.new("RGB", (30, 20)), "JPEG"), "another image: it is 30 x 20 pixels", id="another"
        ),
    ],
)
@pytest.mark.parametrize("reduced_to", [None, 64])
def test_images_that_cannot_be_opened(data: bytes | None, message: str, reduced_to: int | None, tmp_path: Path):
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=message):
        open_record_image(FolderSource(str(tmp_path)), record("a.png"), reduced_to)
    drawn = draw_record(FolderSource(str(tmp_path)), record("a.png"), 360)
    assert drawn.size == (60, 40) and len(set(drawn.get_flattened_data())) > 20  # masks and a line on grey


def test_no_source():
    with pytest.raises(ImageError, match="say where with --images"):
        open_record_image(None, record())


def test_scale_instances():
    full = example_record("picnic", "picnic.png").instances
    half = scale_instances(full, (240, 320))
    assert half.image_size == (240, 320) and half.labels.tolist() == full.labels.tolist()
    assert np.allclose(half.boxes, full.boxes / 2)
    for small, large in zip(half.masks, full.masks, strict=True):
        corners = large.reshape(240, 2, 320, 2).mean((1, 3))
        assert (small == (corners >= 0.5)).mean() > 0.999
    assert len(scale_instances(full[[]], (240, 320))) == 0


def test_a_mask_of_one_pixel_stays_in_sight():
    tiny = encode_rle(disk(40, 60, 20, 20, 1)[None])[0]
    one = replace(record(count=1).instances, rles=(tiny,))
    assert decode_rle([scale_instances(one, (4, 6)).rles[0]]).any()
