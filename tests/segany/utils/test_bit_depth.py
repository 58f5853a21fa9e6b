import numpy as np
import pytest

from segany.utils.bit_depth import from_16_bits, from_raster, stretch_upper_bits, used_range


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([3, 1, 2], (1, 3), id="few"),
        pytest.param([7], (7, 7), id="one"),
        pytest.param([], (0, 0), id="none"),
        pytest.param([0] * 4999 + [9], (0, 9), id="one that differs"),
        pytest.param([5, 6] * 5000 + [65_535] + [0], (5, 6), id="hot and dead pixels"),
    ],
)
def test_used_range(values: list[int], expected: tuple[int, int]):
    assert used_range(np.array(values, np.uint16)) == expected


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_cameras_with_fewer_bits_fill_the_range(bits: int):
    values = np.linspace(0, 2**bits - 1, 6400).reshape(80, 80).astype(np.uint16)
    values[0, :3] = 65_535  # hot pixels
    shown, (note,) = from_16_bits(values)
    assert (shown.min(), shown.max()) == (0, 255) and 120 < shown.mean() < 136
    assert note.startswith("16 bits per channel: values from ") and note.endswith(" are stretched to 0..255")


def test_thermal_images_use_a_small_part_in_the_middle():
    values = np.linspace(28_000, 31_000, 6400).reshape(80, 80).astype(np.uint16)
    assert from_16_bits(values)[0].std() > 60


@pytest.mark.parametrize("values", [np.linspace(0, 65_535, 6400), np.linspace(0, 20_000, 6400), [40_000]], ids=len)
def test_the_whole_range_looks_as_ever(values: np.ndarray):
    deep = np.array([values]).astype(np.uint16)
    shown, notes = from_16_bits(deep)
    np.testing.assert_array_equal(shown, deep >> 8)
    assert notes == ("16 bits per channel: the upper 8 are used",)


def test_nodata_of_16_bits():
    values = np.array([[65_535, 1000, 1500, 2000]], np.uint16)
    assert from_16_bits(values, nodata=65_535.0)[0].tolist() == [[0, 0, 128, 255]]


@pytest.mark.parametrize("marker", [-9999.0, -32768.0, np.nan, -3.4028235e38, 3.4028235e38])
def test_one_pixel_without_a_value_does_not_whiten_a_raster(marker: float):
    values = np.linspace(200, 300, 100).reshape(10, 10).astype(np.float32)
    plain, _ = from_raster(values)
    values[5, 5] = marker
    shown, notes = from_raster(values)
    assert shown[5, 5] == 0
    np.testing.assert_array_equal(np.delete(shown, 55), np.delete(plain, 55))
    assert notes == ("values from 200 to 300 are stretched to 0..255", "1 of 100 pixels hold no value, and are black")


def test_a_third_of_a_raster_without_values():
    values = np.array([[-9999, -9999, 1000, 1100, 1200, 1300]], np.int32)
    assert from_raster(values)[0].tolist() == [[0, 0, 0, 85, 170, 255]]


def test_a_single_spike_does_not_darken_a_raster():
    values = np.full((100, 100), 0.5, np.float32)
    values[:50] = 0.0
    values[3, 3] = 1e6
    shown, notes = from_raster(values)
    assert shown[80, 80] == 128 and shown[3, 3] == 255 and notes == ()


def test_upper_bits_alone():
    few, (note,) = stretch_upper_bits(np.array([[0, 8, 16]], np.uint8))
    assert few.tolist() == [[0, 128, 255]] and "only the upper 8 could be read: values from 0 to 16" in note
    many = np.array([[0, 8, 200]], np.uint8)
    assert stretch_upper_bits(many)[0] is many
