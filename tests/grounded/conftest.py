from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segany
from grounded.config import ClipConfig, DetectorConfig, PipelineConfig, SegmenterConfig
from grounded.pipeline import Pipeline
from tests.data import PICNIC, picnic_truth
from tests.grounded import builders

SEGMENTER = segany.SegAnyConfig(
    image_size=64,
    patch_size=8,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    global_blocks=(1,),
    window_size=4,
    prompt_dim=32,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_hidden_dim=16,
    text_dim=builders.CLIP_CONFIG["embed_dim"],
)


def save_segmenter(path: Path, text_dim: int | None = SEGMENTER.text_dim, seed: int = 1) -> Path:
    """Write a small SegAny with random weights. Returns `path`."""
    torch.manual_seed(seed)
    model = segany.SegAny(segany.SegAnyConfig(**{**vars(SEGMENTER), "text_dim": text_dim}))
    segany.save(model, path)
    return path


@pytest.fixture(scope="session")
def random_config(tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """A configuration of small models with random weights that lets every query of the detector through."""
    folder = tmp_path_factory.mktemp("models")
    return PipelineConfig(
        detector=DetectorConfig(
            checkpoint=str(builders.save_detector(folder / "detector")), box_threshold=0.0, nms_threshold=0.9
        ),
        clip=ClipConfig(checkpoint=str(builders.save_clip(folder / "clip"))),
        segmenter=SegmenterConfig(checkpoint=str(save_segmenter(folder / "segmenter.safetensors"))),
        device="cpu",
    )


@pytest.fixture(scope="session")
def random_pipelines(random_config: PipelineConfig) -> dict[str, Pipeline]:
    """One pipeline for each prompting mode. They answer at random, but always alike."""
    return {mode: Pipeline.from_config(random_config, mode=mode) for mode in ("box", "text", "box+text")}


@pytest.fixture(scope="session")
def bundled() -> Pipeline:
    """The bundled models, every part of them. Its detector lets through what a test may filter later."""
    return Pipeline.from_config("tiny", load_all=True, box_threshold=0.05, device="cpu")


def random_image(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    """Smooth random blots, so that random networks answer with regions rather than noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def predictor() -> segany.Predictor:
    """The bundled weights on the CPU."""
    return segany.Predictor(segany.load("tiny"))


@pytest.fixture(scope="session")
def embedding(predictor: segany.Predictor) -> segany.ImageEmbedding:
    """The example image, 480 x 640 pixels."""
    return predictor.encode(PICNIC)


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    """The true masks of the example, (n, h, w)."""
    return np.stack([mask for masks in picnic_truth().values() for mask in masks])
