"""Processor time and memory of teaching a text prompt: `python -m benchmarks.training_steps`.

On one thread, by the time of the processor, which other programs do not change. Weights are random: they cost the same.
"""

import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from PIL import Image

import segany
from grounded.training.data import TrainingData, TrainingImage, TrainingObject
from grounded.training.embeddings import EmbeddingStore
from grounded.training.interactive import InteractiveSettings, losses, make_batch
from grounded.training.loop import require_parameters
from segany.utils.rle import encode_rle

SIZE = (768, 1024)  # (height, width)
STEPS = 4


def drawn_image(folder: Path) -> TrainingImage:
    """An image with one object."""
    mask = np.zeros(SIZE, bool)
    mask[200:500, 300:700] = True
    pixels = np.where(mask[..., None], (200, 60, 40), (90, 120, 150)).astype(np.uint8)
    path = folder / "drawn.png"
    Image.fromarray(pixels).save(path)
    (rle,) = encode_rle(mask[None])
    return TrainingImage(path.name, SIZE, "0", (TrainingObject("block", (300, 200, 700, 500), rle),), path.read_bytes)


def row(name: str, config: segany.SegAnyConfig, decoder: bool, folder: Path) -> str:
    """The line of the table for a model."""
    torch.manual_seed(0)
    model = segany.SegAny(config).eval()
    prefixes = ("prompt_encoder.text_", "mask_decoder.") if decoder else ("prompt_encoder.text_",)
    trained = {key: value for key, value in model.named_parameters() if key.startswith(prefixes)}
    require_parameters(trained, [model])
    image = drawn_image(folder)
    store = EmbeddingStore(folder / name, model, name)
    started = time.process_time()
    list(store.fill([(image, False)]))
    encoding = time.process_time() - started
    data = TrainingData((image,), ("block",))
    settings = InteractiveSettings(kinds=("text",), images=4, objects=4, rounds=2, flip=False)
    text = torch.randn(config.text_dim or 0)
    optimizer = torch.optim.AdamW(trained.values())
    spent, rounds = 0.0, 0
    for step in range(STEPS):
        started = time.process_time()
        batch = make_batch(step, data, config, settings, store.load, lambda key, index, rng: text)
        for parts in losses(model, batch.inputs, batch, settings):
            torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        spent, rounds = spent + time.process_time() - started, rounds + batch.rounds
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    learns = "with decoder" if decoder else "projection"
    return f"| {name}, {learns} | {encoding:.1f} | {spent / rounds:.1f} | {largest:.1f} |"


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Print seconds to encode an image, seconds of a round of 16 prompts, and the most memory so far, in GB."""
    torch.set_num_threads(1)
    print("| model | encoding an image, s | a round, s | memory so far, GB |\n|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name in names or ("tiny", "vit_b"):
            config = segany.PRESETS[name]
            config = config if config.text_dim else segany.SegAnyConfig(**{**vars(config), "text_dim": 512})
            for decoder in (False, True):
                print(row(name, config, decoder, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
