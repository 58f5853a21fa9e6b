"""Open-vocabulary detectors. Each file wraps one family and is imported only when it is asked for."""

from typing import TYPE_CHECKING

from grounded.errors import ConfigError
from grounded.settings import DetectorConfig

if TYPE_CHECKING:
    import torch

    from grounded.data.protocols import Detector

KINDS = ("grounding-dino", "groundingdino-py", "owl")


def build(config: DetectorConfig, device: "str | torch.device" = "cpu") -> "Detector":
    """Load the detector that `config` describes onto `device`.

    Raises:
        ConfigError: `config.kind` is unknown, its package is not installed, or there are no such bundled weights.
        CheckpointError: the checkpoint cannot be read completely.
    """
    if config.kind == "grounding-dino":
        from grounded.models.detectors.grounding_dino import GroundingDino

        return GroundingDino.from_pretrained(config.checkpoint, config, device)
    if config.kind == "groundingdino-py":
        from grounded.models.detectors.original import package

        return package.load(config.checkpoint, config, device, tokenizer=config.tokenizer)
    if config.kind == "owl":
        from grounded.models.detectors.owl import Owl

        return Owl.from_pretrained(config.checkpoint, config, device)
    raise ConfigError(f"detector kind must be one of {', '.join(KINDS)}, got {config.kind!r}")
