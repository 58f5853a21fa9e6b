"""CLIP on crops of true boxes: does the name of the object score highest among all names of its data?

`python -m recipes.photo.measure_clip --clip bundled:photo-clip --data FOLDER` prints the figures of both validation
sets.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from grounded.config import ScoringConfig
from grounded.data.protocols import ImageTextEncoder
from grounded.labelling.formats.coco_file import read_coco
from grounded.models.clip import ClipEncoder
from recipes.photo.clip_crops import Crop, list_boxes
from recipes.photo.validation import rare_names
from recipes.photo.vocabulary import TEMPLATES

SMALLEST = 24 * 24  # pixels of an object's area
MARGIN = 0.05  # around a box, of its longer side
_BATCH = 64


def measure_clip(
    encoder: ImageTextEncoder, folder: Path, split: str, limit: int | None = None, config: ScoringConfig | None = None
) -> dict[str, float]:
    """Top-1 and top-5 over the crops of a split, top-1 of those whose name is rare in training, and the mean of names.

    Args:
        encoder: with the templates that are used.
        folder: of photographs in COCO format, with `train.json`.
        split: which of them; its categories are the names to choose from.
        limit: most crops, chosen at random; None: all with an area above 24 x 24 pixels.
        config: how crops are cut; None: by the box alone, at the margin that held-out training crops liked best.

    Raises:
        ResultError: a file cannot be read.
    """
    names = sorted(set(read_coco(folder / f"{split}.json").categories.values()))
    crops = list_boxes(folder, split, SMALLEST, config or ScoringConfig(background="keep", margin=MARGIN))
    if limit is not None:
        crops = [crops[row] for row in np.random.default_rng(0).permutation(len(crops))[:limit]]
    ranks = rank_names(encoder, crops, names)
    return _summarise(ranks, [crop.name for crop in crops], set(rare_names(folder, split)))


def rank_names(encoder: ImageTextEncoder, crops: Sequence[Crop], names: Sequence[str]) -> np.ndarray:
    """How many names score higher than the right one, for each crop."""
    words = encoder.encode(names)
    own = torch.tensor([names.index(crop.name) for crop in crops], device=words.device)
    ranks = []
    for start in tqdm(range(0, len(crops), _BATCH), desc="crops", unit=f"{_BATCH} crops"):
        listed = crops[start : start + _BATCH]
        scores = encoder.encode_images(crop.draw() for crop in listed) @ words.T
        right = scores.gather(1, own[start : start + _BATCH, None])
        ranks.append((scores > right).sum(dim=1))
    return torch.cat(ranks).cpu().numpy()


def _summarise(ranks: np.ndarray, names: Sequence[str], rare: set[str]) -> dict[str, float]:
    hits = ranks == 0
    by_name = {name: np.mean([hit for hit, own in zip(hits, names, strict=True) if own == name]) for name in set(names)}
    figures = {
        "crops": float(len(ranks)),
        "top-1": float(hits.mean()),
        "top-5": float((ranks < 5).mean()),
        "top-1, mean of names": float(np.mean(list(by_name.values()))),
    }
    is_rare = np.array([name in rare for name in names])
    if is_rare.any():
        figures |= {"rare crops": float(is_rare.sum()), "rare top-1": float(hits[is_rare].mean())}
    return figures


@click.command()
@click.option("--clip", "source", default="bundled:photo-clip", show_default=True)
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--split", "splits", multiple=True, default=("voc-val", "coco-val"), show_default=True)
@click.option("--background", type=click.Choice(["keep", "blur", "grey"]), default="keep", show_default=True)
@click.option("--margin", default=MARGIN, show_default=True)
@click.option("--limit", type=int, help="Crops of a split, chosen at random.")
def main(source: str, folder: Path, splits: Sequence[str], background: str, margin: float, limit: int | None) -> None:
    """Measure a CLIP on crops of true boxes."""
    encoder = ClipEncoder.from_pretrained(source, TEMPLATES)
    config = ScoringConfig(background=background, margin=margin)  # type: ignore[arg-type]
    for split in splits:
        figures = measure_clip(encoder, folder, split, limit, config)
        click.echo(f"{split}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
