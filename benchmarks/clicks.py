"""Server time from a click on the image to the new mask, as the app spends it: `python -m benchmarks.clicks`."""

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
from grounded.ui.actions import Actions
from grounded.ui.state import Limits

IMAGE = Path(__file__).parents[1] / "examples/picnic.png"
PLACES = ((420, 270), (440, 250), (400, 260), (430, 290), (250, 310))  # on examples/picnic.png
BUDGETS = {"tiny": 0.150, "vit_b, random weights": 0.300}  # seconds


def seconds_per_click(actions: Actions, image: Image.Image, runs: int) -> float:
    """The median of correcting, drawing and encoding after a click."""
    state = actions.open(image)
    scale = image.width / 640
    state = actions.press(state, "new by box", 330 * scale, 190 * scale)
    state = actions.press(state, "new by box", 500 * scale, 350 * scale, "a dog")
    times = []
    for index in range(runs):
        x, y = PLACES[index % len(PLACES)]
        start = time.perf_counter()
        after = actions.press(state, "remove point" if index % 2 else "add point", x * scale, y * scale)
        views.canvas_image(after).save(io.BytesIO(), format="JPEG")
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@click.command()
@click.option("--runs", default=9, show_default=True)
def main(runs: int) -> None:
    """Print the seconds of a click beside the budgets."""
    pipeline = Pipeline.from_config("tiny")
    torch.manual_seed(0)
    large = segany.Predictor(segany.SegAny(segany.PRESETS["vit_b"]).eval())
    image = Image.open(IMAGE).convert("RGB")
    chains = {
        "tiny": (pipeline, image),
        # Corrections ask the segmenter alone, so the other parts do not matter.
        "vit_b, random weights": (Pipeline(pipeline.detector, None, large), image.resize((1800, 1350))),
    }
    print("| a click, with | image | seconds | budget | |")
    print("|---|---|---|---|---|")
    for name, (chain, shown) in chains.items():
        took = seconds_per_click(Actions(chain, chain.config, Limits()), shown, runs)
        reached = "yes" if took <= BUDGETS[name] else "no"
        print(f"| {name} | {shown.width} x {shown.height} | {took:.3f} | {BUDGETS[name]} | {reached} |", flush=True)


if __name__ == "__main__":
    main()
