import pytest
import torch
from torch import nn

from grounded.models.detectors.fast.backbone import BackboneFirst, TwoSteps
from tests.grounded import builders
from tests.grounded.models.detectors import tiny_models

IDS = torch.tensor([[101, 5, 6, 1012, 7, 8, 1012, 102]])
OTHER = torch.tensor([[101, 9, 1012, 10, 11, 12, 1012, 102]])


def llmdet(folder) -> nn.Module:
    """Five feature maps, all of them but one out of the backbone."""
    from grounded.models.detectors.checkpoint import load_parts

    return load_parts(tiny_models.save_llmdet(folder)).model


@pytest.fixture(params=["grounding-dino", "mm-grounding-dino", "llmdet"])
def model(request: pytest.FixtureRequest, tmp_path) -> nn.Module:
    return llmdet(tmp_path) if request.param == "llmdet" else builders.detector_model(request.param)


def pictures(count: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 96), (40, 64), (57, 71)], ids=str)
def test_answers_are_those_of_the_whole_network_bit_for_bit(model: nn.Module, size: tuple[int, int]):
    pixels, network = pictures(1, *size), BackboneFirst(model)
    with torch.inference_mode():
        seen = network.look(pixels)
        for ids in (IDS, OTHER, IDS):
            expected = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
            answer = network.search(seen, ids, torch.ones_like(ids))
            assert torch.equal(answer.logits, expected.logits)
            assert torch.equal(answer.pred_boxes, expected.pred_boxes)


def test_pictures_and_prompts_in_any_combination(model: nn.Module):
    pixels, network = pictures(2), BackboneFirst(model)
    rows, ids = [1, 0, 1, 1], torch.cat([IDS, OTHER, OTHER, IDS])
    with torch.inference_mode():
        seen = network.look(pixels)
        answer = network.search([seen[row] for row in rows], ids, torch.ones_like(ids))
        for i, row in enumerate(rows):
            alone = model(pixel_values=pixels[row : row + 1], input_ids=ids[i : i + 1])
            torch.testing.assert_close(answer.logits[i], alone.logits[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(answer.pred_boxes[i], alone.pred_boxes[0], rtol=1e-4, atol=1e-5)


def test_the_network_stays_as_it_is(model: nn.Module):
    children, network = dict(model.model.named_children()), BackboneFirst(model)
    with torch.inference_mode():
        seen = network.look(pictures(1))
        with pytest.raises(IndexError):
            network.search(seen, IDS.new_full((1, 4), 10**6), torch.ones(1, 4, dtype=torch.long))
        network.search(seen, IDS, torch.ones_like(IDS))
    assert dict(model.model.named_children()) == children


def test_who_has_two_steps(model: nn.Module):
    assert isinstance(BackboneFirst(model), TwoSteps)
    assert not isinstance(model, TwoSteps)
