"""Configuration -> models on a device. Libraries that a mode does not use are not imported."""

from typing import TYPE_CHECKING

import torch

import segany
from grounded.config import bundled_name
from grounded.data.protocols import Detector, RegionScorer, Segmenter
from grounded.errors import ConfigError
from grounded.settings import PipelineConfig

if TYPE_CHECKING:
    from grounded.models.clip import ClipTextEncoder
    from grounded.models.dense_clip import DenseClip


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: PyTorch knows no such device, or has none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not available here: {str(error).splitlines()[0]}") from error
    return device


def load_detector(config: PipelineConfig, device: torch.device) -> Detector:
    """Load the detector of `config.detector`."""
    from grounded.models import detectors

    return detectors.build(config.detector, device)


def load_clip(config: PipelineConfig, device: torch.device) -> "ClipTextEncoder":
    """Load the CLIP model of `config.clip`, which serves the text prompt and the scores alike."""
    from grounded.models.clip import ClipTextEncoder

    return ClipTextEncoder.from_pretrained(config.clip.checkpoint, templates=config.clip.templates, device=device)


def region_scorer(clip: "ClipTextEncoder", config: PipelineConfig) -> RegionScorer:
    """CLIP as a judge of masks, by `config.scoring`."""
    from grounded.models.clip_scorer import ClipRegionScorer

    return ClipRegionScorer(clip, config.scoring)


def dense_clip(clip: "ClipTextEncoder", config: PipelineConfig) -> "DenseClip":
    """CLIP as a text prompt for segmenters that have none, by `config.scoring`."""
    from grounded.models.dense_clip import DenseClip

    return DenseClip(clip, config.scoring)


def load_segmenter(config: PipelineConfig, device: torch.device) -> Segmenter:
    """Load the segmenter of `config.segmenter`."""
    source = bundled_name(config.segmenter.checkpoint) or config.segmenter.checkpoint
    model = segany.load(source, device=device, dtype=config.segmenter.dtype)
    return segany.Predictor(model, compile=config.segmenter.compile)
