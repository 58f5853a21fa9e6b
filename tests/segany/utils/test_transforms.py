import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from segany.utils.transforms import ImageError, ResizeFrame, logits_of, open_image, prepare_image
from tests.data import disk
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


def test_pixels_equal_the_reference(sam, image):
    pixels, frame = prepare_image(image, SMALL)
    resized = ResizeLongestSide(256).apply_image(image)
    assert frame.resized_size == resized.shape[:2]
    assert frame.original_size == image.shape[:2]
    expected = sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1))
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masks", [(2, 3), (1, 1)])
def test_restored_logits_equal_the_reference(sam, size, masks):
    low_res, frame = torch.randn(*masks, 64, 64), ResizeFrame.fit(size, 256)
    restored = frame.restore_logits(low_res)
    assert_close(restored, sam.postprocess_masks(low_res, frame.resized_size, size), 1e-5)
    assert torch.equal(frame.restore_masks(low_res), restored > 0)


def test_restored_logits_keep_their_dtype():
    low_res, frame = torch.randn(1, 1, 64, 64).bfloat16(), ResizeFrame.fit((90, 140), 256)
    restored = frame.restore_logits(low_res)
    assert torch.equal(restored, frame.restore_logits(low_res.float()).bfloat16())


@pytest.mark.parametrize("masks", [(0, 3), (2, 0)])
def test_no_logits(masks):
    frame, none = ResizeFrame.fit((90, 140), 256), torch.zeros(*masks, 64, 64)
    assert frame.restore_logits(none).shape == frame.restore_masks(none).shape == (*masks, 90, 140)


def blob(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(disk(height, width, 0.6 * width, 0.55 * height, 0.35 * min(height, width)))[None]


def test_logits_of_masks():
    masks = torch.tensor([[[True, False]], [[False, True]]])
    assert logits_of(masks).tolist() == [[[8, -8]], [[-8, 8]]]
    assert logits_of(masks).dtype == torch.float16
    assert logits_of(masks[:0]).shape == (0, 1, 2)


@pytest.mark.parametrize(
    ("size", "image_size"), [((90, 140), 256), ((640, 427), 256), ((333, 1000), 256), ((1300, 900), 1024)]
)
class TestMaskPrompts:
    def test_round_trip(self, size, image_size):
        frame, mask = ResizeFrame.fit(size, image_size), blob(*size)
        restored = frame.restore_logits(frame.mask_prompts(mask, 64))[0] > 0
        assert (restored & mask).sum() > 0.95 * (restored | mask).sum()

    @pytest.mark.parametrize("scale", [0.5, 2], ids=["half size", "double size"])
    def test_masks_of_another_resolution(self, size, image_size, scale):
        frame = ResizeFrame.fit(size, image_size)
        other = blob(round(size[0] * scale), round(size[1] * scale))
        restored, expected = frame.restore_logits(frame.mask_prompts(other, 64))[0] > 0, blob(*size)
        assert (restored & expected).sum() > 0.95 * (restored | expected).sum()

    def test_padding_is_background(self, size, image_size):
        frame = ResizeFrame.fit(size, image_size)
        prompt = frame.mask_prompts(torch.full((1, 3, 3), 5.0), 64)[0, 0]
        height, width = frame.crop_padding(prompt).shape
        # A cell beside the border may be a mixture.
        for padding in (prompt[height + 1 :], prompt[:, width + 1 :]):
            torch.testing.assert_close(padding, torch.full_like(padding, -8))
        torch.testing.assert_close(prompt[: height - 2, : width - 2], torch.full((height - 2, width - 2), 5.0))

    def test_bool_masks_are_certain_logits(self, size, image_size):
        frame, mask = ResizeFrame.fit(size, image_size), blob(*size)
        assert torch.equal(frame.mask_prompts(mask, 64), frame.mask_prompts(logits_of(mask).float(), 64))


def test_a_coarse_heat_map_keeps_its_place():
    frame = ResizeFrame.fit((300, 400), 256)
    heat = torch.full((1, 14, 14), -5.0)
    heat[0, 9, 3] = 5
    prompt = frame.mask_prompts(heat, 128)[0, 0]
    y, x = divmod(int(prompt.argmax()), 128)
    assert abs(x - 3.5 / 14 * 128) <= 1 and abs(y - 9.5 / 14 * 96) <= 1
    assert 0 < (prompt > 0).sum() < 2 * (128 * 96) / 14**2


def test_many_mask_prompts_equal_single_ones():
    frame, masks = ResizeFrame.fit((9, 14), 1024), torch.randn(7, 9, 14)
    together = frame.mask_prompts(masks, 64)
    assert_close(together, torch.cat([frame.mask_prompts(mask[None], 64) for mask in masks]), 1e-6)


def test_no_mask_prompts():
    assert ResizeFrame.fit((90, 140), 256).mask_prompts(torch.zeros(0, 5, 5), 64).shape == (0, 1, 64, 64)


@pytest.mark.parametrize(
    ("size", "shape"), [((90, 140), (42, 64)), ((140, 90), (64, 42)), ((50, 50), (64, 64)), ((1, 300), (1, 64))]
)
def test_crop_padding(size, shape):
    assert ResizeFrame.fit(size, 256).crop_padding(torch.zeros(2, 3, 64, 64)).shape == (2, 3, *shape)


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
        ("array", "reason"),
        [
            pytest.param(np.zeros((5, 5, 7), np.uint8), r"got uint8 \(5, 5, 7\)", id="seven channels"),
            pytest.param(np.full((4, 4, 3), 2, np.float32), "must lie in 0..1, got 2 to 2", id="bright floats"),
        ],
    )
    def test_other_arrays_are_refused(self, array, reason):
        with pytest.raises(ImageError, match=reason):
            open_image(array)

    def test_empty_array(self):
        with pytest.raises(ImageError, match=r"got uint8 \(0, 4, 3\)"):
            open_image(np.zeros((0, 4, 3), np.uint8))

    @pytest.mark.parametrize("content", [None, b"", b"not an image"], ids=["absent", "empty", "text"])
    def test_unreadable_file(self, tmp_path, content):
        path = tmp_path / "broken.png"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError, match=r"image.*broken\.png|broken\.png is not an image"):
            open_image(path)
