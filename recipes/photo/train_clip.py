"""Train the CLIP of `photo`: the image side learns to agree with the embeddings of names, which stay as they are.

`python -m recipes.photo.train_clip --data FOLDER --text FOLDER --imagenet WHEEL --out runs/photo-clip` takes crops of
named objects, passes them through an EfficientNet-Lite2 that knows ImageNet, and trains a projection to the embeddings
of all-MiniLM-L6-v2. What ImageNet's classifier says of each crop is learnt as well, so that its thousand classes stay
known under their names. The backbone stays as it is: training its last stage too was measured, and brought nothing. It
runs once for each crop; a stopped run goes on from its results.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from grounded.utils.files import json_bytes, write_atomically
from recipes.photo.clip_crops import plan_crops
from recipes.photo.clip_export import WIDTH, export_clip
from recipes.photo.clip_features import compute_features, make_backbone
from recipes.photo.clip_words import Words, make_words
from recipes.photo.models import imagenet_weights


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How to train."""

    epochs: int = 6
    batch: int = 64
    rate: float = 3e-3
    decay: float = 0.05
    teacher: float = 3.0  # weight of what ImageNet's classifier says
    scale: float = 30.0  # inverse of the temperature, at the beginning


class Projection(nn.Module):
    """Pooled features to embeddings of unit length; and the logarithm of the inverse temperature."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, WIDTH)
        self.scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        return F.normalize(self.linear(features), dim=-1)


@torch.no_grad()
def begin_with_classifier(projection: Projection, classifier: nn.Linear, classes: Float[Tensor, "1000 c"]) -> None:
    """Let the products of embeddings and classes be as near the classifier's logits as a linear map allows."""
    inverse = torch.linalg.pinv(classes - classes.mean(dim=0), rtol=0.05)  # (c, 1000)
    weight, bias = classifier.weight - classifier.weight.mean(dim=0), classifier.bias - classifier.bias.mean()
    projection.linear.weight.copy_(inverse @ weight)
    # The mean of the classes is common to all embeddings, and tells none from another.
    projection.linear.bias.copy_(inverse @ bias)


def clip_losses(
    embeddings: Float[Tensor, "b c"],
    scale: Tensor,
    names: Int64[Tensor, "b"],
    sources: Int64[Tensor, "b"],
    taught: Float[Tensor, "b 1000"],
    words: Words,
) -> dict[str, Tensor]:
    """The parts of the loss.

    Args:
        embeddings: of crops, of unit length.
        scale: inverse of the temperature.
        names: rows of `words.names`; -1 for a background, which is to be like any of the words for one.
        sources: rows of `words.sources`.
        taught: probabilities of ImageNet's classes, by its own classifier.
        words: that are told apart.
    """
    is_object = names >= 0
    rivals = torch.where(is_object[:, None], words.rivals[sources, names.clamp(min=0)], words.annotated[sources])
    logits = scale * embeddings @ torch.cat([words.embeddings, words.backgrounds]).T
    logits[:, : len(words.names)] = logits[:, : len(words.names)].masked_fill(~rivals, -torch.inf)
    own = logits.gather(1, names.clamp(min=0)[:, None])[:, 0]
    right = torch.where(is_object, own, logits[:, len(words.names) :].logsumexp(dim=1))
    by_class = (scale * embeddings @ words.classes.T).log_softmax(dim=1)
    return {
        "names": (logits.logsumexp(dim=1) - right).mean(),
        "teacher": F.kl_div(by_class, taught, reduction="batchmean"),
    }


@dataclass(frozen=True, eq=False)
class Examples:
    """Features of n crops, with what is known of them."""

    features: Float[Tensor, "n f"]
    names: Int64[Tensor, "n"]
    sources: Int64[Tensor, "n"]
    taught: Float[Tensor, "n 1000"]

    def pick(self, rows: Tensor) -> "Examples":
        """Those of some rows, or of those that are true."""
        return Examples(self.features[rows], self.names[rows], self.sources[rows], self.taught[rows])

    def __len__(self) -> int:
        return len(self.features)


@torch.no_grad()
def measure(projection: Projection, examples: Examples, words: Words) -> dict[str, float]:
    """Top-1 of objects among the names of their source, of backgrounds against those, and agreement with ImageNet."""
    embeddings = projection(examples.features)
    names, sources, taught = examples.names, examples.sources, examples.taught.float()
    scores = embeddings @ words.embeddings.T
    annotated = words.annotated[sources]
    best = scores.masked_fill(~annotated, -1).max(dim=1)
    is_object = names >= 0
    figures = {}
    for row, source in enumerate(words.sources):
        own = is_object & (sources == row)
        if own.any():
            figures[f"top-1, {source}"] = float((best.indices == names)[own].float().mean())
    background = (embeddings @ words.backgrounds.T).max(dim=1).values
    figures["backgrounds told"] = float((background > best.values)[~is_object].float().mean())
    figures["objects told"] = float((background < best.values)[is_object].float().mean())
    sure = taught.max(dim=1)
    agrees = (embeddings @ words.classes.T).argmax(dim=1) == sure.indices
    figures["ImageNet's sure classes"] = float(agrees[sure.values > 0.5].float().mean())
    return figures


def train_projection(
    projection: Projection, examples: Examples, words: Words, settings: ClipSettings, seed: int = 0
) -> list[dict[str, float]]:
    """Train at a rate that falls to zero, and return the mean losses of each epoch."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(projection.parameters(), settings.rate, weight_decay=settings.decay)
    steps = settings.epochs * math.ceil(len(examples) / settings.batch)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1 - step / steps))
    log = []
    for epoch in trange(settings.epochs, unit="epoch"):
        sums: dict[str, float] = {}
        for rows in torch.randperm(len(examples), generator=generator).split(settings.batch):
            batch = examples.pick(rows)
            embeddings, scale = projection(batch.features), projection.scale.exp()
            parts = clip_losses(embeddings, scale, batch.names, batch.sources, batch.taught, words)
            optimizer.zero_grad(set_to_none=True)
            (parts["names"] + settings.teacher * parts["teacher"]).backward()
            nn.utils.clip_grad_norm_(projection.parameters(), 2.0)
            optimizer.step()
            rate.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(rows) / len(examples)
        log.append({"epoch": epoch, **sums, "scale": float(projection.scale.detach().exp())})
    return log


@click.command()
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--split", default="train", show_default=True)
@click.option("--text", "text_folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--imagenet", type=click.Path(exists=True, path_type=Path), required=True, help="Wheel of the backbone.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/photo-clip"), show_default=True)
@click.option("--epochs", default=ClipSettings.epochs, show_default=True)
@click.option("--rate", default=ClipSettings.rate, show_default=True)
@click.option("--teacher", default=ClipSettings.teacher, show_default=True)
@click.option("--limit", type=int, help="Crops, for a try.")
def main(
    folder: Path, split: str, text_folder: Path, imagenet: Path, out: Path, limit: int | None, **fields: int | float
) -> None:
    """Train on FOLDER/SPLIT.json, and write an open_clip folder to OUT/clip."""
    settings = ClipSettings(**fields)  # type: ignore[arg-type]
    torch.manual_seed(0)
    backbone = make_backbone(imagenet_weights(imagenet))
    crops = plan_crops(folder, split)[:limit]
    features = compute_features(backbone, crops, out / "features")
    words = make_words(crops, str(text_folder))
    classifier = backbone.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    with torch.no_grad():
        taught = classifier(features).softmax(dim=1)
    examples = Examples(features, *words.rows(crops), taught)
    held_out = torch.tensor([crop.is_held_out for crop in crops])
    projection = Projection(classifier.in_features, settings.scale)
    begin_with_classifier(projection, classifier, words.classes)
    before = measure(projection, examples.pick(held_out), words)
    log = train_projection(projection, examples.pick(~held_out), words, settings)
    figures = {"before": before, "after": measure(projection, examples.pick(held_out), words)}
    write_atomically(out / "log.json", json_bytes({"settings": asdict(settings), "epochs": log, "held out": figures}))
    click.echo(json.dumps(figures, indent=1))
    export_clip(out / "clip", backbone, projection.linear, float(projection.scale.detach()), text_folder)
    click.echo(f"wrote {out / 'clip'}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
