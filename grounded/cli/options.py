"""Command-line options that change a pipeline's configuration, for commands that run one over many images."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from grounded.config import DEFAULT_PRESET, DEFAULT_VARIABLE, PipelineConfig, default_source, load, override
from grounded.query import Parameter, QuerySettings, query_parameter

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    default=default_source,
    show_default=f"{DEFAULT_PRESET}, or {DEFAULT_VARIABLE} of the environment",
    help="Name of a preset, or path of a YAML file.",
)

# Fields of `QuerySettings`, in the order in which help lists them.
_SETTINGS = (
    "box_threshold",
    "mode",
    "text_prompt",
    "filtering",
    "clip_threshold",
    "zoom",
    "refine_rounds",
    "min_mask_region_area",
    "fallback",
)


def pipeline_options(command: F) -> F:
    """Decorate a command with --config, --device and an option for each setting; `read_config` takes their values."""
    options = (
        config_option,
        *(_setting_option(query_parameter(name)) for name in _SETTINGS),
        click.option("--device", help="auto, cpu, cuda, cuda:1, ..."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_config(config: str, device: str | None, **settings: Any) -> PipelineConfig:
    """The configuration that the values of `pipeline_options` describe.

    Args:
        config: name of a preset, or path of a YAML file.
        device: None for the one in the configuration.
        settings: of `QuerySettings`.

    Raises:
        ConfigError: no such configuration, or settings that do not fit one another.
    """
    changed = QuerySettings(**settings).apply(load(config))
    return changed if device is None else override(changed, device=device)


def _setting_option(setting: Parameter) -> Callable[[F], F]:
    if setting.name == "filtering":  # a flag and its opposite
        return click.option("--filter/--no-filter", setting.name, default=None, help=setting.description)
    types: dict[type, click.ParamType] = {
        str: click.Choice(setting.choices),
        int: click.IntRange(setting.low, setting.high),
        float: click.FloatRange(setting.low, setting.high),
    }
    return click.option(f"--{setting.name.replace('_', '-')}", type=types[setting.type], help=setting.description)


def segmenter_options(command: F) -> F:
    """Decorate a command with --config, --segmenter and --device; `read_segmenter` takes their values."""
    options = (
        config_option,
        click.option(
            "--segmenter",
            metavar="CHECKPOINT",
            help="Segmenter instead of the preset's: a file, a folder, a hub id, or bundled:NAME.",
        ),
        click.option("--device", help="auto, cpu, cuda, cuda:1, ..."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_segmenter(config: str, segmenter: str | None, device: str | None) -> PipelineConfig:
    """The configuration that the values of `segmenter_options` describe.

    Raises:
        ConfigError: no such configuration.
    """
    changed = load(config)
    if segmenter is not None:
        changed = override(changed, segmenter={"checkpoint": segmenter})
    return changed if device is None else override(changed, device=device)
