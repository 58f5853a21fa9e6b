import pytest
import torch

import segany
from segany.precision import computes_in_bfloat16, resolve_dtype


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_explicit(dtype, expected):
    for device in (None, "cpu", "meta", torch.device("cpu")):
        assert resolve_dtype(dtype, device) is expected


@pytest.mark.parametrize("device", [None, "cpu", "meta"], ids=str)
def test_auto_is_bfloat16_where_it_is_native(device):
    expected = torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    assert resolve_dtype("auto", device) is expected


def test_unknown_devices_do_not_compute_in_bfloat16():
    assert not computes_in_bfloat16("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu():
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert computes_in_bfloat16("cuda") == native


@pytest.mark.parametrize("dtype", ["half", "bf16", "", "AUTO", torch.int8], ids=str)
def test_others_are_refused(dtype):
    with pytest.raises(ValueError, match=r"dtype must be .*, got"):
        resolve_dtype(dtype)


def test_load_resolves_it_for_the_encoder():
    model = segany.load("tiny", dtype="auto")
    assert {parameter.dtype for parameter in model.image_encoder.parameters()} == {resolve_dtype("auto")}
    assert {parameter.dtype for parameter in model.mask_decoder.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match=r"dtype must be .*, got 'half'"):
        segany.load("tiny", dtype="half")
