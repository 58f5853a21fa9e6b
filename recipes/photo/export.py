"""Writes the bundled files of `photo` from what a training keeps: `python -m recipes.photo.export --run runs/photo`."""

from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import nn
from torch.nn import functional as F

import grounded
import segany
from grounded.models.detectors.one_stage_head import FILE, save_head
from recipes.photo.models import SIDE, PhotoModel
from segany import SegAny
from segany.modeling.efficientnet_lite import EfficientNetLiteEncoder

SEGMENTER = Path(segany.__file__).parent / "weights" / "photo.safetensors"
DETECTOR = Path(grounded.__file__).parent / "weights" / "photo-detector"
_LARGE = 10_000  # numbers in a tensor


def export(weights: Path, vocabulary: Path, segmenter: Path, detector: Path, side: int = SIDE) -> int:
    """Write the segmenter and the detector's head in half precision; returns how many names the head has learnt.

    Args:
        weights: `averaged.pt` of a training.
        vocabulary: `vocabulary.pt` beside it: "names", and "embeddings" (v, 384). Names that "count" gives as 0 were
            never shown, and are left out.
        segmenter: the file to write, for `segany.load`.
        detector: the folder to write, for `detector: {kind: one-stage}`.
        side: of the model frame in pixels, a multiple of 32: that of the images in training gives the best masks.
    """
    both = PhotoModel()
    both.load_weights(weights)
    round_matrices(both)
    learnt = torch.load(vocabulary, weights_only=True)
    shown = [row for row, count in enumerate(learnt.get("count", [1] * len(learnt["names"]))) if count]
    names = [learnt["names"][row] for row in shown]
    segany.save(with_side(both.model, side).eval(), segmenter)
    detector.mkdir(parents=True, exist_ok=True)
    save_head(both.head, names, F.normalize(learnt["embeddings"][shown].float(), dim=1), detector / FILE)
    return len(names)


@torch.no_grad()
def round_matrices(module: nn.Module) -> None:
    """Round the large weights to eight significant bits, those of bfloat16: a wheel compresses them by a fifth more.

    Results change as little as the products of other kernels do; the statistics of batch norms and the like stay.
    """
    for parameter in module.parameters():
        if parameter.numel() >= _LARGE:
            parameter.copy_(parameter.bfloat16())


def with_side(model: SegAny, side: int) -> SegAny:
    """The same weights for a model frame of another side; the position codes are interpolated."""
    if side == model.config.image_size:
        return model
    changed = SegAny(replace(model.config, image_size=side))
    encoder = model.image_encoder
    assert isinstance(encoder, EfficientNetLiteEncoder)
    codes = encoder.positions(side // 16).detach()
    changed.load_state_dict({**model.state_dict(), "image_encoder.position": codes})
    return changed


@click.command()
@click.option("--run", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the training.")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="[RUN/averaged.pt]")
@click.option("--vocabulary", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="[RUN/vocabulary.pt]")
@click.option("--segmenter", type=click.Path(path_type=Path), default=SEGMENTER, help="[that of the package]")
@click.option("--detector", type=click.Path(path_type=Path), default=DETECTOR, help="[that of the package]")
@click.option("--side", default=SIDE, show_default=True, help="Of the model frame; that of the training is the best.")
def main(
    run: Path | None, weights: Path | None, vocabulary: Path | None, segmenter: Path, detector: Path, side: int
) -> None:
    """Write the weights of a training as files that `segany.load` and the preset take."""
    if run is None and (weights is None or vocabulary is None):
        raise click.UsageError("name --run, or both --weights and --vocabulary")
    folder = run or Path()
    count = export(weights or folder / "averaged.pt", vocabulary or folder / "vocabulary.pt", segmenter, detector, side)
    click.echo(f"-> {segmenter}, {detector}: a detector of {count} names")


if __name__ == "__main__":
    main()
