"""How much of the chain's time is not spent in its models: `python -m benchmarks.chain`.

`tiny` is the bundled preset. `base` has the sizes of the published models (Grounding DINO tiny, SAM ViT-B, CLIP
ViT-B/32) and random weights, so its boxes mean nothing: ten are prompted with, whatever their scores.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import open_clip
import torch
from PIL import Image
from transformers import BertTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection
from transformers.models.grounding_dino import GroundingDinoImageProcessorPil

import segany
from grounded import Pipeline, Stopwatch
from grounded.config import load, override
from grounded.models.build import region_scorer
from grounded.models.clip import ClipEncoder
from grounded.models.detectors.fast.backbone import SharedBackbone
from grounded.models.detectors.grounding_dino import GroundingDino

IMAGE = Path(__file__).parents[1] / "examples/picnic.png"
TEXT = "a dog. pizza. a balloon"
BOXES = 10
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}


def base_at_random() -> Pipeline:
    """The chain at the sizes of the preset `base`, with random weights, filtering on."""
    torch.manual_seed(0)
    config = override(load("base"), filtering={"enabled": True, "clip_threshold": 0.0}, nms_threshold=1.0)
    model = GroundingDinoForObjectDetection(GroundingDinoConfig()).eval()
    words = dict.fromkeys(word for phrase in TEXT.split(".") for word in phrase.split())
    vocabulary = SPECIAL | {word: 2000 + i for i, word in enumerate(words)}
    vocabulary |= {f"[unused{i}]": i for i in range(30522) if i not in vocabulary.values()}
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 800, "longest_edge": 1333})
    detector = GroundingDino(
        GroundingDino.accelerate(model, config.detector), processor, BertTokenizer(vocab=vocabulary)
    )
    detector.config = override(config, box_threshold=0.0, max_detections=BOXES).detector
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit_b.safetensors"
        segany.save(segany.SegAny(segany.PRESETS["vit_b"]), path)
        segmenter = segany.Predictor(segany.load(path, dtype=config.segmenter.dtype))
    network, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    clip = ClipEncoder(network.eval(), open_clip.get_tokenizer("ViT-B-32"), preprocess, templates=config.clip.templates)
    return Pipeline(detector, None, segmenter, config, scorer=region_scorer(clip, config))


class ModelTime:
    """Adds up the seconds inside the models' forward passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of `owner.attribute`."""
        original: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        setattr(owner, attribute, timed)


def watched(pipeline: Pipeline) -> ModelTime:
    """Watch the forward passes of a pipeline."""
    models = ModelTime()
    segmenter, scorer = (getattr(pipeline, part) for part in ("segmenter", "scorer"))
    models.watch(SharedBackbone, "encode_image", "detector")
    models.watch(SharedBackbone, "decode_prompts", "detector")
    models.watch(segmenter, "_encode_image", "image encoder")
    models.watch(segmenter._decoder, "predict_deferred", "mask decoder")
    models.watch(segmenter._decoder, "upscaling", "mask decoder")
    models.watch(scorer.encoder.model, "encode_image", "CLIP")
    return models


def report(name: str, pipeline: Pipeline, image: Image.Image, runs: int) -> str:
    """One line: seconds in all and in each model, and the share of what is left."""
    models = watched(pipeline)
    totals, shares = [], []
    stages: dict[str, list[float]] = defaultdict(list)
    count = len(pipeline.segment(image, TEXT))  # what is computed once
    for _ in range(runs):
        models.seconds.clear()
        watch = Stopwatch()
        start = time.perf_counter()
        pipeline.segment(image, TEXT, watch)
        totals.append(time.perf_counter() - start)
        shares.append(1 - sum(models.seconds.values()) / totals[-1])
        for stage, seconds in watch.seconds.items():
            stages[stage].append(seconds)
    spent = ", ".join(f"{stage} {statistics.median(seconds):.3f}" for stage, seconds in stages.items())
    within = ", ".join(f"{part} {seconds:.3f}" for part, seconds in models.seconds.items())
    figures = f"{statistics.median(totals):.3f} | {statistics.median(shares):.1%}"
    return f"| {name}, {image.width} x {image.height}, {count} instances | {figures} | {spent} | {within} |"


@click.command()
@click.option("--runs", default=3, show_default=True)
@click.option("--only", type=click.Choice(["tiny", "base"]), help="One of the two.")
def main(runs: int, only: str | None) -> None:
    """Print the share of the chain's time that is not spent in its models."""
    small = Image.open(IMAGE).convert("RGB")
    photograph = small.resize((1800, 1200))
    print("| chain | seconds | outside the models | seconds by stage | seconds in models, last run |")
    print("|---|---|---|---|---|")
    if only != "base":
        print(report("tiny", Pipeline.from_config("tiny"), small, runs))
    if only != "tiny":
        print(report("base, random weights", base_at_random(), photograph, runs), flush=True)


if __name__ == "__main__":
    main()
