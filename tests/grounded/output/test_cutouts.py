import numpy as np
import pytest
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ImageError
from grounded.output.cutouts import cutouts
from tests.data import disk
from tests.grounded.data.test_formats import build

IMAGE = np.random.default_rng(0).integers(1, 256, (30, 40, 3), dtype=np.uint8)
MASKS = np.stack([disk(30, 40, 12, 15, 5), disk(30, 40, 38, 3, 6), disk(30, 40, 7, 20, 1), np.zeros((30, 40), bool)])
INSTANCES = build(MASKS, [0, 0, 0, 0], [0.9, 0.8, 0.7, 0.6], ("a dog",))


def test_frame_is_kept():
    for image, mask in zip(cutouts(IMAGE, INSTANCES, crop=False), MASKS, strict=True):
        assert (image.mode, image.size) == ("RGBA", (40, 30))
        pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels[..., 3], mask * 255)
        np.testing.assert_array_equal(pixels[mask][:, :3], IMAGE[mask])
        assert not pixels[~mask].any()


@pytest.mark.parametrize(
    ("margin", "sizes"),
    [
        pytest.param(0, [(9, 9), (7, 9), (1, 1), (1, 1)], id="tight"),
        pytest.param(2, [(13, 13), (9, 11), (5, 5), (1, 1)], id="margin, as far as the image goes"),
    ],
)
def test_cut_to_the_box(margin: int, sizes: list[tuple[int, int]]):
    images = cutouts(Image.fromarray(IMAGE), INSTANCES, margin=margin)
    assert [image.size for image in images] == sizes
    for image, mask in zip(images, MASKS, strict=True):
        alpha = np.asarray(image)[..., 3]
        assert (alpha == 255).sum() == mask.sum()
        assert set(np.unique(alpha)) <= {0, 255}
        np.testing.assert_array_equal(np.asarray(image)[alpha > 0][:, :3], IMAGE[mask])


def test_soft_edge_fades_over_its_width():
    mask = np.zeros((30, 40), bool)
    mask[:, 20:] = True
    (image,) = cutouts(IMAGE, build(mask[None], [0], [0.9], ("a",)), softness=4.0, crop=False)
    alpha = np.asarray(image)[15, :, 3].astype(int)
    assert (np.diff(alpha) >= 0).all()
    assert (alpha[:18] == 0).all() and (alpha[22:] == 255).all()
    assert ((alpha[18:22] > 0) & (alpha[18:22] < 255)).all()
    assert abs(alpha[19] + alpha[20] - 255) <= 2


def test_soft_edge_is_not_cut_off():
    tight = cutouts(IMAGE, INSTANCES, softness=4.0)[0]
    framed = np.asarray(cutouts(IMAGE, INSTANCES, softness=4.0, crop=False)[0])
    assert np.asarray(tight)[..., 3].sum() == framed[..., 3].sum()


def test_no_instances():
    assert cutouts(IMAGE, Instances.empty(("a dog",), (30, 40))) == []


def test_wrong_arguments():
    with pytest.raises(ImageError, match=r"must be of \(height, width\) \(30, 40\), got \(29, 40\)"):
        cutouts(IMAGE[1:], INSTANCES)
    with pytest.raises(ValueError, match="must not be negative"):
        cutouts(IMAGE, INSTANCES, margin=-1)
