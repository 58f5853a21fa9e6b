import numpy as np
import pytest
import torch

from segany.errors import ImageError
from segany.utils.arrays import image_from_array
from tests.data import unchecked

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (6, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def pixels(array: np.ndarray | torch.Tensor) -> np.ndarray:
    return np.asarray(image_from_array(array)[0])


class TestLayout:
    @pytest.mark.parametrize(
        ("array", "expected"),
        [
            pytest.param(GREY, GREY, id="(h, w)"),
            pytest.param(GREY[None], GREY, id="(1, h, w)"),
            pytest.param(GREY[..., None], GREY, id="(h, w, 1)"),
            pytest.param(RGB, RGB, id="(h, w, 3)"),
            pytest.param(RGB.transpose(2, 0, 1), RGB, id="(3, h, w)"),
            pytest.param(np.dstack([RGB, GREY]), np.dstack([RGB, GREY]), id="(h, w, 4)"),
            pytest.param(np.dstack([RGB, GREY]).transpose(2, 0, 1), np.dstack([RGB, GREY]), id="(4, h, w)"),
            pytest.param(RGB[:3, :, :], RGB[:3], id="(3, w, 3) has its channels last"),
            pytest.param(RGB[:1], RGB[:1], id="(1, w, 3) is a row"),
            pytest.param(RGB[:3, :, :1], GREY[:3], id="(3, w, 1) is grey"),
            pytest.param(RGB[::-1, ::-2], RGB[::-1, ::-2], id="not contiguous"),
        ],
    )
    def test_channels(self, array: np.ndarray, expected: np.ndarray):
        np.testing.assert_array_equal(pixels(array), expected)
        np.testing.assert_array_equal(pixels(torch.from_numpy(array.copy())), expected)

    def test_read_only_arrays_and_views_of_memory(self):
        array = RGB.copy()
        array.setflags(write=False)
        np.testing.assert_array_equal(pixels(array), RGB)
        np.testing.assert_array_equal(pixels(np.asfortranarray(RGB)), RGB)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((3,), r"got uint8 \(3,\)$"),
            ((5, 4, 2), r"got uint8 \(5, 4, 2\)$"),
            ((6, 5, 7), r"got uint8 \(6, 5, 7\)$"),
            ((0, 5, 3), r"got uint8 \(0, 5, 3\)$"),
            ((1, 3, 4, 5), r"got uint8 \(1, 3, 4, 5\): pass the images of a batch one by one$"),
        ],
        ids=str,
    )
    def test_others_are_refused(self, shape: tuple[int, ...], message: str):
        for kind, empty in (("array", np.zeros(shape, np.uint8)), ("tensor", torch.zeros(shape, dtype=torch.uint8))):
            shapes = r"\(h, w\), \(h, w, c\) or \(c, h, w\) with 1, 3 or 4 channels"
            with pytest.raises(ImageError, match=f"an image {kind} must be {shapes}, {message}"):
                image_from_array(empty)


class TestValues:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats(self, dtype: type[np.floating]):
        np.testing.assert_array_equal(pixels((RGB / 255).astype(dtype)), RGB)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_float_tensors(self, dtype: torch.dtype):
        tensor = (torch.from_numpy(RGB).permute(2, 0, 1) / 255).to(dtype).requires_grad_()
        assert np.abs(pixels(tensor).astype(int) - RGB).max() <= (1 if dtype == torch.bfloat16 else 0)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_tensor_on_a_gpu(self):
        np.testing.assert_array_equal(pixels(torch.from_numpy(RGB).cuda()), RGB)

    def test_bool(self):
        np.testing.assert_array_equal(pixels(GREY > 100), (GREY > 100) * np.uint8(255))
        np.testing.assert_array_equal(pixels(torch.from_numpy(GREY > 100)[None]), (GREY > 100) * np.uint8(255))

    def test_rounding_beyond_the_range_is_no_error(self):
        assert pixels(np.array([[-1e-4, 1 + 1e-4]], np.float32)).tolist() == [[0, 255]]

    def test_uint16(self):
        image, notes = image_from_array(GREY.astype(np.uint16) * 257)
        np.testing.assert_array_equal(np.asarray(image), GREY)
        assert notes == ("16 bits per channel: the upper 8 are used",)
        deep = np.full((1, 3, 4), 65_535, np.uint16)
        deep[..., :3] = np.array([0, 500, 1000])[:, None]
        image, notes = image_from_array(deep)
        assert np.asarray(image)[0].tolist() == [[0, 0, 0, 255], [128, 128, 128, 255], [255, 255, 255, 255]]
        assert notes == ("16 bits per channel: values from 0 to 1000 are stretched to 0..255",)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([0.0, 255.0], "must lie in 0..1, got 0 to 255: divide them by 255$"),
            ([-2.1, 2.6], "must lie in 0..1, got -2.1 to 2.6: undo the normalisation$"),
            ([0.0, 3000.0], "must lie in 0..1, got 0 to 3000$"),
            ([np.nan, 1.0], "must lie in 0..1, got 1 of 2 that are nan or infinite$"),
            ([np.inf, -np.inf], "must lie in 0..1, got 2 of 2 that are nan or infinite$"),
        ],
        ids=str,
    )
    def test_floats_of_another_range(self, values: list[float], message: str):
        for array in (np.array([values], np.float32), torch.tensor([values])):
            with pytest.raises(ImageError, match=message):
                image_from_array(array)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.array([[0, 200]]), "got int64 with values from 0 to 200: convert them to uint8$"),
            (np.array([[0, 300]], np.int32), "got int32 with values from 0 to 300$"),
            (torch.tensor([[0, 300]]), "got int64 with values from 0 to 300$"),
            (np.array([[1j]]), "got complex128$"),
            (np.array([["a"]]), "got <U1$"),
        ],
        ids=["int64", "int32", "tensor", "complex", "text"],
    )
    def test_other_dtypes(self, array: np.ndarray | torch.Tensor, message: str):
        with pytest.raises(ImageError, match=f"must hold uint8, uint16, bool, or floats in 0..1, {message}"):
            unchecked(image_from_array)(array)

    def test_tensors_without_values(self):
        with pytest.raises(ImageError, match="cannot read the tensor as an image"):
            image_from_array(torch.zeros(3, 4, 5, device="meta"))
