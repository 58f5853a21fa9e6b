"""The decoder for inference against `MaskDecoder`, which is tested against the public implementation."""

from dataclasses import replace

import pytest
import torch

from segany import Prompts, SegAny
from segany.fast.absorbed_attention import is_absorbing_cheaper
from segany.fast.decoder import FastDecoder
from tests.segany import reference
from tests.segany.reference import PROMPT_KINDS, SMALL, assert_close

# Few heads, so that absorbed attention is cheaper for a few tokens, as it does at the published sizes.
FEW_HEADS = replace(SMALL, decoder_heads=2, text_dim=24)
SIDE, GRID = SMALL.image_size, SMALL.grid_size
WHOLE_FRAME = (GRID, GRID)


@pytest.fixture(scope="module")
def features():
    return torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=[False, True], ids=["", "dense prompts"])
def model(request) -> SegAny:
    torch.manual_seed(0)
    return reference.perturb(SegAny(replace(FEW_HEADS, dense_prompts=request.param)))


@pytest.fixture(scope="module")
def decoder(model) -> FastDecoder:
    with torch.no_grad():
        return FastDecoder(model)


def some_prompts(kind: str, n: int = 3) -> Prompts:
    random = torch.Generator().manual_seed(n)
    if kind == "text":
        return Prompts(text=torch.randn(n, 2, FEW_HEADS.text_dim, generator=random))
    if kind == "many points":  # so many tokens that absorbed attention is no longer cheaper
        points = torch.rand(n, 40, 2, generator=random) * SIDE
        return Prompts(points=points, point_labels=torch.ones(n, 40, dtype=torch.int64))
    prompts = reference.random_prompts(kind.removesuffix(", padded"), n, (SIDE, SIDE), SMALL.low_res_size)
    if kind.endswith("padded") and prompts.point_labels is not None:
        prompts.point_labels[0, 1:] = -1
    return prompts


@torch.no_grad()
def predict(decoder: FastDecoder, features, prompts: Prompts, multimask_output: bool = True):
    shared = decoder.project_image(features)
    prediction = decoder.predict_deferred(features, shared, prompts, multimask_output, WHOLE_FRAME)
    every_mask = torch.ones_like(prediction.predicted_iou, dtype=torch.bool)
    return prediction.low_res_logits(every_mask).unflatten(0, every_mask.shape), prediction.predicted_iou


def test_both_forms_of_attention_are_tested(model):
    attention = model.mask_decoder.transformer.final_attn_token_to_image
    outputs = 1 + len(model.mask_decoder.output_hypernetworks_mlps)
    assert is_absorbing_cheaper(outputs + 6, attention)  # three points, the token after them, and a box
    assert not is_absorbing_cheaper(outputs + 41, attention)  # many points


KINDS = (*PROMPT_KINDS, "points, padded", "points and mask, padded", "text", "many points")


@pytest.mark.parametrize("multimask_output", [True, False], ids=["several masks", "one mask"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_predictions_equal_those_of_the_mask_decoder(decoder, model, features, kind, multimask_output):
    prompts = some_prompts(kind)
    logits, predicted_iou = predict(decoder, features, prompts, multimask_output)
    expected_logits, expected_iou = model.decode(features, prompts, multimask_output)
    assert_close(logits, expected_logits, 1e-5)
    assert_close(predicted_iou, expected_iou, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_single_equals_batched(decoder, features, kind):
    prompts = some_prompts(kind, 4)
    together, _ = predict(decoder, features, prompts)
    assert_close(torch.cat([predict(decoder, features, prompt)[0] for prompt in prompts]), together, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_comes_near(model, features, kind):
    prompts = some_prompts(kind)
    logits, predicted_iou = predict(FastDecoder(model, torch.bfloat16), features, prompts)
    expected_logits, expected_iou = model.decode(features, prompts, True)
    assert logits.dtype == predicted_iou.dtype == torch.float32
    assert_close(logits, expected_logits, 0.05)
    assert_close(predicted_iou, expected_iou, 0.05)


@pytest.mark.parametrize("kind", ["points", "mask", "many points"])
@torch.no_grad()
def test_only_selected_masks_of_the_visible_part(decoder, features, kind):
    prompts = some_prompts(kind, 4)
    whole, _ = predict(decoder, features, prompts)
    prediction = decoder.predict_deferred(features, decoder.project_image(features), prompts, True, (11, 16))
    selected = torch.tensor([[True, False, True], [False, False, False], [False, True, False], [True, True, True]])
    assert_close(prediction.low_res_logits(selected), whole[selected][:, :44], 1e-6)
    nothing = prediction.low_res_logits(torch.zeros_like(selected))
    assert nothing.shape == (0, 44, 64)


@torch.no_grad()
def test_decoding_does_not_change_the_shared_image(decoder, features):
    shared = decoder.project_image(features)
    before = [value.clone() for value in vars(shared).values()]
    for kind in ("points", "mask"):
        decoder.predict_deferred(features, shared, some_prompts(kind), True, WHOLE_FRAME)
    assert all(torch.equal(a, b) for a, b in zip(before, vars(shared).values(), strict=True))


@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_other_depths(features, depth):
    torch.manual_seed(depth)
    model = reference.perturb(SegAny(replace(FEW_HEADS, encoder_depth=1, global_blocks=(), decoder_depth=depth)))
    prompts = some_prompts("box")
    logits, _ = predict(FastDecoder(model), features, prompts)
    assert_close(logits, model.decode(features, prompts, True)[0], 1e-5)
