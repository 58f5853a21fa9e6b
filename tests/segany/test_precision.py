from dataclasses import replace

import pytest
import torch

import segany
from segany.precision import computes_in_bfloat16, own_precision, resolve_dtype
from tests.data import PICNIC
from tests.surroundings import autocast, default_float64


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


@pytest.mark.parametrize("surroundings", [autocast, default_float64, torch.inference_mode])
def test_masks_do_not_depend_on_the_precision_around(surroundings):
    predictor = segany.Predictor(segany.load("tiny"))
    prompts = segany.Prompts(points=torch.tensor([[[470.0, 270.0]]]), point_labels=torch.tensor([[1]]))

    def predict() -> tuple[torch.Tensor, torch.Tensor]:
        embedding = predictor.encode(PICNIC)
        mask_prompt = predictor.mask_prompts(embedding, predictor.predict(embedding, prompts).masks[:, 0])
        prediction = predictor.predict(embedding, replace(prompts, masks=mask_prompt))
        (deferred,) = predictor.predict_deferred(embedding, prompts)
        logits = deferred.low_res_logits(torch.ones(1, 3, dtype=torch.bool))
        return prediction.logits, logits

    expected = predict()
    with surroundings():
        found = predict()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_threads_that_enter_together_leave_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        first, second = own_precision(), own_precision()
        with first:
            second.__enter__()
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32, "the second is still inside"
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
