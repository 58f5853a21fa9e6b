"""The options that several commands share: what each changes in the configuration."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from grounded.cli.options import pipeline_options, read_config
from grounded.config import PipelineConfig, load
from grounded.query import QuerySettings, query_parameter


@click.command()
@pipeline_options
@click.pass_context
def command(context: click.Context, **fields: Any) -> None:
    context.exit(0)


def config_of(*options: str) -> PipelineConfig:
    with command.make_context("command", list(options)) as context:
        return read_config(**context.params)


@pytest.mark.parametrize(
    ("options", "section", "field", "expected"),
    [
        pytest.param(("--box-threshold", "0.4"), "detector", "box_threshold", 0.4, id="box threshold"),
        pytest.param(("--mode", "text"), "prompting", "mode", "text", id="mode"),
        pytest.param(("--text-prompt", "none", "--mode", "box"), "prompting", "text_prompt", "none", id="text prompt"),
        pytest.param(("--no-filter",), "filtering", "enabled", False, id="no filter"),
        pytest.param(("--filter",), "filtering", "enabled", True, id="filter"),
        pytest.param(("--clip-threshold", "0.3"), "filtering", "clip_threshold", 0.3, id="CLIP threshold"),
        pytest.param(("--min-mask-region-area", "40"), "refinement", "min_mask_region_area", 40, id="small regions"),
        pytest.param(("--zoom", "2.5"), "refinement", "zoom", 2.5, id="zoom"),
        pytest.param(("--zoom", "0"), "refinement", "zoom", None, id="no zoom"),
        pytest.param(("--refine-rounds", "2"), "refinement", "refine_rounds", 2, id="refinement"),
        pytest.param(("--fallback", "automatic"), "fallback", "source", "automatic", id="fallback"),
    ],
)
def test_an_option_changes_its_field_and_nothing_else(
    options: tuple[str, ...], section: str, field: str, expected: Any
):
    config, preset = config_of(*options), load("tiny")
    assert getattr(getattr(config, section), field) == expected
    other = {key: value for key, value in config.to_dict().items() if key != section}
    assert other == {key: value for key, value in preset.to_dict().items() if key != section}


def test_without_options_it_is_the_preset():
    assert config_of() == load("tiny")
    assert config_of("--config", "base") == load("base")
    assert config_of("--device", "cpu").device == "cpu"


def test_help_is_what_the_settings_say():
    lines = " ".join(CliRunner().invoke(command, ["--help"]).stdout.split())
    offered = [name for name in QuerySettings.__dataclass_fields__ if name != "fallback_threshold"]
    assert all(query_parameter(name).description in lines for name in offered)


@pytest.mark.parametrize("options", [("--box-threshold", "2"), ("--mode", "sound"), ("--zoom", "30")], ids=str)
def test_out_of_range(options: tuple[str, ...]):
    assert CliRunner().invoke(command, options).exit_code == 2
