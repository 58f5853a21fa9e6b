"""Measure `photo` on validation photographs and print a table: `python -m recipes.photo.evaluate --data FOLDER`.

FOLDER holds `voc-val.json`, `coco-val.json` and `train.json` with their images, as in `recipes.photo.data`.
`--config tiny` measures another preset in the same way; `--json FILE` keeps the figures, and `--beside FILE` shows
those of an earlier measurement in a column of their own.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click
from tqdm import tqdm

from grounded import Pipeline
from grounded.utils.files import atomic_files, json_bytes
from recipes.bars import Bar, bar_cells
from recipes.photo.measure_chain import LOWEST_SCORE, measure_chain, measure_detector
from recipes.photo.measure_clip import measure_clip
from recipes.photo.measure_prompts import measure_prompts
from recipes.photo.validation import Example, Validation, rare_names

PARTS = ("prompts", "detector", "chain", "clip", "rare names")
SPLITS = ("voc-val", "coco-val")
# What the weights are asked to reach: split -> part -> figure -> (least, most).
BARS: dict[str, dict[str, dict[str, Bar]]] = {
    "voc-val": {
        "prompts": {"box": (0.70, 1), "one point, best of three": (0.62, 1), "text": (0.65, 1)},
        "detector": {"AP50": (0.42, 1)},
        "chain": {"mask AP50": (0.36, 1), "absent phrases with a mask": (0, 0.10)},
        "clip": {"top-1": (0.75, 1)},
    },
    "coco-val": {
        "prompts": {"box": (0.58, 1)},
        "detector": {"AP50": (0.18, 1)},
        "clip": {"top-1": (0.45, 1)},
        "rare names": {"recall at IoU 0.5": (0.20, 1)},
    },
}
Results = dict[str, dict[str, dict[str, float]]]  # split -> part -> figure


def measure(
    folder: Path, split: str, config: str, parts: Iterable[str], limit: int | None
) -> dict[str, dict[str, float]]:
    """All figures of the asked parts on one split."""
    pipeline = Pipeline.from_config(config)

    def examples(names: list[str] | None = None) -> Iterable[Example]:
        found = Validation(folder, split, limit, names)
        return tqdm(found, desc=f"{split} {config}", unit="image", file=sys.stderr, mininterval=2)

    def prompts() -> dict[str, float]:
        encoder = Pipeline.from_config(config, mode="box+text").text_encoder
        assert encoder is not None
        return measure_prompts(pipeline.segmenter, encoder, examples())

    def detector() -> dict[str, float]:
        low = Pipeline.from_config(config, box_threshold=LOWEST_SCORE, filtering={"enabled": False})
        return measure_detector(low, examples())

    def rare() -> dict[str, float]:
        names = rare_names(folder, split)
        found = measure_chain(pipeline, examples(names)) if names else {}
        return {name: value for name, value in found.items() if name == "recall at IoU 0.5"}

    measures: dict[str, Callable[[], dict[str, float]]] = {
        "prompts": prompts,
        "detector": detector,
        "chain": lambda: measure_chain(pipeline, examples()),
        "clip": lambda: measure_clip(Pipeline.from_config(config, mode="box+text").text_encoder, folder, split, limit),
        "rare names": rare,
    }
    return {part: measures[part]() for part in PARTS if part in parts}


def table(results: Results, beside: Mapping[str, Results] | None = None) -> str:
    """The figures as a Markdown table, with the bar of each and whether it was reached.

    Args:
        results: the figures.
        beside: those of other presets on the same photographs, by their names: a column each.
    """
    others = beside or {}
    head = ["photographs", "measure", "value", "bar", "", *others]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for split, parts in results.items():
        for part, figures in parts.items():
            for name, value in figures.items():
                known = [other.get(split, {}).get(part, {}).get(name) for other in others.values()]
                cells = [
                    *(split, f"{part}: {name}", _show(value)),
                    *bar_cells(value, BARS.get(split, {}).get(part, {}).get(name)),
                    *("" if one is None else _show(one) for one in known),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _show(value: float) -> str:
    return f"{value:.3f}" if value <= 1 else f"{value:g}"  # a share, or how many crops there are


@click.command()
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--split", "splits", type=click.Choice(SPLITS), multiple=True, help="Only this one; may be given again.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this part; may be given again.")
@click.option("--config", default="photo", show_default=True, help="A preset, or a YAML file.")
@click.option("--limit", type=click.IntRange(1), help="Photographs of a split, the first.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option(
    "--beside",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Show the figures of such a file too; may be given again.",
)
def main(
    folder: Path,
    splits: tuple[str, ...],
    parts: tuple[str, ...],
    config: str,
    limit: int | None,
    json_path: Path | None,
    beside: tuple[Path, ...],
) -> None:
    """Measure the bundled weights on photographs that no training has seen."""
    asked = parts or PARTS
    results = {split: measure(folder, split, config, asked, limit) for split in splits or SPLITS}
    others = [json.loads(path.read_text()) for path in beside]
    click.echo(table(results, {other["config"]: other["results"] for other in others}))
    if json_path is not None:
        with atomic_files() as write:
            write(json_path, json_bytes({"config": config, "limit": limit, "results": results}))


if __name__ == "__main__":
    main()
