import inspect
import re

import gradio as gr
import pytest

from grounded.ui.theme import look


def test_launch_takes_it():
    assert set(look()) <= set(inspect.signature(gr.Blocks.launch).parameters)


def test_nothing_is_fetched_from_elsewhere():
    given = look()
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
    theme = look()["theme"]

    def resolved(name: str) -> str:
        value = getattr(theme, f"{name}_dark", None) if dark else None
        value = value or getattr(theme, name)
        while value.startswith("*"):
            inner = value[1:]
            value = (getattr(theme, f"{inner}_dark", None) if dark else None) or getattr(theme, inner)
        return {"white": "#ffffff", "black": "#000000"}.get(value, value)

    light, deep = sorted((luminance(resolved(ink)), luminance(resolved(paper))), reverse=True)
    assert (light + 0.05) / (deep + 0.05) >= 4.5
