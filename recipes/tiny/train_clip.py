"""Train the bundled CLIP (open_clip architecture and tokenizer) contrastively on crops of drawn objects and their
names.

`python -m recipes.tiny.train_clip --pool runs/pool --out runs/clip`, then the same with `--export` writes
grounded/weights/clip.
"""

import json
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.tiny.crops import grey_background, roughened, square_crop
from recipes.tiny.pool import PoolScene, open_pool
from recipes.tiny.training import Settings, rank_and_size, train
from recipes.tiny.vocabulary import COLORS, is_held_out, noun_phrase, nouns
from segany.files import write_safetensors

WEIGHTS = Path(__file__).parents[2] / "grounded/weights/clip"
SIDE = 64
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "layers": 4, "width": 192, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 3},
}
BATCH = 128
BACKGROUND_SHARE = 0.08
GREY_SHARE = 0.6  # of the crops of objects show them alone, which is how the chain shows its masks
BACKGROUND_PHRASES = ("background", "a plain background", "a pattern", "nothing", "shapes", "a texture")


def build() -> nn.Module:
    """The untrained model."""
    return open_clip.CLIP(**MODEL)


def load_shipped() -> nn.Module:
    """The model with the weights that come with the package, in float32."""
    model = build()
    model.load_state_dict(load_file(WEIGHTS / "open_clip_model.safetensors"))
    return model


def sample_crop(scene: PoolScene, rng: np.random.Generator) -> tuple[np.ndarray, str | None, str | None]:
    """A crop with its noun and colour; both None for a piece of background."""
    image = scene.framed
    height, width = scene.framed_size
    if rng.random() < BACKGROUND_SHARE:
        size = rng.uniform(0.1, 0.4) * max(height, width)
        x, y = rng.uniform(0, max(width - size, 1)), rng.uniform(0, max(height - size, 1))
        free = np.ones_like(image[..., 0], bool)
        for thing in scene.objects:
            free &= ~scene.mask(thing, "whole" if "whole" in thing.masks else "object")
        window = free[int(y) : int(y + size) + 1, int(x) : int(x + size) + 1]
        if window.mean() > 0.9:
            return square_crop(image, (x, y, x + size, y + size), 0.0, SIDE), None, None
    thing = scene.objects[rng.integers(len(scene.objects))]
    x0, y0, x1, y1 = (value * extent for value, extent in zip(thing.box, (width, height, width, height), strict=True))
    jitter = rng.normal(0, 0.04, 4) * max(x1 - x0, y1 - y0)
    box = (x0 + jitter[0], y0 + jitter[1], x1 + jitter[2], y1 + jitter[3])
    if rng.random() < GREY_SHARE:
        mask = scene.mask(thing)
        image = grey_background(image, roughened(mask, rng) if rng.random() < 0.5 else mask)
    return square_crop(image, box, rng.uniform(0, 0.25), SIDE), thing.noun, thing.color


def make_batch(pool: list[PoolScene], step: int) -> dict:
    """Crops (b, side, side, 3) uint8 with their names. Processes that train together draw crops of their own."""
    rng = np.random.default_rng([11, step, *rank_and_size()[:1]])
    crops, names = [], []
    while len(crops) < BATCH:
        scene = pool[rng.integers(len(pool))]
        if not scene.objects:
            continue
        crop, noun, color = sample_crop(scene, rng)
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        names.append((noun, color))
    pixels = np.stack(crops).astype(np.float32)
    pixels = (pixels - 128) * rng.uniform(0.7, 1.2, (BATCH, 1, 1, 1)) + 128 + rng.uniform(-20, 20, (BATCH, 1, 1, 1))
    return {"crops": torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), "names": names}


def captions(names: list[tuple[str | None, str | None]], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """The captions to tell apart and, per crop and caption: 1 true, 0 false, -1 not to be counted.

    All nouns are always there. Tinted crops add their noun in every colour; a plain object's true colour is unknown, so
    there they do not count.
    """
    texts = [noun_phrase(noun, None, rng) for noun in nouns()]
    owners: list[tuple[str | None, str | None]] = [(noun, None) for noun in nouns()]
    for noun in sorted({noun for noun, color in names if noun and color}):
        for color in COLORS:
            if not is_held_out(color, noun):
                texts.append(noun_phrase(noun, color, rng))
                owners.append((noun, color))
    texts.append(str(rng.choice(BACKGROUND_PHRASES)))
    owners.append((None, None))
    truth = torch.zeros(len(names), len(texts))
    for column, (noun, color) in enumerate(owners):
        for row, (crop_noun, crop_color) in enumerate(names):
            if crop_noun == noun:
                truth[row, column] = 1.0 if color in (None, crop_color) else (-1.0 if crop_color is None else 0.0)
    return texts, truth


def normalised(crops: Tensor) -> Tensor:
    """uint8 (b, h, w, 3) -> float (b, 3, h, w) as open_clip normalises."""
    pixels = crops.permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def compute_loss(model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
    """Cross-entropy from crops to captions and back (Radford et al. 2021), with several true captions sharing the
    target.
    """
    texts, truth = captions(batch["names"], np.random.default_rng([12, step]))
    tokens = open_clip.tokenize(texts, MODEL["text_cfg"]["context_length"])
    with torch.autocast("cpu", torch.bfloat16):
        images = model.encode_image(normalised(batch["crops"]))
        words = model.encode_text(tokens)
    images, words = F.normalize(images.float(), dim=-1), F.normalize(words.float(), dim=-1)
    logits = (model.logit_scale.exp().clamp(max=100) * images @ words.T).masked_fill(truth < 0, -1e4)
    targets = truth.clamp(min=0)
    per_crop = -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    shown = targets.sum(0) > 0
    per_caption = -(targets / targets.sum(0).clamp(min=1) * logits.log_softmax(0)).sum(0)[shown].mean()
    right = targets[torch.arange(len(logits)), logits.argmax(1)].mean()
    return {"crops": 0.5 * per_crop, "captions": 0.5 * per_caption, "_right": right.detach()}


def export(model: nn.Module, folder: Path) -> None:
    """Write the folder that open_clip loads with "local-dir:"."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "size": SIDE,
        "mode": "RGB",
        "mean": MEAN,
        "std": STD,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}, indent=2) + "\n"
    )
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    write_safetensors(folder / "open_clip_model.safetensors", weights, {})


@click.command()
@click.option("--pool", type=click.Path(path_type=Path), default=Path("runs/pool"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/clip"), show_default=True)
@click.option("--steps", default=900, show_default=True)
@click.option("--rate", default=1.0, show_default=True, help="Learning rates as a multiple of the usual ones.")
@click.option("--from-shipped", is_flag=True, help="Start from the shipped weights instead of random ones.")
@click.option("--image-only", is_flag=True, help="Leave the text tower as it is: segany learned its embeddings.")
@click.option("--in-memory", is_flag=True, help="Keep the scenes in memory, 6 GB for 23,000 of them.")
@click.option("--export", "to_export", is_flag=True, help="Only write the trained weights to grounded/weights/clip.")
def main(
    pool: Path,
    out: Path,
    steps: int,
    rate: float,
    from_shipped: bool,
    image_only: bool,
    in_memory: bool,
    to_export: bool,
) -> None:
    """Train the tiny CLIP."""
    torch.manual_seed(0)
    model = load_shipped() if from_shipped else build()
    if to_export:
        model.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
        export(model, WEIGHTS)
        return
    if image_only:
        model.requires_grad_(False)
        model.visual.requires_grad_(True)
    scenes = open_pool(pool, in_memory=("framed", "masks") if in_memory else (), part=rank_and_size())
    settings = Settings(out, steps, learning_rate=rate * 1e-3, muon_rate=rate * 2e-3)
    train(model, lambda step: make_batch(scenes, step), compute_loss, settings)


if __name__ == "__main__":
    main()
