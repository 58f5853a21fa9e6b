"""From a configuration to models on a device. Libraries of models that a mode does not use are not imported."""

from typing import TYPE_CHECKING

import torch

import segany
from grounded.config import PipelineConfig, bundled_name
from grounded.data.protocols import Detector, RegionScorer, Segmenter
from grounded.errors import ConfigError

if TYPE_CHECKING:
    from grounded.models.clip import ClipEncoder
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
    source = bundled_name(config.segmenter.checkpoint) or config.segmenter.checkpoint
    model = segany.load(source, device=device, dtype=config.segmenter.dtype)
    return segany.Predictor(model, compile=config.segmenter.compile)
