"""Promptable segmenters by kind, one file for each besides segany's own. A library is imported only when it is used."""

from typing import TYPE_CHECKING

from grounded.config import SegmenterConfig, bundled_name

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from grounded.data.protocols import Segmenter
    from segany.hub import HubModel


def build(config: SegmenterConfig, device: "str | torch.device" = "cpu") -> "Segmenter":
    """Load the segmenter that `config` describes onto `device`.

    Raises:
        ConfigError: there are no such bundled weights.
        CheckpointError: the checkpoint cannot be read completely.
    """
    if config.kind == "sam2":
        from grounded.models.segmenters.sam2 import Sam2Segmenter

        return Sam2Segmenter.from_pretrained(config.checkpoint, device, config.dtype, config.compile)
    import segany

    model = segany.load(
        bundled_name(config.checkpoint) or config.checkpoint,
        device=device,
        dtype=config.dtype,
        decoder=config.decoder,
        adapter=config.adapter,
        text_adapter=config.text_adapter,
        hq_token_only=config.hq_token_only,
    )
    return segany.Predictor(model, compile=config.compile)


def locate(config: SegmenterConfig) -> "Path | HubModel":
    """Return where the checkpoint of `config` is: a local file or folder, or a repository that may need a download.

    Raises:
        ConfigError: there are no such bundled weights.
        CheckpointError: a local file or folder is missing.
    """
    if config.kind == "sam2":
        from grounded.models import sam2_checkpoint

        return sam2_checkpoint.locate(config.checkpoint, sam2_checkpoint.SAM2_IMAGE)
    from segany import checkpoint

    return checkpoint.locate(bundled_name(config.checkpoint) or config.checkpoint)
