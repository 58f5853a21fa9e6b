"""The options that several commands share: what each changes in the configuration."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from grounded.cli.options import NAMES, pipeline_options, settings
from grounded.config import load
from grounded.settings import PipelineConfig


@click.command()
@pipeline_options
@click.pass_context
def command(context: click.Context, **fields: Any) -> None:
    assert sorted(fields) == sorted(NAMES)
    context.exit(0)


def asked(*options: str) -> PipelineConfig:
    with command.make_context("command", list(options)) as context:
        return settings(**context.params)


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
        pytest.param(("--zoom", "2.5"), "refinement", "zoom", 2.5, id="closer look"),
        pytest.param(("--zoom", "0"), "refinement", "zoom", None, id="no closer look"),
        pytest.param(("--refine-rounds", "2"), "refinement", "refine_rounds", 2, id="refinement"),
        pytest.param(("--fallback", "automatic"), "fallback", "source", "automatic", id="fallback"),
    ],
)
def test_an_option_changes_its_field_and_nothing_else(
    options: tuple[str, ...], section: str, field: str, expected: Any
):
    config, preset = asked(*options), load("tiny")
    assert getattr(getattr(config, section), field) == expected
    other = {key: value for key, value in config.to_dict().items() if key != section}
    assert other == {key: value for key, value in preset.to_dict().items() if key != section}


def test_without_options_it_is_the_preset():
    assert asked() == load("tiny")
    assert asked("--config", "base") == load("base")
    assert asked("--device", "cpu").device == "cpu"


@pytest.mark.parametrize("options", [("--box-threshold", "2"), ("--mode", "sound"), ("--zoom", "30")], ids=str)
def test_out_of_range(options: tuple[str, ...]):
    assert CliRunner().invoke(command, options).exit_code == 2
