import inspect
import re
from dataclasses import replace

import gradio as gr
import pytest

from grounded.config import ClipConfig, DetectorConfig, SegmenterConfig
from grounded.ui.actions import Actions
from grounded.ui.api import ENDPOINTS
from grounded.ui.app import appearance, build_demo, header
from grounded.ui.state import Limits


@pytest.fixture(scope="module")
def demo(actions: Actions) -> gr.Blocks:
    return build_demo(actions)


def test_four_tabs(demo: gr.Blocks):
    tabs = [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    wanted = ["Segment", "Everything", "Several images", "Video"]
    assert [label for label in tabs if label in wanted] == wanted


def test_the_endpoints_are_all_that_is_public(demo: gr.Blocks):
    public = {event.api_name for event in demo.fns.values() if event.api_visibility == "public" and event.api_name}
    assert public == set(ENDPOINTS)


def test_element_names_are_unique(demo: gr.Blocks):
    names = [block.elem_id for block in demo.blocks.values() if getattr(block, "elem_id", None)]
    assert sorted(names) == sorted(set(names))


def test_the_header_tells_what_the_models_know_and_the_limits(actions: Actions):
    bundled = header(replace(actions, limits=Limits(max_side=512, max_file_mb=7)))
    assert "drawn scenes only, not photographs" in bundled and "7 MB" in bundled and "512 pixels" in bundled


def test_the_header_names_other_models(actions: Actions):
    config = replace(
        actions.config,
        detector=DetectorConfig(checkpoint="some/detector"),
        clip=ClipConfig(checkpoint="ViT-B-32/openai"),
        segmenter=SegmenterConfig(checkpoint="sam_vit_b.pth"),
    )
    other = header(replace(actions, config=config))
    assert "some/detector" in other and "ViT-B-32/openai" in other and "sam_vit_b.pth" in other
    assert "drawn" not in other


def test_launch_takes_it():
    assert set(appearance()) <= set(inspect.signature(gr.Blocks.launch).parameters)


def test_nothing_is_fetched_from_elsewhere():
    given = appearance()
    assert given["theme"]._stylesheets == []
    assert not re.search(r"https?:|@import", given["css"] + given["head"])


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 has it."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("body_text_color", "body_background_fill"),
        ("body_text_color_subdued", "body_background_fill"),
        ("block_info_text_color", "block_background_fill"),
        ("block_label_text_color", "block_label_background_fill"),
        ("block_title_text_color", "block_background_fill"),
        ("button_primary_text_color", "button_primary_background_fill"),
        ("button_secondary_text_color", "button_secondary_background_fill"),
        ("button_cancel_text_color", "button_cancel_background_fill"),
        ("input_placeholder_color", "input_background_fill"),
    ],
)
def test_text_has_contrast(ink: str, paper: str, dark: bool):
    theme = appearance()["theme"]

    def resolved(name: str) -> str:
        value = getattr(theme, f"{name}_dark", None) if dark else None
        value = value or getattr(theme, name)
        while value.startswith("*"):
            inner = value[1:]
            value = (getattr(theme, f"{inner}_dark", None) if dark else None) or getattr(theme, inner)
        return {"white": "#ffffff", "black": "#000000"}.get(value, value)

    light, deep = sorted((luminance(resolved(ink)), luminance(resolved(paper))), reverse=True)
    assert (light + 0.05) / (deep + 0.05) >= 4.5
