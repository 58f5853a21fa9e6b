from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from transformers import GroundingDinoConfig, MMGroundingDinoConfig
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoBiMultiHeadAttention
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import MMGroundingDinoBiMultiHeadAttention

from grounded.models.detectors.checkpoint import load_checkpoint
from grounded.models.detectors.fast.bi_attention import AbsorbedBiAttention, replace_bi_attention
from tests.grounded import builders

FAMILIES = {
    "grounding-dino": (GroundingDinoBiMultiHeadAttention, GroundingDinoConfig),
    "mm-grounding-dino": (MMGroundingDinoBiMultiHeadAttention, MMGroundingDinoConfig),
}
# Heads as wide as the features, as published, and narrower ones.
SIZES = {"published": {"d_model": 256, "encoder_ffn_dim": 2048}, "narrow": {"d_model": 64, "encoder_ffn_dim": 96}}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def plain_attention(family: str, **sizes: int) -> nn.Module:
    """Random weights and biases which make logits that spread."""
    attention, config = FAMILIES[family]
    torch.manual_seed(0)
    module = attention(config(**{**SIZES["narrow"], "encoder_attention_heads": 8, "fusion_dropout": 0.5, **sizes}))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.06)
    return module.eval()


def inputs(batch: int, locations: int, tokens: int, width: int, pads: tuple[int, int]) -> tuple[Tensor, ...]:
    """Features of images and texts and their masks; `pads` locations and tokens at the ends of every other row."""
    generator = torch.Generator().manual_seed(1)
    vision, text = (torch.randn(batch, n, width, generator=generator) for n in (locations, tokens))
    masks = [torch.zeros(batch, n, dtype=torch.bool) for n in (locations, tokens)]
    for mask, count in zip(masks, pads, strict=True):
        mask[::2, mask.shape[1] - count :] = True
    return vision, text, *masks


def flat(output: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    (image, over_text), (text, over_image) = output
    return {"image": image, "over text": over_text, "text": text, "over image": over_image}


def assert_alike(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    for name, value in expected.items():
        assert actual[name].shape == value.shape and actual[name].dtype == value.dtype, name
        assert value.std() > 0
        assert (actual[name] - value).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_outputs_and_weights_are_those_of_the_plain_form(family: str, sizes: dict):
    plain = plain_attention(family, **sizes)
    absorbed = AbsorbedBiAttention(plain)
    assert absorbed.is_cheaper(150, 9)
    for pads in ((0, 0), (0, 2), (30, 0), (30, 3)):
        given = inputs(3, 150, 9, sizes["d_model"], pads)
        with torch.inference_mode():
            assert_alike(flat(absorbed(*given)), flat(plain(*given)))


def test_without_masks(family: str):
    plain = plain_attention(family)
    vision, text, *_ = inputs(2, 100, 5, 64, (0, 0))
    with torch.inference_mode():
        assert_alike(flat(AbsorbedBiAttention(plain)(vision, text)), flat(plain(vision, text)))


def test_single_equals_batched():
    absorbed = AbsorbedBiAttention(plain_attention("grounding-dino"))
    given = inputs(4, 100, 6, 64, (10, 2))
    with torch.inference_mode():
        together = absorbed(*given)
        for i in range(4):
            alone = absorbed(*(value[i : i + 1] for value in given))
            torch.testing.assert_close(alone[0][0][0], together[0][0][i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone[1][0][0], together[1][0][i], rtol=1e-4, atol=1e-5)


def test_logits_far_apart(family: str):
    """Far below the highest logit the plain form cuts, so that weights come out even: the same here.

    In double precision, because such logits have no digits behind the point otherwise.
    """
    plain = plain_attention(family).double()
    vision, text, *masks = inputs(2, 100, 5, 64, (0, 1))
    vision, text = vision.double() * 1e4, text.double() * 1e3
    with torch.inference_mode():
        expected = flat(plain(vision, text, *masks))
        assert_alike(flat(AbsorbedBiAttention(plain)(vision, text, *masks)), expected)
    largest = expected["over text"].amax(dim=-1)
    assert (largest == 0.2).any() and (largest > 0.99).any()  # some are cut, some are not


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype):
    plain = plain_attention("grounding-dino").to(dtype)
    vision, text, *masks = inputs(2, 100, 5, 64, (7, 1))
    with torch.inference_mode():
        actual = flat(AbsorbedBiAttention(plain)(vision.to(dtype), text.to(dtype), *masks))
        assert_alike(actual, flat(plain(vision.to(dtype), text.to(dtype), *masks)), 0.05)


def test_gradients():
    """In eval mode, where the absorbed form is used."""
    plain = plain_attention("grounding-dino")
    absorbed = AbsorbedBiAttention(deepcopy(plain))
    given = inputs(2, 100, 5, 64, (7, 1))
    for module in (plain, absorbed):
        (image, _), (text, _) = module(*given)
        (image.square().sum() + text.square().sum()).backward()
    largest = max(parameter.grad.abs().max() for parameter in plain.parameters())
    for name, parameter in plain.named_parameters():
        assert (absorbed.get_parameter(name).grad - parameter.grad).abs().max() <= 1e-4 * largest, name


@pytest.mark.parametrize("why", ["training", "long prompt"])
def test_the_plain_form_is_used(family: str, why: str):
    """While training for its dropout, and where there are more tokens than locations."""
    plain = plain_attention(family)
    absorbed = AbsorbedBiAttention(plain)
    given = inputs(2, 100, 5, 64, (7, 1)) if why == "training" else inputs(2, 6, 40, 64, (0, 2))
    outputs = []
    for module in (plain, absorbed):
        torch.manual_seed(3)
        outputs.append(flat(module.train(why == "training")(*given)))
    for name, value in outputs[0].items():
        assert torch.equal(outputs[1][name], value), name


@pytest.mark.parametrize(
    ("sizes", "locations", "tokens", "expected"),
    [
        pytest.param(SIZES["published"], 17821, 256, True, id="published, the longest prompt"),
        pytest.param(SIZES["published"], 100, 99, True, id="published, fewer tokens than locations"),
        pytest.param(SIZES["published"], 100, 100, False, id="published, as many"),
        pytest.param(SIZES["narrow"], 10000, 14, True, id="narrow heads, few tokens"),
        pytest.param(SIZES["narrow"], 10000, 16, False, id="narrow heads, more tokens"),
    ],
)
def test_where_absorbing_is_cheaper(sizes: dict, locations: int, tokens: int, expected: bool):
    assert AbsorbedBiAttention(plain_attention("grounding-dino", **sizes)).is_cheaper(locations, tokens) is expected


def test_a_model_keeps_its_parameters(family: str):
    model = builders.detector_model(family)
    before = {name: parameter.data_ptr() for name, parameter in model.state_dict(keep_vars=True).items()}
    replace_bi_attention(model)
    replace_bi_attention(model)  # nothing more to do
    replaced = [module for module in model.modules() if type(module).__name__.endswith("BiMultiHeadAttention")]
    assert replaced == [] and any(isinstance(module, AbsorbedBiAttention) for module in model.modules())
    assert {name: parameter.data_ptr() for name, parameter in model.state_dict(keep_vars=True).items()} == before


def test_another_network_is_left_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    replace_bi_attention(network)
    assert [type(module) for module in network] == [nn.Linear, nn.ReLU]


def test_the_bundled_detector_gives_the_same():
    plain = load_checkpoint("bundled:detector").model
    absorbed = load_checkpoint("bundled:detector").model
    replace_bi_attention(absorbed)
    generator = torch.Generator().manual_seed(0)
    given = {
        "pixel_values": torch.randn(2, 3, 96, 128, generator=generator),
        "input_ids": torch.tensor([[101, 5, 6, 1012, 7, 8, 1012, 102], [101, 9, 1012, 102, 0, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 8, [1] * 4 + [0] * 4]),
    }
    with torch.inference_mode():
        expected = plain(**given, output_attentions=True)
        actual = absorbed(**given, output_attentions=True)
    finite = expected.logits.isfinite()
    assert torch.equal(actual.logits.isfinite(), finite)
    assert (actual.logits - expected.logits)[finite].abs().max() <= 1e-4 * expected.logits[finite].abs().max()
    assert (actual.pred_boxes - expected.pred_boxes).abs().max() <= 1e-4
    for kind, other in zip(actual.encoder_attentions, expected.encoder_attentions, strict=True):
        for weights, others in zip(kind, other, strict=True):
            torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-5)
