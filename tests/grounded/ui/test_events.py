import shutil
from dataclasses import astuple, replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageColor

from grounded.errors import ImageError, PromptError
from grounded.ui import events as module
from grounded.ui.deadline import TimeLimitError
from grounded.ui.events import Events, Front, Rest
from grounded.ui.limits import Limits
from grounded.ui.page import Page
from grounded.ui.strokes import GREEN
from grounded.ui.studio import Studio
from tests.data import PICNIC
from tests.grounded.counting import counted

DOG, SKY = (480, 260), (60, 30)


@pytest.fixture(scope="module")
def events(studio: Studio) -> Events:
    return Events(studio)


@pytest.fixture(scope="module")
def asked(events: Events) -> Page:
    """The example after a question about two of the things in it."""
    return ask(events, opened(events))


def opened(events: Events, path: Path = PICNIC) -> Page:
    return events.open({"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}).page


def ask(events: Events, page: Page, text: str = "a dog. pizza", **changes: object) -> Page:
    return events.run(page, text, *astuple(events.studio.defaults.changed(**changes)), progress=quiet).page


def quiet(share: float, desc: str) -> None:
    """Progress that nobody sees."""


def at(x: int, y: int) -> gr.SelectData:
    return gr.SelectData(None, {"index": [x, y], "value": None})


def number(index: int) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": None})


def labels(page: Page) -> list[str]:
    return page.session.instances.labels.tolist()


def areas(page: Page) -> list[int]:
    return page.session.instances.masks.sum(axis=(1, 2)).tolist()


class TestOpen:
    def test_a_picture_begins_anew(self, events: Events, asked: Page):
        page, canvas, status = events.open({"path": str(PICNIC), "orig_name": "my dog.png"})
        assert page.session.work is None and page.asked is None and page.session.name == "my dog"
        assert canvas is not None and canvas.size == (640, 480)
        assert "Picture of 640 × 480 pixels" in status

    def test_no_picture(self, events: Events):
        page, canvas, status = events.open(None)
        assert page == Page() or page.session.picture is None
        assert canvas is None and "Add a picture" in status

    @pytest.mark.parametrize("upload", [{}, {"path": None}, {"url": "data:image/png;base64,"}], ids=str)
    def test_an_upload_must_be_a_file(self, events: Events, upload: dict):
        with pytest.raises(ImageError, match="must be an uploaded file"):
            events.open(upload)

    def test_a_broken_file(self, events: Events, tmp_path: Path):
        (tmp_path / "broken.png").write_text("not a picture")
        with pytest.raises(ImageError, match=r"broken\.png"):
            opened(events, tmp_path / "broken.png")

    def test_a_large_picture_is_scaled_down_and_told(self, studio: Studio):
        small = Events(replace(studio, limits=Limits(max_side=320)))
        front = small.open({"path": str(PICNIC)})
        assert front.canvas is not None and front.canvas.size == (320, 240)
        assert "scaled down from 640 x 480 to 320 x 240 pixels" in front.status


class TestRun:
    def test_finds_and_tells(self, asked: Page):
        assert sorted(labels(asked)) == ["a dog", "pizza"]
        status = module.front(asked).status
        assert "2 instances" in status and "Ran: detect" in status

    def test_stages_are_told(self, events: Events):
        told: list[tuple[float, str]] = []
        controls = astuple(events.studio.defaults)
        events.run(opened(events), "a dog", *controls, progress=lambda share, desc: told.append((share, desc)))
        assert "looking for boxes" in [words for _, words in told] and all(0 <= share < 1 for share, _ in told)

    def test_numbers_of_a_browser_have_no_decimal_point(self, events: Events):
        controls = [1, "box", False, 0, 0.0, "none", 1]
        front = events.run(opened(events), "a dog", *controls, progress=quiet)
        assert labels(front.page) == [] and "Nothing was found" in front.status

    def test_the_text_of_a_user_is_no_html(self, events: Events):
        page = ask(events, opened(events), "<b>a dog</b>")
        assert "<b>" not in module.front(page).status and "&lt;b&gt;" in module.front(page).status

    @pytest.mark.parametrize("text", ["", " . ", "\n"], ids=repr)
    def test_without_a_phrase(self, events: Events, text: str):
        with pytest.raises(PromptError, match="holds no phrase"):
            ask(events, opened(events), text)

    def test_without_a_picture(self, events: Events):
        with pytest.raises(PromptError, match="there is no picture yet"):
            ask(events, Page())

    def test_the_time_is_limited(self, studio: Studio):
        hasty = Events(replace(studio, limits=Limits(seconds=0.0)))
        with pytest.raises(TimeLimitError):
            ask(hasty, opened(hasty))

    def test_a_new_text_does_not_encode_the_picture_again(self, events: Events, asked: Page):
        with counted(events.studio.pipeline) as calls:
            page = ask(events, asked, "a butterfly. a balloon")
        assert "encode" not in page.session.seconds and calls["detect"] == 1 and len(labels(page)) == 2
        assert "StageCache from before: encode" in module.front(page).status


class TestAgain:
    """A control was moved."""

    def again(self, events: Events, page: Page, text: str = "a dog. pizza", **changes: object) -> tuple:
        return events.again(page, text, *astuple(events.studio.defaults.changed(**changes)), progress=quiet)

    def test_nothing_is_asked_before_a_question(self, events: Events):
        assert not isinstance(self.again(events, opened(events), box_threshold=0.9), Front)

    def test_the_same_is_not_asked_twice(self, events: Events, asked: Page):
        answer = self.again(events, asked)
        assert not isinstance(answer, Front) and len(answer) == len(Front._fields)

    def test_a_threshold_runs_no_model(self, events: Events, asked: Page):
        with counted(events.studio.pipeline) as calls:
            front = self.again(events, asked, box_threshold=0.9)
        assert labels(front.page) == [] and not calls
        assert labels(events.undo(front.page).page) == labels(asked)

    def test_an_emptied_text_stands_for_the_last_one(self, events: Events, asked: Page):
        front = self.again(events, asked, text=" ", filtering=False)
        assert front.page.session.instances.phrases == ("a dog", "pizza")


class TestCorrect:
    @pytest.fixture(scope="class")
    @staticmethod
    def dog(events: Events, asked: Page) -> Page:
        return events.press(asked, "select", "", at(*DOG)).page

    def test_select_by_a_press_or_in_the_list(self, events: Events, asked: Page, dog: Page):
        assert dog.session.work is not None
        assert labels(asked)[dog.session.work.selected] == "a dog"
        same = events.select(asked, dog.session.work.selected).page
        assert module.rest(same) is not None and same.session.work.selected == dog.session.work.selected
        assert events.press(dog, "select", "", at(*SKY)).page.session.work.selected is None

    def test_points_change_the_mask_and_the_canvas_and_can_be_undone(self, events: Events, dog: Page):
        with counted(events.studio.pipeline) as calls:
            front = events.press(dog, "remove point", "", at(411, 235))
        assert calls["encode"] == 0
        row = dog.session.work.selected
        assert areas(front.page)[row] < areas(dog)[row]
        assert (np.asarray(front.canvas) != np.asarray(module.front(dog).canvas)).any()
        assert areas(events.undo(front.page).page) == areas(dog)

    def test_a_press_is_in_pixels_of_the_screen(self, studio: Studio, tmp_path: Path):
        with Image.open(PICNIC) as picture:
            picture.resize((2048, 1536)).save(tmp_path / "large.png")
        large = Events(studio)
        page = ask(large, opened(large, tmp_path / "large.png"), "a dog")
        page = large.press(page, "select", "", at(480 * 1024 // 640, 260 * 1024 // 640)).page
        page = large.press(page, "add point", "", at(768, 416)).page
        (click,) = page.session.work.clicks
        assert (click.x, click.y) == (1537.0, 833.0)

    def test_new_by_click_has_alternatives_to_choose_from(self, events: Events, asked: Page):
        page = events.press(asked, "new by click", "a balloon", at(100, 250)).page
        assert labels(page)[-1] == "a balloon"
        shown = module.rest(page).alternatives
        assert shown["visible"] and len(shown["value"]) == len(page.session.work.alternatives) > 1
        other = events.choose(page, number(len(shown["value"]) - 1)).page
        assert areas(other)[-1] != areas(page)[-1] and areas(other)[:-1] == areas(page)[:-1]

    def test_new_by_box_takes_two_presses(self, events: Events, asked: Page):
        first = events.press(asked, "new by box", "a butterfly", at(268, 230))
        assert "opposite corner" in first.status and labels(first.page) == labels(asked)
        assert labels(events.press(first.page, "new by box", "a butterfly", at(145, 125)).page)[-1] == "a butterfly"

    def test_rename_merge_and_delete(self, events: Events, dog: Page):
        renamed = events.relabel(dog, "a puppy").page
        assert "a puppy" in labels(renamed)
        other = 1 - dog.session.work.selected
        assert labels(events.merge(renamed, other).page) == ["a puppy"]
        assert labels(events.delete(renamed).page) == ["pizza"]

    def test_merge_with_nothing(self, events: Events, dog: Page):
        with pytest.raises(PromptError, match="choose in the list"):
            events.merge(dog, None)

    def test_brush(self, events: Events, dog: Page):
        layer = np.zeros((480, 640, 4), np.uint8)
        layer[60:120, 440:520] = (*ImageColor.getrgb(GREEN), 255)
        page = events.brush(dog, {"background": None, "layers": [layer], "composite": None}).page
        row = dog.session.work.selected
        assert page.session.instances.masks[row, 60:120, 440:520].mean() > 0.9

    @pytest.mark.parametrize("drawing", [None, {}, {"layers": []}], ids=str)
    def test_a_brush_that_was_not_used(self, events: Events, dog: Page, drawing: dict | None):
        with pytest.raises(PromptError):
            events.brush(dog, drawing)


class TestRest:
    def test_without_a_picture_nothing_is_offered(self):
        rest = module.rest(Page())
        assert rest.annotated["value"] is None
        assert not any(getattr(rest, name)["visible"] for name in ("phrases", "table", "alternatives", "downloads"))
        assert not any(getattr(rest, name)["interactive"] for name in ("undo", "relabel", "delete", "merge"))

    def test_what_was_found_can_be_looked_at_and_taken_away(self, asked: Page):
        rest = module.rest(asked)
        assert len(rest.annotated["value"][1]) == len(rest.table["value"]) == len(rest.instance["choices"]) == 2
        assert {label for _, label in rest.annotated["value"][1]} == set(rest.annotated["color_map"])
        assert rest.table["visible"] and rest.downloads["visible"]
        assert not rest.delete["interactive"] and rest.instance["value"] is None

    def test_what_is_selected_can_be_changed(self, events: Events, asked: Page):
        rest = module.rest(events.select(asked, 0).page)
        assert rest.delete["interactive"] and rest.relabel["interactive"] and rest.merge["interactive"]
        assert rest.instance["value"] == 0 and [row for _, row in rest.other["choices"]] == [1]

    def test_hidden_phrases_stay_hidden(self, events: Events, asked: Page):
        page = events.show(asked, ["pizza"]).page
        rest = module.rest(page)
        assert rest.phrases["value"] == ["pizza"] and len(rest.phrases["choices"]) == 2
        assert [label.split(" ", 1)[1] for _, label in rest.annotated["value"][1]] == ["pizza"]
        again = ask(events, page, "a dog. pizza. a butterfly")
        assert module.rest(again).phrases["value"] == ["pizza", "a butterfly"]

    def test_the_editor_is_filled_only_while_it_is_open(self, asked: Page):
        assert "background" not in module.rest(asked).editor
        page, drawing = module.paint(asked)
        assert drawing["background"].size == (640, 480) and drawing["layers"] == []
        assert module.rest(page).editor["background"].size == (640, 480)
        assert "background" not in module.rest(module.put_away(page)).editor
        assert module.paint(Page())[1] is None

    def test_is_in_the_order_of_its_names(self, asked: Page):
        assert len(module.rest(asked)) == len(Rest._fields)


def test_a_page_is_a_value(events: Events, asked: Page):
    before = areas(asked), asked.session.history
    events.delete(events.press(asked, "select", "", at(*DOG)).page)
    assert (areas(asked), asked.session.history) == before


def test_the_upload_may_vanish_afterwards(events: Events, tmp_path: Path):
    shutil.copy(PICNIC, tmp_path / "gone.png")
    page = opened(events, tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    assert sorted(labels(ask(events, page))) == ["a dog", "pizza"]
