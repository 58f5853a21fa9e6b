"""Open-vocabulary detectors, one file for each family. A family is imported only when a configuration names it.

A new family is a file here with a class that follows the `Detector` protocol, a name in `KINDS`, and a branch in
`build` and `locate`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from grounded.config import DetectorConfig
from grounded.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from grounded.data.protocols import Detector, Segmenter, TextEncoder
    from segany.hub import HubModel

KINDS = ("grounding-dino", "groundingdino-py", "owl", "one-stage")


def build(
    config: DetectorConfig,
    device: "str | torch.device" = "cpu",
    segmenter: "Segmenter | None" = None,
    text_encoder: "TextEncoder | None" = None,
) -> "Detector":
    """Load the detector that `config` describes onto `device`.

    Args:
        config: of the detector.
        device: where it runs.
        segmenter: whose embeddings a one-stage detector works on.
        text_encoder: which embeds phrases for it.

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
    if config.kind == "one-stage":
        from grounded.models.detectors.one_stage import OneStage
        from segany import Predictor

        locate(config)  # before what else may be missing
        if not isinstance(segmenter, Predictor) or text_encoder is None:
            raise ConfigError("a one-stage detector works on the embeddings of a segmenter of kind segany, and of CLIP")
        return OneStage.from_pretrained(config.checkpoint, segmenter, text_encoder, config)
    raise ConfigError(f"detector kind must be one of {', '.join(KINDS)}, got {config.kind!r}")


def locate(config: DetectorConfig) -> "Path | HubModel":
    """Return where the checkpoint of `config` is: a local file or folder, or a repository that may need a download.

    Raises:
        ConfigError: `config.kind` is unknown, or there are no such bundled weights.
        CheckpointError: a local file or folder is missing.
    """
    if config.kind == "groundingdino-py":
        from grounded.models.detectors.original.checkpoint import find_file

        return find_file(config.checkpoint)
    if config.kind in ("grounding-dino", "owl"):
        from grounded.models.detectors import checkpoint

        family = checkpoint.OWL if config.kind == "owl" else checkpoint.GROUNDING_DINO
        return checkpoint.locate(config.checkpoint, family)
    if config.kind == "one-stage":
        from grounded.models.detectors import one_stage

        return one_stage.locate(config.checkpoint)
    raise ConfigError(f"detector kind must be one of {', '.join(KINDS)}, got {config.kind!r}")
