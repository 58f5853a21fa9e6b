"""The decoder for inference against `MaskDecoder`, which is tested against the public implementation."""

from dataclasses import replace

import pytest
import torch

from segany import Prompts, SegAny
from segany.fast.absorbed_attention import pays
from segany.fast.decoder import FastDecoder
from tests.segany import reference
from tests.segany.reference import PROMPT_KINDS, SMALL, assert_close

# Few heads, so that absorbed attention pays for a few tokens, as it does at the published sizes.
FEW_HEADS = replace(SMALL, decoder_heads=2, text_dim=24)
SIDE, GRID = SMALL.image_size, SMALL.grid_size
EVERYTHING = (GRID, GRID)


@pytest.fixture(scope="module")
def features():
    return torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model() -> SegAny:
    torch.manual_seed(0)
    return reference.perturb(SegAny(FEW_HEADS))


@pytest.fixture(scope="module")
def decoder(model) -> FastDecoder:
    with torch.no_grad():
        return FastDecoder(model)


def some_prompts(kind: str, n: int = 3) -> Prompts:
    random = torch.Generator().manual_seed(n)
    if kind == "text":
        return Prompts(text=torch.randn(n, 2, FEW_HEADS.text_dim, generator=random))
    if kind == "many points":  # so many tokens that absorbed attention no longer pays
        points = torch.rand(n, 40, 2, generator=random) * SIDE
        return Prompts(points=points, point_labels=torch.ones(n, 40, dtype=torch.int64))
    prompts = reference.random_prompts(kind.removesuffix(", padded"), n, (SIDE, SIDE), SMALL.low_res_size)
    if kind.endswith("padded") and prompts.point_labels is not None:
        prompts.point_labels[0, 1:] = -1
    return prompts


@torch.no_grad()
def answers(decoder: FastDecoder, features, prompts: Prompts, multimask_output: bool = True):
    parts = decoder.propose(features, decoder.share(features), prompts, multimask_output, EVERYTHING)
    wanted = torch.ones_like(parts.predicted_iou, dtype=torch.bool)
    return parts.low_res_logits(wanted).unflatten(0, wanted.shape), parts.predicted_iou


def test_both_forms_of_attention_are_tested(model):
    attention = model.mask_decoder.transformer.final_attn_token_to_image
    outputs = 1 + len(model.mask_decoder.output_hypernetworks_mlps)
    assert pays(outputs + 6, attention)  # three points, the token after them, and a box
    assert not pays(outputs + 41, attention)  # many points


KINDS = (*PROMPT_KINDS, "points, padded", "points and mask, padded", "text", "many points")


@pytest.mark.parametrize("multimask_output", [True, False], ids=["several masks", "one mask"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_answers_equal_those_of_the_mask_decoder(decoder, model, features, kind, multimask_output):
    prompts = some_prompts(kind)
    logits, predicted_iou = answers(decoder, features, prompts, multimask_output)
    expected_logits, expected_iou = model.decode(features, prompts, multimask_output)
    assert_close(logits, expected_logits, 1e-5)
    assert_close(predicted_iou, expected_iou, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_single_equals_batched(decoder, features, kind):
    prompts = some_prompts(kind, 4)
    together, _ = answers(decoder, features, prompts)
    assert_close(torch.cat([answers(decoder, features, prompt)[0] for prompt in prompts]), together, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_comes_near(model, features, kind):
    prompts = some_prompts(kind)
    logits, predicted_iou = answers(FastDecoder(model, torch.bfloat16), features, prompts)
    expected_logits, expected_iou = model.decode(features, prompts, True)
    assert logits.dtype == predicted_iou.dtype == torch.float32
    assert_close(logits, expected_logits, 0.05)
    assert_close(predicted_iou, expected_iou, 0.05)


@pytest.mark.parametrize("kind", ["points", "mask", "many points"])
@torch.no_grad()
def test_only_the_wanted_masks_of_the_visible_part(decoder, features, kind):
    prompts = some_prompts(kind, 4)
    whole, _ = answers(decoder, features, prompts)
    parts = decoder.propose(features, decoder.share(features), prompts, True, (11, 16))
    wanted = torch.tensor([[True, False, True], [False, False, False], [False, True, False], [True, True, True]])
    assert_close(parts.low_res_logits(wanted), whole[wanted][:, :44], 1e-6)
    nothing = parts.low_res_logits(torch.zeros_like(wanted))
    assert nothing.shape == (0, 44, 64)


@torch.no_grad()
def test_answers_do_not_change_what_is_shared(decoder, features):
    shared = decoder.share(features)
    before = [value.clone() for value in vars(shared).values()]
    for kind in ("points", "mask"):
        decoder.propose(features, shared, some_prompts(kind), True, EVERYTHING)
    assert all(torch.equal(a, b) for a, b in zip(before, vars(shared).values(), strict=True))


@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_other_depths(features, depth):
    torch.manual_seed(depth)
    model = reference.perturb(SegAny(replace(FEW_HEADS, encoder_depth=1, global_blocks=(), decoder_depth=depth)))
    prompts = some_prompts("box")
    logits, _ = answers(FastDecoder(model), features, prompts)
    assert_close(logits, model.decode(features, prompts, True)[0], 1e-5)
