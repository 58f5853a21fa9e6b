"""The events of the tab that finds masks of everything, and how it is built and wired."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from scipy import ndimage

from grounded.config import FallbackConfig
from grounded.errors import ConfigError, ImageError, PromptError
from grounded.ui import everything_tab as module
from grounded.ui import views
from grounded.ui.actions import MAX_POINTS_PER_SIDE, Actions
from grounded.ui.everything_tab import (
    COLUMNS,
    EverythingOutputs,
    everything_tab,
    largest_masks,
    mask_table,
    open_image,
    outputs,
    run_search,
    show_phrases,
)
from grounded.ui.progress import TimeLimitError
from grounded.ui.serving import MODELS
from grounded.ui.state import AppState
from segany.utils.rle import decode_rle
from tests.data import PICNIC
from tests.grounded.ui.uploads import upload

# Points per side, predicted IoU, stability, region area, crop layers, naming threshold.
QUICK = (6, 0.3, 0.3, 0, 0, 0.3)


def text(html: Any) -> str:
    return re.sub("<[^>]+>", " ", html).strip()


@pytest.fixture(scope="module")
def opened(actions: Actions) -> AppState:
    return open_image(actions, upload(PICNIC, "my picnic.png")).state


@pytest.fixture(scope="module")
def steps(actions: Actions, opened: AppState) -> list[EverythingOutputs]:
    """All that a search yields, with names."""
    return list(run_search(actions, opened, "dog. pizza. spoon", *QUICK))


@pytest.fixture(scope="module")
def found(steps: list[EverythingOutputs]) -> AppState:
    return steps[-1].state


def is_skip(update: Any) -> bool:
    return update == {"__type__": "update"}


def test_an_image_is_opened_under_its_name(opened: AppState):
    assert opened.name == "my picnic"
    assert opened.require_image().pixels.size == (640, 480)


def test_no_image_is_the_beginning(actions: Actions):
    empty = open_image(actions, None)
    assert empty.state.image is None
    assert empty.annotated["value"] is None
    assert "Add an image" in text(empty.status)


def test_a_broken_image_raises(actions: Actions, tmp_path: Path):
    path = tmp_path / "broken.png"
    path.write_bytes(PICNIC.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"broken\.png"):
        open_image(actions, upload(path))


@pytest.mark.slow
def test_a_search_reports_progress_and_shows_nothing_before_the_end(actions: Actions, opened: AppState):
    steps = list(run_search(actions, opened, "", 10, *QUICK[1:]))
    assert [text(step.progress).partition(",")[0] for step in steps] == [
        "Encoding the image",
        "64 of 100 points",
        "Drawing the masks",
        "",
    ]
    kept = [value for step in steps[:-1] for name, value in step._asdict().items() if name not in ("progress", "run")]
    assert all(is_skip(value) for value in kept)


def test_the_button_is_disabled_while_a_search_is_running(steps: list[EverythingOutputs]):
    assert [step.run["interactive"] for step in steps if not is_skip(step.run)] == [False, True]


def test_masks_are_named_where_a_word_fits(found: AppState):
    labels = found.instances.labels.tolist()
    assert {"dog", "unnamed"} <= set(labels)
    assert set(found.instances.sources) == {"automatic"}


def test_without_names_all_are_unnamed(actions: Actions, opened: AppState):
    end = list(run_search(actions, opened, "  ", *QUICK))[-1]
    assert set(end.state.instances.labels.tolist()) == {"unnamed"}
    assert end.phrases["visible"] is False


def test_the_status_says_how_many_there_are_of_each_name(steps: list[EverythingOutputs], found: AppState):
    labels = found.instances.labels.tolist()
    line = text(steps[-1].status)
    assert f"{len(labels)} masks" in line and f"dog ({labels.count('dog')})" in line and "None of: " in line
    assert [name for _, name in steps[-1].phrases["choices"]] == [n for n in ("dog", "pizza", "unnamed") if n in labels]
    assert steps[-1].downloads["visible"] and steps[-1].table["visible"]


def test_each_mask_has_a_colour_of_its_own(steps: list[EverythingOutputs]):
    _, tinted = steps[-1].annotated["value"]
    colours = steps[-1].annotated["color_map"]
    assert len({colours[label] for _, label in tinted}) == len(tinted) > 5


def test_small_masks_lie_above_large_ones_and_keep_their_number(found: AppState):
    image, tinted = largest_masks(found)
    instances = found.instances
    assert image.size == (640, 480)
    areas = [int((tint > 0).sum()) for tint, _ in tinted]
    assert areas == sorted(areas, reverse=True)
    for tint, label in tinted:
        number, _, name = label.partition(" ")
        mask = decode_rle([instances.rles[int(number) - 1]])[0].numpy()
        assert (name or "unnamed") == instances.labels[int(number) - 1]
        assert np.array_equal(tint > 0, mask)


def test_the_image_shows_the_largest_only(found: AppState, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_SHOWN", 3)
    count = len(found.instances)
    areas = sorted((row[4] for row in mask_table(found.instances)), reverse=True)
    shown = outputs(found)
    assert [int((tint > 0).sum()) for tint, _ in shown.annotated["value"][1]] == areas[:3]
    assert f"the 3 largest masks; the downloads have all {count}" in text(shown.status)


def test_names_can_be_hidden(found: AppState):
    dogs = found.instances.labels.tolist().count("dog")
    shown = show_phrases(found, ["dog"])
    assert [label.partition(" ")[2] for _, label in shown.annotated["value"][1]] == ["dog"] * dogs
    assert shown.phrases["value"] == ["dog"]
    assert largest_masks(show_phrases(found, []).state)[1] == []


def test_the_table_has_a_row_for_each_mask(found: AppState):
    rows, instances = mask_table(found.instances), found.instances
    assert [row[:2] for row in rows] == [[n + 1, label] for n, label in enumerate(instances.labels.tolist())]
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert [[row[2], row[3], row[4]] for row in rows] == [
        [row[4], row[5], row[6]] for row in views.instance_table(instances)
    ]


def test_nothing_found_says_what_to_do(actions: Actions, opened: AppState):
    end = list(run_search(actions, opened, "", 2, 1.0, *QUICK[2:]))[-1]
    assert "Nothing was found. Lower the thresholds" in " ".join(text(end.status).split())
    assert not end.downloads["visible"] and not end.table["visible"]
    assert end.annotated["value"][1] == []


@pytest.mark.slow
def test_crops_find_more(actions: Actions, opened: AppState):
    steps = list(run_search(actions, opened, "", 4, 0.3, 0.3, 0, 1, 0.3))
    # A grid of 4 by 4, and in each of 4 crops one of half as many points to a side.
    assert any("of 32 points" in step.progress for step in steps)


def test_small_regions_are_removed(actions: Actions, opened: AppState):
    def regions(min_area: int) -> list[int]:
        """Areas of all but the largest region of each mask."""
        end = list(run_search(actions, opened, "", 4, 0.3, 0.3, min_area, 0, 0.3))[-1]
        masks = (decode_rle([rle])[0].numpy() for rle in end.state.instances.rles)
        numbered = (ndimage.label(mask, np.ones((3, 3)))[0] for mask in masks)
        return [area for numbers in numbered for area in sorted(np.bincount(numbers.ravel())[1:])[:-1]]

    assert min(regions(0)) < 300
    assert min(regions(300), default=300) >= 300


def test_another_search_keeps_the_embedding(actions: Actions, found: AppState):
    end = list(run_search(actions, found, "", *QUICK))[-1]
    assert "encode" not in end.state.seconds


@pytest.mark.parametrize(
    "names, settings, error",
    [
        pytest.param(" . ; ", QUICK, PromptError, id="no name in the text"),
        pytest.param("", (0, *QUICK[1:]), ValueError, id="no points"),
    ],
)
def test_after_an_error_no_bar_is_left_and_another_search_can_begin(
    actions: Actions, opened: AppState, names: str, settings: tuple[float, ...], error: type[Exception]
):
    reports = []
    with pytest.raises(error):
        for step in run_search(actions, opened, names, *settings):
            reports.append((step.progress, step.run))
    assert reports[-1] == ("", {"interactive": True, "__type__": "update"})


def test_without_an_image_there_is_no_search(actions: Actions):
    with pytest.raises(PromptError, match="no image yet"):
        next(iter(run_search(actions, AppState(), "", *QUICK)))


def test_names_need_clip(actions: Actions, opened: AppState):
    without = replace(
        actions, pipeline=replace(actions.pipeline.with_config(filtering={"enabled": False}), scorer=None)
    )
    with pytest.raises(ConfigError, match="naming"):
        list(run_search(without, opened, "dog", *QUICK))


def test_a_search_ends_when_the_time_is_up(actions: Actions, opened: AppState):
    hurried = replace(actions, limits=replace(actions.limits, seconds=0.0))
    with pytest.raises(TimeLimitError):
        list(run_search(hurried, opened, "", *QUICK))


def test_a_search_that_is_closed_ends_and_leaves_the_state(actions: Actions, opened: AppState):
    search = run_search(actions, opened, "", 20, *QUICK[1:])
    reports = [next(search).progress for _ in range(2)]
    search.close()  # type: ignore[attr-defined]
    assert "64 of 400" in reports[-1]
    assert opened.edits is None
    assert next(search, None) is None


def built(actions: Actions) -> gr.Blocks:
    with gr.Blocks() as demo:
        everything_tab(actions)
    return demo


def by_id(demo: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}


@pytest.fixture(scope="module")
def demo(actions: Actions) -> gr.Blocks:
    return built(actions)


def triggered_by(demo: gr.Blocks, name: str) -> list[Any]:
    number = by_id(demo)[name]._id
    return [event for event in demo.fns.values() if any(target[0] == number for target in event.targets)]


def test_the_search_waits_in_line_with_all_that_use_the_models(demo: gr.Blocks):
    (search,) = triggered_by(demo, "everything-run")
    assert (search.concurrency_id, search.concurrency_limit) == (MODELS, 1)
    assert search.types_generator


@pytest.mark.parametrize("name", ["everything-cancel", "everything-image"])
def test_it_is_ended_by_cancel_and_by_another_image(demo: gr.Blocks, name: str):
    (search,) = triggered_by(demo, "everything-run")
    assert [search._id] in [event.cancels for event in triggered_by(demo, name)]


def test_its_events_are_no_endpoints(demo: gr.Blocks):
    assert {event.api_visibility for event in demo.fns.values()} == {"private"}


def test_all_controls_have_labels(demo: gr.Blocks):
    forms = (gr.Slider, gr.Textbox, gr.Image, gr.CheckboxGroup, gr.Dataframe, gr.AnnotatedImage)
    labels = [block.label for block in demo.blocks.values() if isinstance(block, forms)]
    assert len(labels) == 11 and all(labels)


@pytest.mark.parametrize(
    "fallback, shown",
    [
        pytest.param(FallbackConfig(), (16, 0.8, 0.9, 100), id="defaults"),
        pytest.param(FallbackConfig(points_per_side=100), (MAX_POINTS_PER_SIDE, 0.8, 0.9, 100), id="too many points"),
        pytest.param(
            FallbackConfig(pred_iou_thresh=0.3, stability_score_thresh=0.3), (16, 0.6, 0.6, 100), id="too lenient"
        ),
    ],
)
def test_the_settings_are_those_of_the_configuration_where_its_masks_are_worth_showing(
    actions: Actions, fallback: FallbackConfig, shown: tuple[float, ...]
):
    config = replace(actions.config, fallback=fallback)
    blocks = by_id(built(replace(actions, config=config)))
    assert tuple(blocks[f"everything-{name}"].value for name in ("points", "iou", "stability", "area")) == shown
