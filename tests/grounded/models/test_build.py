from dataclasses import replace

import pytest
import torch

import segany
from grounded import Pipeline, config
from grounded.errors import ConfigError
from grounded.models.build import load_segmenter, pick_device
from grounded.models.checkpoints import hash_checkpoints, resolve_models
from tests.data import ROOT

PICNIC = ROOT / "examples" / "picnic.png"


@pytest.fixture(scope="module")
def sam_hq(tmp_path_factory):
    """A SAM-HQ on top of the bundled weights, with a mask of its own that is zero everywhere."""
    bundled = segany.load("tiny")
    model = segany.SegAny(replace(bundled.config, hq=True)).eval()
    model.load_state_dict(bundled.state_dict(), strict=False)
    for parameter in model.mask_decoder.hf_mlp.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    path = tmp_path_factory.mktemp("sam_hq") / "sam_hq.safetensors"
    segany.save(model, path, torch.float32)
    return path


def test_auto():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_named():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gpu", id="not a device"),
        pytest.param("", id="empty"),
        pytest.param("cuda:99", id="not here"),
        pytest.param("meta", id="without arithmetic"),
    ],
)
def test_not_available(name: str):
    with pytest.raises(ConfigError, match=f"device '{name}' is not available here: expected one of cpu") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


class TestSegmenter:
    """A configuration passes on what changes the checkpoint."""

    def test_a_decoder_and_an_adapter(self, tmp_path):
        model = segany.load("tiny")
        with torch.no_grad():
            model.mask_decoder.iou_token.weight.add_(1)
        torch.save(model.mask_decoder.state_dict(), tmp_path / "decoder.pth")
        dim, depth = model.config.encoder_dim, model.config.encoder_depth
        pairs = {f"w_a_{number:03d}": torch.zeros(4, dim) for number in range(2 * depth)}
        pairs |= {f"w_b_{number:03d}": torch.zeros(dim, 4) for number in range(2 * depth)}
        torch.save(pairs, tmp_path / "adapter.pth")
        changes = {"decoder": str(tmp_path / "decoder.pth"), "adapter": str(tmp_path / "adapter.pth")}
        settings = config.override(config.load("tiny"), segmenter=changes)
        assert load_segmenter(settings, torch.device("cpu")).fingerprint == model.fingerprint()
        used = resolve_models(settings)["segmenter"]
        assert used == f"bundled:tiny + {tmp_path / 'decoder.pth'} + {tmp_path / 'adapter.pth'}"
        before = hash_checkpoints(settings)["segmenter"]
        torch.save({**pairs, "w_a_000": torch.ones(4, dim)}, tmp_path / "adapter.pth")
        assert hash_checkpoints(settings)["segmenter"] != before

    def test_the_token_of_sam_hq_alone(self, sam_hq):
        settings = config.override(config.load("tiny"), segmenter={"checkpoint": str(sam_hq), "hq_token_only": True})
        assert load_segmenter(settings, torch.device("cpu")).model.config.hq_token_only

    @pytest.mark.slow
    def test_a_pipeline_with_sam_hq(self, sam_hq):
        """Its own mask is zero here, so the sum is the mask of the bundled weights."""
        plain, fine = (
            Pipeline.from_config("tiny", **changes) for changes in ({}, {"segmenter": {"checkpoint": str(sam_hq)}})
        )
        expected, instances = (pipeline.segment(PICNIC, "a dog. pizza") for pipeline in (plain, fine))
        assert list(instances.labels) == list(expected.labels)
        assert len(instances) > 0
        assert (instances.masks == expected.masks).mean() > 0.999  # but for rounding, in another order
