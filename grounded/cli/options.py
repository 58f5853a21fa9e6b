"""Command-line options that change a pipeline's configuration, for commands that run one over many pictures."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from grounded.config import load, override
from grounded.settings import PipelineConfig

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--config", default="tiny", show_default=True, help="Name of a preset, or path of a YAML file."),
    click.option("--box-threshold", type=click.FloatRange(0, 1), help="Lowest detector score to keep."),
    click.option("--mode", type=click.Choice(["box", "text", "box+text"]), help="What the segmenter is prompted with."),
    click.option(
        "--text-prompt",
        type=click.Choice(["adapter", "dense-clip", "none"]),
        help="How a phrase reaches the segmenter: as a token of its own, or as points and a coarse mask from CLIP.",
    ),
    click.option(
        "--filter/--no-filter", "filtering", default=None, help="Let CLIP drop what does not look like its phrase."
    ),
    click.option("--clip-threshold", type=click.FloatRange(0, 1), help="Lowest CLIP score that filtering keeps."),
    click.option(
        "--zoom",
        type=click.FloatRange(0, 20),
        help="Segment small instances again, each in a window of so many times its box; 0 does not.",
    ),
    click.option("--refine-rounds", type=click.IntRange(0, 8), help="Rounds of correcting the masks by points."),
    click.option(
        "--min-mask-region-area", type=click.IntRange(0), help="Remove holes and islands of masks of fewer pixels."
    ),
    click.option(
        "--fallback",
        type=click.Choice(["none", "automatic", "text"]),
        help="What is tried for phrases that the detector missed.",
    ),
    click.option("--device", help="auto, cpu, cuda, cuda:1, ..."),
)
NAMES = "config box_threshold mode text_prompt filtering clip_threshold zoom refine_rounds".split()
NAMES += "min_mask_region_area fallback device".split()


def pipeline_options(command: F) -> F:
    """Add the options to a command, in the order in which they stand here; it receives them as `NAMES`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings(
    config: str, filtering: bool | None, fallback: str | None, zoom: float | None, **fields: Any
) -> PipelineConfig:
    """The configuration that the options ask for. Raises ConfigError."""
    given = {name: value for name, value in fields.items() if value is not None}
    given |= {} if filtering is None else {"filtering": {"enabled": filtering}}
    given |= {} if zoom is None else {"zoom": zoom or None}
    given |= {} if fallback is None else {"fallback": {"source": fallback}}
    return override(load(config), **given)
