"""Inputs, buttons and event options that several tabs share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from grounded.config import PipelineConfig
from grounded.query import QuerySettings, query_parameter
from grounded.ui.actions import LOWEST_BOX_THRESHOLD, Actions
from grounded.ui.serving import MODELS

STATE_SECONDS = 4 * 3600.0  # how long a tab that was left open is remembered
# For events of the page alone: no endpoints of the API, and no veil over the components that they change.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# For events that change a user's state: two at once would each miss what the other did.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1}
# The settings that have controls, in the order of `settings_controls`.
CONTROLS = (
    "box_threshold",
    "mode",
    "filtering",
    "clip_threshold",
    "refine_rounds",
    "fallback",
    "fallback_threshold",
)
# The examples lie beside the package; a wheel has none.
_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_DRAWN_WORLD = "bundled:tiny"  # the segmenter that knows drawings alone


def image_input(elem_id: str) -> gr.Image:
    """Inside a layout: where an image is uploaded, pasted or taken."""
    return gr.Image(
        label="Image",
        type="filepath",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        height=300,
        buttons=[],
        elem_id=elem_id,
        alt_text="The image as it was uploaded",
    )


@dataclass(frozen=True)
class ExampleTexts:
    """What to ask of the example images, by their files: photographs, or drawings for networks that know no others."""

    photographs: Mapping[str, str]
    drawings: Mapping[str, str]

    def for_config(self, config: PipelineConfig) -> Mapping[str, str]:
        """Those that fit the models."""
        return self.drawings if config.segmenter.checkpoint == _DRAWN_WORLD else self.photographs


def example_buttons(image: gr.Image, text: gr.Textbox, texts: Mapping[str, str], prefix: str = "") -> None:
    """Inside a layout: lay out and wire a button for each example image, which fills in its text as well.

    Args:
        image: where the example goes.
        text: where its text goes.
        texts: file of the example -> its text.
        prefix: keeps the ids apart from those of another tab.
    """
    found = [(path, words) for name, words in texts.items() if (path := _EXAMPLES / name).is_file()]
    if not found:
        return
    gr.Markdown("Examples", elem_classes="caption")
    with gr.Row(elem_classes="examples"):
        for path, words in found:
            name = path.stem
            button = gr.Button(name.capitalize(), icon=path, size="sm", min_width=80, elem_id=f"{prefix}example-{name}")
            button.click(partial(_load_example, path, words), None, [image, text], **QUIET)


def _load_example(path: Path, words: str) -> tuple[str, str]:
    # The app serves no files but those in its own folder.
    return save_file_to_cache(path, get_upload_folder()), words


def run_and_cancel_buttons(label: str, prefix: str) -> tuple[gr.Button, gr.Button]:
    """Inside a layout: a button that starts a long event, and one that ends it."""
    with gr.Row():
        run = gr.Button(label, variant="primary", min_width=140, elem_id=f"{prefix}run")
        cancel = gr.Button("Cancel", min_width=100, scale=0, elem_id=f"{prefix}cancel")
    return run, cancel


def enable_button() -> Any:
    """The update of a button that was disabled while its event ran."""
    return gr.update(interactive=True)


def scroll_to_result(elem_id: str) -> str:
    """A script for narrow pages, where the result lies below the visible part: scrolls to it."""
    return f"""() => {{
      innerWidth < 800 && document.getElementById("{elem_id}").scrollIntoView({{behavior: "smooth"}})
    }}"""


def clear_failed_upload(opened: Any, upload: gr.Image | gr.Video) -> None:
    """After an event that opens an image or a clip: one that failed would stay on the page as a broken image."""
    opened.failure(lambda: None, None, upload, **QUIET)


def settings_controls(actions: Actions, prefix: str = "") -> list[Any]:
    """Inside a layout: a control for each of `CONTROLS`, at the values of the configuration.

    `prefix` keeps their ids apart from those of another tab.
    """
    defaults = actions.defaults
    modes = [("box", "box")]
    fallbacks = [("none", "none"), ("automatic masks", "automatic")]
    if actions.config.detector.works_on_embeddings:
        fallbacks.append(("objects without names", "objects"))
    if actions.config.prompting.text_prompt != "none":
        modes += [("text", "text"), ("box and text", "box+text")]
        fallbacks += [("text prompt", "text")]
    controls = {
        "box_threshold": gr.Slider(
            min(LOWEST_BOX_THRESHOLD, defaults.box_threshold or 0),
            0.95,
            defaults.box_threshold,
            step=0.005,
            label="Box threshold",
            info="Detector score below which a detection is dropped",
            elem_id=f"{prefix}box-threshold",
        ),
        "mode": gr.Radio(
            modes,
            value=defaults.mode,
            label="Prompt",
            info="What the segmenter is given: the detector's box, the phrase, or both",
            elem_id=f"{prefix}mode",
        ),
        "filtering": gr.Checkbox(
            bool(defaults.filtering),
            label="Filter by CLIP",
            info="Drop detections that do not look like their phrase",
            elem_id=f"{prefix}filtering",
        ),
        "clip_threshold": gr.Slider(
            *_range("clip_threshold"),
            defaults.clip_threshold,
            step=0.01,
            label="CLIP threshold",
            info="CLIP score below which filtering drops a detection",
            elem_id=f"{prefix}clip-threshold",
        ),
        "refine_rounds": gr.Slider(
            *_range("refine_rounds"),
            defaults.refine_rounds,
            step=1,
            label="Refinement rounds",
            info="How often points correct each mask; a round takes as long as the first mask",
            elem_id=f"{prefix}refine-rounds",
        ),
        "fallback": gr.Radio(
            fallbacks,
            value=defaults.fallback,
            label="Fallback",
            info="What is tried for phrases without a detection; automatic masks take a few seconds",
            elem_id=f"{prefix}fallback",
        ),
        "fallback_threshold": gr.Slider(
            *_range("fallback_threshold"),
            defaults.fallback_threshold,
            step=0.01,
            label="Fallback threshold",
            info="CLIP score below which a mask of the fallback is dropped",
            elem_id=f"{prefix}fallback-threshold",
        ),
    }
    return [controls[name] for name in CONTROLS]


def read_settings(values: Sequence[Any]) -> QuerySettings:
    """The settings from the values of `settings_controls`. A browser makes no difference between 1 and 1.0.

    Raises:
        ConfigError: a value is out of range.
    """
    numbers = (int, float)
    types = {name: query_parameter(name).type for name in CONTROLS}
    return QuerySettings(
        **{
            name: types[name](value) if types[name] in numbers else value
            for name, value in zip(CONTROLS, values, strict=True)
        }
    )


def change_events(controls: Sequence[Any]) -> list[Any]:
    """The events in which a user has changed one of the controls: for a slider, letting it go."""
    return [control.release if isinstance(control, gr.Slider) else control.input for control in controls]


def _range(name: str) -> tuple[Any, Any]:
    parameter = query_parameter(name)
    return parameter.low, parameter.high
