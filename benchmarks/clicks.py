"""Server time from a click on the picture to the new mask, as the app spends it: `python -m benchmarks.clicks`."""

import io
import statistics
import time
from pathlib import Path

import click
import torch
from PIL import Image

import segany
from grounded import Pipeline
from grounded.ui import views
from grounded.ui.limits import Limits
from grounded.ui.options import Options
from grounded.ui.studio import Studio

PICTURE = Path(__file__).parents[1] / "examples/picnic.png"
PLACES = ((420, 270), (440, 250), (400, 260), (430, 290), (250, 310))  # on examples/picnic.png
BUDGETS = {"tiny": 0.150, "vit_b, random weights": 0.300}  # seconds


def seconds_per_click(studio: Studio, picture: Image.Image, runs: int) -> float:
    """The median of correcting, drawing and encoding after a click."""
    session = studio.open(picture)
    scale = picture.width / 640
    session = studio.press(session, "new by box", 330 * scale, 190 * scale)
    session = studio.press(session, "new by box", 500 * scale, 350 * scale, "a dog")
    times = []
    for index in range(runs):
        x, y = PLACES[index % len(PLACES)]
        start = time.perf_counter()
        after = studio.press(session, "remove point" if index % 2 else "add point", x * scale, y * scale)
        views.canvas(after).save(io.BytesIO(), format="JPEG")
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@click.command()
@click.option("--runs", default=9, show_default=True)
def main(runs: int) -> None:
    """Print the seconds of a click beside the budgets."""
    pipeline = Pipeline.from_config("tiny")
    torch.manual_seed(0)
    large = segany.Predictor(segany.SegAny(segany.PRESETS["vit_b"]).eval())
    picture = Image.open(PICTURE).convert("RGB")
    chains = {
        "tiny": (pipeline, picture),
        # Corrections ask the segmenter alone, so the other parts do not matter.
        "vit_b, random weights": (Pipeline(pipeline.detector, None, large), picture.resize((1800, 1350))),
    }
    print("| a click, with | picture | seconds | budget | |")
    print("|---|---|---|---|---|")
    for name, (chain, shown) in chains.items():
        took = seconds_per_click(Studio(chain, Options.of(chain.config), Limits()), shown, runs)
        reached = "yes" if took <= BUDGETS[name] else "no"
        print(f"| {name} | {shown.width} x {shown.height} | {took:.3f} | {BUDGETS[name]} | {reached} |", flush=True)


if __name__ == "__main__":
    main()
