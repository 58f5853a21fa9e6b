"""Measure the bundled weights on drawn scenes and print a table: `python -m recipes.tiny.evaluate --split test`.

`--backgrounds FOLDER` puts the scenes on photographs, which training never saw; `--json FILE` keeps the figures.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from grounded import Pipeline
from recipes.bars import Bar, bar_cells
from recipes.tiny import measure
from recipes.tiny.measure_chain import measure_chain, measure_unseen_pairs
from recipes.tiny.measure_clip import measure_clip
from recipes.tiny.measure_prompts import measure_prompts
from recipes.tiny.measure_stages import (
    ZOOM,
    measure_fallback,
    measure_more_phrases,
    measure_refinement,
    measure_text_alone,
)
from recipes.tiny.scenes import MAX_SIDE, Recipe, Scene, draw_scene

PARTS = (
    "chain",
    "zoom",
    "unfiltered",
    "pairs",
    "prompts",
    "clip",
    "more phrases",
    "refinement",
    "fallback",
    "text alone",
)
NEGATIVES = "negative phrases that yield a mask"
# What the weights are asked to reach: figure -> (least, most).
BARS: dict[str, dict[str, Bar]] = {
    "chain": {
        "recall at IoU 0.5": (0.90, 1),
        "mean IoU of the matched": (0.88, 1),
        "AP": (0.65, 1),
        "AP50": (0.88, 1),
        f"{NEGATIVES}, random": (0, 0.02),
        f"{NEGATIVES}, look-alike": (0, 0.08),
        f"{NEGATIVES}, unknown words": (0, 0.02),
    },
    "pairs": {"recall at IoU 0.5": (0.70, 1)},
    "prompts": {
        "box": (0.92, 1),
        "one point, best of three": (0.88, 1),
        "one point, chosen by predicted IoU": (0.78, 1),
        "clicks 9": (0.93, 1),
        "text": (0.65, 1),
        "text and one point": (0.82, 1),
    },
    "clip": {"top-1 among 149 nouns": (0.92, 1)},
    "more phrases": {"scenes changed by CLIP": (0, 0)},
    "refinement": {"gain of one round": (0.005, 1), "gain of two rounds": (0.005, 1)},
    "fallback": {"recall at IoU 0.5": (0.60, 1), NEGATIVES: (0, 0.10)},
    "text alone": {"adapter": (0.65, 1)},
}
TITLES = {
    "chain": "chain",
    "pairs": "unseen colour-noun pairs",
    "prompts": "prompts, mean IoU",
    "clip": "CLIP",
    "zoom": "chain with the zoom",
    "unfiltered": "chain without CLIP filtering",
    "more phrases": "five more phrases in the query",
    "refinement": "refinement of detected boxes, mean IoU",
    "fallback": "automatic masks and CLIP alone",
    "text alone": "text alone, mean IoU",
    "photographs": "chain, photographs as backgrounds",
}


def on_photographs(folder: Path, count: int, split: str) -> Iterable[tuple[int, Scene]]:
    """Scenes on the photographs of a folder, each resized to the sizes that scenes have."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise click.BadParameter(f"{folder} holds no .jpg or .png image", param_hint="--backgrounds")
    made, number = 0, 0
    while made < count:
        image = Image.open(paths[number % len(paths)]).convert("RGB")
        side = int(np.random.default_rng(number).integers(320, MAX_SIDE + 1))
        image.thumbnail((side, side))
        scene = draw_scene(split, number, Recipe(background=np.asarray(image)))
        if scene.objects:
            yield number, scene
            made += 1
        number += 1


def table(results: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table, with the bar of each and whether it was reached."""
    lines = ["| measure | value | bar | |", "|---|---|---|---|"]
    for part, figures in results.items():
        for name, value in figures.items():
            shown, reached = bar_cells(value, BARS.get(part, {}).get(name))
            lines.append(f"| {TITLES[part]}: {name} | {value:.3f} | {shown} | {reached} |")
    return "\n".join(lines)


def run(
    split: str, count: int, parts: Iterable[str], backgrounds: Path | None, overrides: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """All figures of the asked parts."""
    pipeline = Pipeline.from_config("tiny", **overrides)

    def other(**changes: Any) -> Pipeline:
        return Pipeline.from_config("tiny", **{**overrides, **changes})

    def numbered(recipe: Recipe | None = None) -> Iterable[tuple[int, Scene]]:
        return tqdm(measure.scenes(split, count, recipe), total=count, file=sys.stderr, mininterval=2)

    measures: dict[str, Callable[[], dict[str, float]]] = {
        "chain": lambda: measure_chain(pipeline, numbered()),
        "pairs": lambda: measure_unseen_pairs(pipeline, numbered(Recipe(color_pairs="held-out"))),
        "prompts": lambda: measure_prompts(pipeline.segmenter, other(mode="box+text").text_encoder, numbered()),
        "clip": lambda: measure_clip(other(mode="box+text").text_encoder, numbered()),
        "zoom": lambda: measure_chain(other(refinement={"zoom": ZOOM}), numbered()),
        "unfiltered": lambda: measure_chain(other(filtering={"enabled": False}), numbered()),
        "more phrases": lambda: measure_more_phrases(pipeline, numbered()),
        "refinement": lambda: measure_refinement(pipeline, numbered()),
        "fallback": lambda: measure_fallback(other(fallback={"source": "automatic"}), numbered()),
        "text alone": lambda: measure_text_alone(
            {
                name: other(mode="text", text_prompt=name, filtering={"enabled": False})
                for name in ("adapter", "dense-clip")
            },
            numbered(),
        ),
    }
    results = {part: measures[part]() for part in PARTS if part in parts}
    if backgrounds is not None:
        scenes = tqdm(on_photographs(backgrounds, count, split), total=count, file=sys.stderr, mininterval=2)
        results["photographs"] = measure_chain(pipeline, scenes)
    return results


@click.command()
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
@click.option("--scenes", "count", default=500, show_default=True, help="How many scenes.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this part; may be given again.")
@click.option(
    "--backgrounds", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A folder of photographs."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--box-threshold", type=float, help="Another detector threshold than the preset's.")
@click.option(
    "--mode", type=click.Choice(["box", "text", "box+text"]), help="Another prompting mode than the preset's."
)
@click.option("--segany", help="Other weights of segany than the bundled ones: what `segany.load` takes.")
def main(
    split: str,
    count: int,
    parts: tuple[str, ...],
    backgrounds: Path | None,
    json_path: Path | None,
    box_threshold: float | None,
    mode: str | None,
    segany: str | None,
) -> None:
    """Measure the bundled weights."""
    segmenter = None if segany is None else {"checkpoint": segany}
    chosen = {"box_threshold": box_threshold, "mode": mode, "segmenter": segmenter}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    asked = parts or (() if backgrounds else PARTS)
    results = run(split, count, asked, backgrounds, overrides)
    print(table(results))
    if json_path is not None:
        partial = json_path.with_suffix(".tmp")
        partial.write_text(
            json.dumps({"split": split, "scenes": count, **overrides, "results": results}, indent=2) + "\n"
        )
        os.replace(partial, json_path)


if __name__ == "__main__":
    main()
