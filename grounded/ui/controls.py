"""The settings of the pipeline as controls."""

from typing import Any

import gradio as gr

from grounded.ui.options import Options
from grounded.ui.studio import LOWEST_BOX_THRESHOLD, Studio


def controls(studio: Studio, prefix: str = "") -> list[Any]:
    """Inside a layout: one control for each field of `Options`, in their order, at the position of the defaults.

    `prefix` keeps their ids apart from those of another tab.
    """
    config, at = studio.pipeline.config, studio.defaults
    speaks = config.prompting.text_prompt != "none"
    modes = [("box", "box")]
    fallbacks = [("none", "none"), ("automatic masks", "automatic")]
    if speaks:
        modes += [("text", "text"), ("box and text", "box+text")]
        fallbacks += [("text prompt", "text")]
    chosen = {
        "box_threshold": gr.Slider(
            min(LOWEST_BOX_THRESHOLD, at.box_threshold),
            0.95,
            at.box_threshold,
            step=0.005,
            label="Box threshold",
            info="Detector score below which a detection is dropped",
            elem_id=f"{prefix}box-threshold",
        ),
        "mode": gr.Radio(
            modes,
            value=at.mode,
            label="Prompt",
            info="What the segmenter is given: the detector's box, the phrase, or both",
            elem_id=f"{prefix}mode",
        ),
        "filtering": gr.Checkbox(
            at.filtering,
            label="Filter by CLIP",
            info="Drop detections that do not look like their phrase",
            elem_id=f"{prefix}filtering",
        ),
        "clip_threshold": gr.Slider(
            0,
            1,
            at.clip_threshold,
            step=0.01,
            label="CLIP threshold",
            info="CLIP score below which filtering drops a detection",
            elem_id=f"{prefix}clip-threshold",
        ),
        "refine_rounds": gr.Slider(
            0,
            8,
            at.refine_rounds,
            step=1,
            label="Refinement rounds",
            info="How often points correct each mask; a round takes as long as the first mask",
            elem_id=f"{prefix}refine-rounds",
        ),
        "fallback": gr.Radio(
            fallbacks,
            value=at.fallback,
            label="Fallback",
            info="What is tried for phrases without a detection; automatic masks take a few seconds",
            elem_id=f"{prefix}fallback",
        ),
        "fallback_threshold": gr.Slider(
            0,
            1,
            at.fallback_threshold,
            step=0.01,
            label="Fallback threshold",
            info="CLIP score below which a mask of the fallback is dropped",
            elem_id=f"{prefix}fallback-threshold",
        ),
    }
    return [chosen[name] for name in Options.__dataclass_fields__]


def moved(settings: list[Any]) -> list[Any]:
    """The events that say that a user has moved one of them: a slider when it is let go."""
    return [one.release if isinstance(one, gr.Slider) else one.input for one in settings]
