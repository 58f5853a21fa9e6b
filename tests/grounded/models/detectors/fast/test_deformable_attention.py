import pytest
import torch
from torch import Tensor, nn
from transformers.models.grounding_dino.modeling_grounding_dino import MultiScaleDeformableAttention

from grounded.models.detectors.checkpoint import load_checkpoint
from grounded.models.detectors.fast.deformable_attention import (
    GatheredDeformableAttention,
    replace_deformable_attention,
)
from tests.grounded import builders

SHAPES = [(9, 14), (5, 7), (1, 3), (1, 1)]


def inputs(batch: int, queries: int, spread: float = 1.3, shapes: list[tuple[int, int]] = SHAPES) -> tuple:
    """Random arguments; locations reach beyond the maps for a `spread` over 1."""
    generator = torch.Generator().manual_seed(0)
    heads, width, points = 2, 8, 3
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(batch, cells, heads, width, generator=generator)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * spread
    locations = locations - (spread - 1) / 2
    weights = torch.rand(batch, queries, heads, len(shapes) * points, generator=generator).softmax(-1)
    return value, None, shapes, None, locations, weights.unflatten(-1, (len(shapes), points)), 64


def modules() -> tuple[nn.Module, nn.Module]:
    return MultiScaleDeformableAttention().eval(), GatheredDeformableAttention().eval()


@pytest.mark.parametrize("spread", [0.9, 1.3, 20.0], ids=["inside", "at the borders", "far outside"])
def test_sums_are_those_of_the_plain_form(spread: float):
    plain, gathered = modules()
    for batch, queries in ((1, 1), (3, 50), (2, 1500)):  # the last is more than a chunk
        given = inputs(batch, queries, spread)
        torch.testing.assert_close(gathered(*given), plain(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [[(4, 4)], [(1, 1)], [(1, 6), (6, 1)]], ids=str)
def test_maps_of_odd_shapes(shapes: list[tuple[int, int]]):
    plain, gathered = modules()
    given = inputs(2, 40, 1.5, shapes)
    torch.testing.assert_close(gathered(*given), plain(*given), rtol=1e-4, atol=1e-5)


def test_single_places():
    """Borders, centres, and so far outside that no cell has such a number."""
    plain, gathered = modules()
    value, *between, locations, weights, step = inputs(1, 4)
    for place in (0.0, 0.5, 1.0, -0.25, 1.25, 1e9, -1e9):
        given = (value, *between, torch.full_like(locations, place), weights, step)
        torch.testing.assert_close(gathered(*given), plain(*given), rtol=1e-4, atol=1e-5)


def test_nan_stays_nan():
    _, gathered = modules()
    value, *between, locations, weights, step = inputs(1, 4)
    locations[0, 1] = torch.nan
    sums = gathered(value, *between, locations, weights, step)
    assert sums[0, 1].isnan().all() and sums[0, [0, 2, 3]].isfinite().all()


def test_gradients():
    grads = []
    for module in modules():
        value, *between, locations, weights, step = inputs(2, 30)
        leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
        module(leaves[0], *between, *leaves[1:], step).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for actual, expected in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("why", ["training", "half precision"])
def test_the_plain_form_is_used(why: str):
    plain, gathered = (module.train(why == "training") for module in modules())
    dtype = torch.float32 if why == "training" else torch.bfloat16
    given = [value.to(dtype) if isinstance(value, Tensor) else value for value in inputs(1, 20)]
    assert torch.equal(gathered(*given), plain(*given))


@pytest.mark.parametrize("family", ["grounding-dino", "mm-grounding-dino"])
def test_every_sampling_is_replaced(family: str):
    model = builders.detector_model(family)
    names = list(model.state_dict())
    replace_deformable_attention(model)
    found = [module for module in model.modules() if type(module).__name__ == "MultiScaleDeformableAttention"]
    assert found == []
    replaced = [module for module in model.modules() if isinstance(module, GatheredDeformableAttention)]
    assert len(replaced) == 3  # one encoder, two decoders
    assert list(model.state_dict()) == names


def test_the_bundled_detector_gives_the_same():
    plain, gathered = (load_checkpoint("bundled:detector").model for _ in range(2))
    replace_deformable_attention(gathered)
    given = {
        "pixel_values": torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0)),
        "input_ids": torch.tensor([[101, 5, 6, 1012, 7, 8, 1012, 102]]),
    }
    with torch.inference_mode():
        expected, actual = plain(**given), gathered(**given)
    finite = expected.logits.isfinite()
    assert (actual.logits - expected.logits)[finite].abs().max() <= 1e-4 * expected.logits[finite].abs().max()
    assert (actual.pred_boxes - expected.pred_boxes).abs().max() <= 1e-4
