"""From a configuration to models on a device. Libraries of models that a mode does not use are not imported."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grounded.config import PipelineConfig
from grounded.data.protocols import Detector, RegionScorer, Segmenter, TextEncoder
from grounded.errors import ConfigError
from segany.device import find_device
from segany.errors import DeviceError

if TYPE_CHECKING:
    from grounded.models.clip import ClipEncoder
    from grounded.models.dense_clip import DenseClip

_LOCAL_CLIP = "local-dir:"  # open_clip's prefix for a folder


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: PyTorch knows no such device, or has none here.
    """
    try:
        return find_device(name)
    except DeviceError as error:
        raise ConfigError(str(error)) from error


def resolve_paths(config: PipelineConfig) -> PipelineConfig:
    """Return `config` with absolute paths of checkpoints, for a process with another working directory."""

    def absolute(path: str) -> str:
        return str(Path(path).resolve()) if Path(path).exists() else path

    tokenizer, clip = config.detector.tokenizer, config.clip.checkpoint
    prefix = _LOCAL_CLIP if clip.startswith(_LOCAL_CLIP) else ""
    return replace(
        config,
        detector=replace(
            config.detector,
            checkpoint=absolute(config.detector.checkpoint),
            tokenizer=None if tokenizer is None else absolute(tokenizer),
        ),
        clip=replace(config.clip, checkpoint=prefix + absolute(clip.removeprefix(prefix))),
        segmenter=replace(
            config.segmenter,
            checkpoint=absolute(config.segmenter.checkpoint),
            decoder=config.segmenter.decoder and absolute(config.segmenter.decoder),
            adapter=config.segmenter.adapter and absolute(config.segmenter.adapter),
            text_adapter=config.segmenter.text_adapter and absolute(config.segmenter.text_adapter),
        ),
        video=replace(config.video, checkpoint=absolute(config.video.checkpoint)),
    )


def load_detector(
    config: PipelineConfig,
    device: torch.device,
    segmenter: Segmenter | None = None,
    text_encoder: TextEncoder | None = None,
) -> Detector:
    """Load the detector of `config.detector`, which may work on what other models give."""
    from grounded.models import detectors

    return detectors.build(config.detector, device, segmenter, text_encoder)


def load_detector_and_segmenter(
    config: PipelineConfig, device: torch.device, clip: "ClipEncoder | None", needs_detector: bool
) -> tuple[Detector | None, Segmenter]:
    """Load both, the detector first, whose absence is the likeliest, unless it works on the segmenter's embeddings."""
    is_last = config.detector.works_on_embeddings
    detector = load_detector(config, device) if needs_detector and not is_last else None
    segmenter = load_segmenter(config, device)
    if needs_detector and is_last:
        detector = load_detector(config, device, segmenter, clip)
    return detector, segmenter


def load_clip(config: PipelineConfig, device: torch.device) -> "ClipEncoder":
    """Load the CLIP model of `config.clip`, which serves text prompts and scores alike."""
    from grounded.models.clip import ClipEncoder

    return ClipEncoder.from_pretrained(config.clip.checkpoint, templates=config.clip.templates, device=device)


def region_scorer(clip: "ClipEncoder", config: PipelineConfig) -> RegionScorer:
    """Return the scorer of masks by `clip` and `config.scoring`."""
    from grounded.models.clip_scorer import ClipRegionScorer

    return ClipRegionScorer(clip, config.scoring)


def dense_clip(clip: "ClipEncoder", config: PipelineConfig) -> "DenseClip":
    """Return the text prompt by `clip` and `config.scoring` for segmenters that have none of their own."""
    from grounded.models.dense_clip import DenseClip

    return DenseClip(clip, config.scoring)


def load_segmenter(config: PipelineConfig, device: torch.device) -> Segmenter:
    """Load the segmenter of `config.segmenter`."""
    from grounded.models import segmenters

    return segmenters.build(config.segmenter, device)
