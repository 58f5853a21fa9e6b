import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from grounded.errors import ConfigError, ImageError, PromptError
from grounded.ui import everything, views
from grounded.ui.deadline import TimeLimitError
from grounded.ui.everything import COLUMNS, Shown, open_picture, run, sections, show, shown, stopped, table
from grounded.ui.page import Page
from grounded.ui.studio import Studio
from segany.utils.rle import decode_rle
from tests.data import PICNIC

# Points per side, predicted IoU, stability, region area, crop layers, naming threshold.
QUICK = (6, 0.3, 0.3, 0, 0, 0.3)


def text(html: Any) -> str:
    return re.sub("<[^>]+>", " ", html).strip()


@pytest.fixture(scope="module")
def opened(studio: Studio) -> Page:
    return open_picture(studio, {"path": str(PICNIC), "orig_name": "my picnic.png"}).page


@pytest.fixture(scope="module")
def steps(studio: Studio, opened: Page) -> list[Shown]:
    """All that a search yields, with names."""
    return list(run(studio, opened, "dog. pizza. spoon", *QUICK))


@pytest.fixture(scope="module")
def found(steps: list[Shown]) -> Page:
    return steps[-1].page


def is_skip(update: Any) -> bool:
    return update == {"__type__": "update"}


def test_a_picture_is_opened_under_its_name(opened: Page):
    assert opened.session.name == "my picnic"
    assert opened.session.opened.pixels.size == (640, 480)


def test_no_picture_is_the_beginning(studio: Studio):
    empty = open_picture(studio, None)
    assert empty.page.session.picture is None
    assert empty.picture["value"] is None
    assert "Add a picture" in text(empty.status)


def test_a_broken_picture_says_so(studio: Studio, tmp_path: Path):
    path = tmp_path / "broken.png"
    path.write_bytes(PICNIC.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"broken\.png"):
        open_picture(studio, {"path": str(path)})


def test_a_search_tells_how_far_it_is_and_shows_nothing_before_the_end(studio: Studio, opened: Page):
    steps = list(run(studio, opened, "", 10, *QUICK[1:]))
    assert [text(step.progress).partition(",")[0] for step in steps] == [
        "Encoding the picture",
        "64 of 100 points",
        "Drawing the masks",
        "",
    ]
    kept = [value for step in steps[:-1] for name, value in step._asdict().items() if name not in ("progress", "start")]
    assert all(is_skip(value) for value in kept)


def test_the_button_rests_while_a_search_goes_on(steps: list[Shown]):
    assert [step.start["interactive"] for step in steps if not is_skip(step.start)] == [False, True]


def test_masks_are_named_where_a_word_fits(found: Page):
    labels = found.session.instances.labels.tolist()
    assert {"dog", "unnamed"} <= set(labels)
    assert set(found.session.instances.sources) == {"automatic"}


def test_without_names_all_are_unnamed(studio: Studio, opened: Page):
    end = list(run(studio, opened, "  ", *QUICK))[-1]
    assert set(end.page.session.instances.labels.tolist()) == {"unnamed"}
    assert end.phrases["visible"] is False


def test_the_answer_says_how_many_there_are_of_each_name(steps: list[Shown], found: Page):
    labels = found.session.instances.labels.tolist()
    said = text(steps[-1].status)
    assert f"{len(labels)} masks" in said and f"dog ({labels.count('dog')})" in said and "None of: " in said
    assert [name for _, name in steps[-1].phrases["choices"]] == [n for n in ("dog", "pizza", "unnamed") if n in labels]
    assert steps[-1].downloads["visible"] and steps[-1].table["visible"]


def test_each_mask_has_a_colour_of_its_own(steps: list[Shown]):
    _, tinted = steps[-1].picture["value"]
    colours = steps[-1].picture["color_map"]
    assert len({colours[label] for _, label in tinted}) == len(tinted) > 5


def test_small_masks_lie_above_large_ones_and_keep_their_number(found: Page):
    picture, tinted = sections(found)
    instances = found.session.instances
    assert picture.size == (640, 480)
    areas = [int((tint > 0).sum()) for tint, _ in tinted]
    assert areas == sorted(areas, reverse=True)
    for tint, label in tinted:
        number, _, name = label.partition(" ")
        mask = decode_rle([instances.rles[int(number) - 1]])[0].numpy()
        assert (name or "unnamed") == instances.labels[int(number) - 1]
        assert np.array_equal(tint > 0, mask)


def test_the_picture_shows_the_largest_only(found: Page, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(everything, "MOST_SHOWN", 3)
    count = len(found.session.instances)
    areas = sorted((row[4] for row in table(found.session.instances)), reverse=True)
    answer = shown(found)
    assert [int((tint > 0).sum()) for tint, _ in answer.picture["value"][1]] == areas[:3]
    assert f"the 3 largest masks; the downloads have all {count}" in text(answer.status)


def test_names_can_be_hidden(found: Page):
    dogs = found.session.instances.labels.tolist().count("dog")
    answer = show(found, ["dog"])
    assert [label.partition(" ")[2] for _, label in answer.picture["value"][1]] == ["dog"] * dogs
    assert answer.phrases["value"] == ["dog"]
    assert sections(show(found, []).page)[1] == []


def test_the_table_has_a_row_for_each_mask(found: Page):
    rows, instances = table(found.session.instances), found.session.instances
    assert [row[:2] for row in rows] == [[n + 1, label] for n, label in enumerate(instances.labels.tolist())]
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert [[row[2], row[3], row[4]] for row in rows] == [[row[4], row[5], row[6]] for row in views.table(instances)]


def test_nothing_found_says_what_to_do(studio: Studio, opened: Page):
    end = list(run(studio, opened, "", 2, 1.0, *QUICK[2:]))[-1]
    assert "Nothing was found. Lower the thresholds" in " ".join(text(end.status).split())
    assert not end.downloads["visible"] and not end.table["visible"]
    assert end.picture["value"][1] == []


def test_crops_find_more(studio: Studio, opened: Page):
    steps = list(run(studio, opened, "", 4, 0.3, 0.3, 0, 1, 0.3))
    # A grid of 4 by 4, and in each of 4 crops one of half as many points to a side.
    assert any("of 32 points" in step.progress for step in steps)


def test_small_regions_are_removed(studio: Studio, opened: Page):
    def regions(min_area: int) -> list[int]:
        """Areas of all but the largest region of each mask."""
        end = list(run(studio, opened, "", 4, 0.3, 0.3, min_area, 0, 0.3))[-1]
        masks = (decode_rle([rle])[0].numpy() for rle in end.page.session.instances.rles)
        numbered = (ndimage.label(mask, np.ones((3, 3)))[0] for mask in masks)
        return [area for numbers in numbered for area in sorted(np.bincount(numbers.ravel())[1:])[:-1]]

    assert min(regions(0)) < 300
    assert min(regions(300), default=300) >= 300


def test_another_search_keeps_the_embedding(studio: Studio, found: Page):
    end = list(run(studio, found, "", *QUICK))[-1]
    assert "encode" not in end.page.session.seconds


@pytest.mark.parametrize(
    "names, settings, error",
    [
        pytest.param(" . ; ", QUICK, PromptError, id="no name in the text"),
        pytest.param("", (0, *QUICK[1:]), ValueError, id="no points"),
    ],
)
def test_after_an_error_no_bar_is_left_and_another_search_can_begin(
    studio: Studio, opened: Page, names: str, settings: tuple[float, ...], error: type[Exception]
):
    told = []
    with pytest.raises(error):
        for step in run(studio, opened, names, *settings):
            told.append((step.progress, step.start))
    assert told[-1] == ("", {"interactive": True, "__type__": "update"})


def test_without_a_picture_there_is_no_search(studio: Studio):
    with pytest.raises(PromptError, match="no picture yet"):
        next(iter(run(studio, Page(), "", *QUICK)))


def test_names_need_clip(studio: Studio, opened: Page):
    without = replace(studio, pipeline=replace(studio.pipeline.with_config(filtering={"enabled": False}), scorer=None))
    with pytest.raises(ConfigError, match="naming"):
        list(run(without, opened, "dog", *QUICK))


def test_a_search_ends_when_the_time_is_up(studio: Studio, opened: Page):
    hurried = replace(studio, limits=replace(studio.limits, seconds=0.0))
    with pytest.raises(TimeLimitError):
        list(run(hurried, opened, "", *QUICK))


def test_a_search_that_is_closed_ends_and_leaves_the_page(studio: Studio, opened: Page):
    search = run(studio, opened, "", 20, *QUICK[1:])
    told = [next(search).progress for _ in range(2)]
    search.close()  # type: ignore[attr-defined]
    assert "64 of 400" in told[-1]
    assert opened.session.work is None
    assert next(search, None) is None
    assert "Cancelled" in stopped()
