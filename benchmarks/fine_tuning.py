"""What 20 minutes of fine-tuning on 100 images of a class give.

`python -m benchmarks.fine_tuning DATA.json --class NAME [--images DIR]` measures the box IoU of a segmenter and
the AP50 of a detector for one class, on 30 images that training has not seen, before the first step and after the last
one. Any COCO file will do; of a class that the models do not know, little is right before.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import click
import numpy as np

from grounded.cli.train import train
from grounded.data.class_names import normalise_name
from grounded.training.log import read_log
from grounded.training.one_stage import is_one_stage

LEARNED, HELD_OUT = 100, 30  # images
Kind = Literal["segmenter", "detector"]
BARS: dict[Kind, tuple[str, float]] = {"segmenter": ("box IoU", 0.03), "detector": ("AP50", 0.15)}
RATES = {"segmenter": 2e-4, "detector": 3e-4}
ONE_STAGE_RATE = 1e-3
TRIED = 6  # steps whose time tells how many fit into the minutes
SHARE = 0.9  # of the minutes for steps; the rest is encoding and measuring


@dataclass(frozen=True)
class Split:
    """Two COCO files of one class, and the folder of their images."""

    learned: Path
    held_out: Path
    images: Path
    label: str


def split_class(source: Path, images: Path, label: str, folder: Path, seed: int = 0) -> Split:
    """Write two COCO files with the images of a class, drawn at random: `LEARNED` and `HELD_OUT` of them.

    Other objects in these images are left out of both.

    Raises:
        click.ClickException: there are no such class or not enough images.
    """
    data: dict[str, Any] = json.loads(source.read_text())
    category = next((c for c in data["categories"] if normalise_name(c["name"]) == normalise_name(label)), None)
    if category is None:
        raise click.ClickException(f"{source} has no class {label!r}")
    annotations = [one for one in data["annotations"] if one["category_id"] == category["id"]]
    ids = sorted({one["image_id"] for one in annotations})
    if len(ids) < LEARNED + HELD_OUT:
        raise click.ClickException(f"{label!r} is in {len(ids)} images, {LEARNED + HELD_OUT} are needed")
    drawn = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))[: LEARNED + HELD_OUT]]
    paths = []
    for name, chosen in (("learned", drawn[:LEARNED]), ("held_out", drawn[LEARNED:])):
        part = {
            "images": [one for one in data["images"] if one["id"] in set(chosen)],
            "annotations": [one for one in annotations if one["image_id"] in set(chosen)],
            "categories": [category],
        }
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(part))
    return Split(paths[0], paths[1], images, category["name"])


def fine_tune(
    kind: Kind, base: str, split: Split, out: Path, steps: int, options: Sequence[str]
) -> list[dict[str, Any]]:
    """Train, and return the rows of the log."""
    rate = ONE_STAGE_RATE if kind == "detector" and is_one_stage(base) else RATES[kind]
    arguments = ["--data", split.learned, "--images", split.images, "--validation", split.held_out]
    arguments += ["--validation-images", split.images, "--from", base, "--out", out, "--steps", steps]
    arguments += ["--rate", rate, "--validate-every", max(1, steps // 4)]
    own = ["--backbone-rate", "1"] if kind == "detector" and base == "tiny" else []
    train.main([kind, *map(str, arguments), *own, *options], standalone_mode=False)
    return read_log(out)


def seconds_per_step(kind: Kind, base: str, split: Split, folder: Path, options: Sequence[str]) -> tuple[float, float]:
    """The mean time of a step, and the time of everything around the steps."""
    started = time.monotonic()
    out = folder / f"{kind}-tried"
    fine_tune(kind, base, split, out, TRIED, options)
    wall = time.monotonic() - started
    step = next(row["train"]["seconds"] for row in reversed(read_log(out)) if "train" in row)
    return step, wall - TRIED * step


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--class", "label", required=True, help="Which class to learn; it needs 130 images.")
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="[default: the folder of DATA]")
@click.option("--segmenter", default="photo", show_default=True, help="As --from of `grounded train segmenter`.")
@click.option("--detector", default="photo", show_default=True, help="As --from of `grounded train detector`.")
@click.option("--minutes", default=20.0, show_default=True, help="Of each training.")
@click.option("--steps", type=int, help="Steps of each training, in the place of the minutes.")
@click.option("--only", type=click.Choice(["segmenter", "detector"]))
@click.option("--cores", type=int, default=2, show_default=True, help="Threads of PyTorch.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the trainings in this folder.")
def main(
    data: Path,
    options: tuple[str, ...],
    label: str,
    images: Path | None,
    segmenter: str,
    detector: str,
    minutes: float,
    steps: int | None,
    only: Kind | None,
    cores: int,
    out: Path | None,
) -> None:
    """Fine-tune on 100 images of a class in DATA, and print what it gives on 30 others beside the bars.

    OPTIONS are passed on to `grounded train`.
    """
    os.environ["OMP_NUM_THREADS"] = str(cores)
    import torch

    torch.set_num_threads(cores)
    print(
        "| model | steps | minutes | measure | before | after | gain | bar | |\n|---|---|---|---|---|---|---|---|---|"
    )
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        split = split_class(data, images or data.parent, label, folder)
        bases: dict[Kind, str] = {"segmenter": segmenter, "detector": detector}
        for kind, base in bases.items():
            if only in (None, kind):
                print(_row(kind, base, split, folder, minutes, steps, options), flush=True)


def _row(
    kind: Kind, base: str, split: Split, folder: Path, minutes: float, steps: int | None, options: Sequence[str]
) -> str:
    """Train a model, and return its line of the table."""
    if steps is None:
        step, around = seconds_per_step(kind, base, split, folder, options)
        steps = max(1, int(max(60 * minutes * SHARE - around, 0) / step))
    started = time.monotonic()
    rows = fine_tune(kind, base, split, folder / kind, steps, options)
    took = (time.monotonic() - started) / 60
    measure, bar = BARS[kind]
    values = [row["validation"][measure] for row in rows if "validation" in row]
    gain = values[-1] - values[0]  # not the best: that was chosen by these images
    figures = f"{split.label}: {measure} | {values[0]:.3f} | {values[-1]:.3f} | {gain:+.3f} | {bar:+.2f}"
    return f"| {kind} {base} | {steps} | {took:.1f} | {figures} | {'yes' if gain >= bar else 'no'} |"


if __name__ == "__main__":
    main()
