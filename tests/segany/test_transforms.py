import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from segany.transforms import ImageError, ResizeFrame, open_image, prepare_image
from tests.segany.reference import SMALL, assert_close

SIZES = [(90, 140), (140, 90), (256, 256), (1, 1), (640, 427), (333, 1000)]


@pytest.mark.parametrize("size", SIZES)
def test_resized_size_equals_the_reference(size):
    assert ResizeFrame.fit(size, 256).resized_size == ResizeLongestSide.get_preprocess_shape(*size, 256)


def test_a_thin_image_keeps_one_pixel():
    assert ResizeFrame.fit((1, 2000), 256).resized_size == (1, 256)


@pytest.mark.parametrize("size", SIZES)
def test_coordinates_equal_the_reference(size):
    points = np.random.default_rng(0).random((5, 2)) * (size[1], size[0])
    boxes = points[:4].reshape(2, 4)
    frame, expected = ResizeFrame.fit(size, 256), ResizeLongestSide(256)
    resized_points = frame.resize_points(torch.tensor(points, dtype=torch.float32))
    np.testing.assert_allclose(resized_points, expected.apply_coords(points, size), rtol=1e-5)
    resized_boxes = frame.resize_boxes(torch.tensor(boxes, dtype=torch.float32))
    np.testing.assert_allclose(resized_boxes, expected.apply_boxes(boxes, size), rtol=1e-5)


def test_no_coordinates():
    frame = ResizeFrame.fit((90, 140), 256)
    assert frame.resize_points(torch.zeros(0, 3, 2)).shape == (0, 3, 2)
    assert frame.resize_boxes(torch.zeros(0, 4)).shape == (0, 4)


def test_pixels_equal_the_reference(sam, picture):
    pixels, frame = prepare_image(picture, SMALL)
    resized = ResizeLongestSide(256).apply_image(picture)
    assert frame.resized_size == resized.shape[:2]
    assert frame.original_size == picture.shape[:2]
    expected = sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1))
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masks", [(2, 3), (1, 1)])
def test_restored_logits_equal_the_reference(sam, size, masks):
    low_res, frame = torch.randn(*masks, 64, 64), ResizeFrame.fit(size, 256)
    assert_close(frame.restore_logits(low_res), sam.postprocess_masks(low_res, frame.resized_size, size), 1e-6)


@pytest.mark.parametrize("masks", [(0, 3), (2, 0)])
def test_no_logits(masks):
    assert ResizeFrame.fit((90, 140), 256).restore_logits(torch.zeros(*masks, 64, 64)).shape == (*masks, 90, 140)


class TestOpenImage:
    @pytest.mark.parametrize("kind", ["array", "PIL", "path", "string"])
    def test_kinds_of_image(self, tmp_path, drawing, kind):
        path = tmp_path / "drawing.png"
        Image.fromarray(drawing).save(path)
        image = {"array": drawing, "PIL": Image.fromarray(drawing), "path": path, "string": str(path)}[kind]
        opened = open_image(image)
        assert opened.mode == "RGB"
        assert np.array_equal(opened, drawing)

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
    def test_modes_become_rgb(self, drawing, mode):
        assert open_image(Image.fromarray(drawing).convert(mode)).mode == "RGB"

    @pytest.mark.parametrize("as_path", [True, False], ids=["path", "PIL"])
    def test_exif_orientation_is_applied(self, tmp_path, drawing, as_path):
        path = tmp_path / "rotated.png"
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: show the file turned clockwise
        Image.fromarray(drawing).save(path, exif=exif)
        opened = open_image(path if as_path else Image.open(path))
        assert np.array_equal(opened, np.rot90(drawing, k=-1))

    @pytest.mark.parametrize(
        "array",
        [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
        ids=["gray", "four channels", "float"],
    )
    def test_other_arrays_are_refused(self, array):
        with pytest.raises(ImageError, match=r"image array must be \(height, width, 3\) uint8, got \(4, 4"):
            open_image(array)

    def test_empty_array(self):
        with pytest.raises(ImageError, match="at least one pixel"):
            open_image(np.zeros((0, 4, 3), np.uint8))

    @pytest.mark.parametrize("content", [None, b"", b"not a picture"], ids=["absent", "empty", "text"])
    def test_unreadable_file(self, tmp_path, content):
        path = tmp_path / "broken.png"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError, match=r"cannot read image .*broken\.png"):
            open_image(path)
