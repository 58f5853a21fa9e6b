import pytest
import torch
from torch import nn

from grounded.models.detectors.checkpoint import load_checkpoint
from grounded.models.detectors.fast.backbone import SharedBackbone, SplitNetwork
from tests.grounded import builders
from tests.grounded.models.detectors import tiny_models

IDS = torch.tensor([[101, 5, 6, 1012, 7, 8, 1012, 102]])
OTHER = torch.tensor([[101, 9, 1012, 10, 11, 12, 1012, 102]])


@pytest.fixture(scope="module", params=["grounding-dino", "mm-grounding-dino", "llmdet"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """Not to be changed. LLMDet has five feature maps, all but one of them from the backbone."""
    if request.param == "llmdet":
        return load_checkpoint(tiny_models.save_llmdet(tmp_path_factory.mktemp("llmdet"))).model
    return builders.detector_model(request.param)


def random_pixels(count: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 96), (57, 71)], ids=str)
def test_outputs_are_those_of_the_whole_network_bit_for_bit(model: nn.Module, size: tuple[int, int]):
    pixels, network = random_pixels(1, *size), SharedBackbone(model)
    with torch.inference_mode():
        features = network.encode_image(pixels)
        for ids in (IDS, OTHER, IDS):
            expected = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
            output = network.decode_prompts(features, ids, torch.ones_like(ids))
            assert torch.equal(output.logits, expected.logits)
            assert torch.equal(output.pred_boxes, expected.pred_boxes)


def test_images_and_prompts_in_any_combination(model: nn.Module):
    pixels, network = random_pixels(2), SharedBackbone(model)
    rows, ids = [1, 0, 1, 1], torch.cat([IDS, OTHER, OTHER, IDS])
    with torch.inference_mode():
        features = network.encode_image(pixels)
        output = network.decode_prompts([features[row] for row in rows], ids, torch.ones_like(ids))
        for i, row in enumerate(rows):
            alone = model(pixel_values=pixels[row : row + 1], input_ids=ids[i : i + 1])
            torch.testing.assert_close(output.logits[i], alone.logits[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(output.pred_boxes[i], alone.pred_boxes[0], rtol=1e-4, atol=1e-5)


def test_the_network_stays_as_it_is(model: nn.Module):
    children, network = dict(model.model.named_children()), SharedBackbone(model)
    with torch.inference_mode():
        features = network.encode_image(random_pixels(1))
        with pytest.raises(IndexError):
            network.decode_prompts(features, IDS.new_full((1, 4), 10**6), torch.ones(1, 4, dtype=torch.long))
        network.decode_prompts(features, IDS, torch.ones_like(IDS))
    assert dict(model.model.named_children()) == children


def test_protocol(model: nn.Module):
    assert isinstance(SharedBackbone(model), SplitNetwork)
    assert not isinstance(model, SplitNetwork)
