from dataclasses import replace

import gradio as gr
import pytest

from grounded.settings import ClipConfig, DetectorConfig, SegmenterConfig
from grounded.ui.demo import build_demo, header
from grounded.ui.endpoints import ENDPOINTS
from grounded.ui.limits import Limits
from grounded.ui.studio import Studio


@pytest.fixture(scope="module")
def demo(studio: Studio) -> gr.Blocks:
    return build_demo(studio)


def test_three_tabs(demo: gr.Blocks):
    tabs = [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    assert [label for label in tabs if label in ("Segment", "Everything", "Several pictures")] == [
        "Segment",
        "Everything",
        "Several pictures",
    ]


def test_the_endpoints_are_all_that_is_public(demo: gr.Blocks):
    public = {event.api_name for event in demo.fns.values() if event.api_visibility == "public" and event.api_name}
    assert public == set(ENDPOINTS)


def test_element_names_are_unique(demo: gr.Blocks):
    names = [block.elem_id for block in demo.blocks.values() if getattr(block, "elem_id", None)]
    assert sorted(names) == sorted(set(names))


def test_the_header_tells_what_the_models_know_and_the_limits(studio: Studio):
    bundled = header(replace(studio, limits=Limits(max_side=512, max_file_mb=7)))
    assert "drawn scenes only, not photographs" in bundled and "7 MB" in bundled and "512 pixels" in bundled


def test_the_header_names_other_models(studio: Studio):
    config = replace(
        studio.pipeline.config,
        detector=DetectorConfig(checkpoint="some/detector"),
        clip=ClipConfig(checkpoint="ViT-B-32/openai"),
        segmenter=SegmenterConfig(checkpoint="sam_vit_b.pth"),
    )
    other = header(replace(studio, pipeline=replace(studio.pipeline, config=config)))
    assert "some/detector" in other and "ViT-B-32/openai" in other and "sam_vit_b.pth" in other
    assert "drawn" not in other
