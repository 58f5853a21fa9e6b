"""The main tab in a browser: ask, look, correct, take away."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.browser.tab import SegmentTab

DOG, EAR, BALLOON = (480, 260), (411, 235), (100, 250)
Visit = Callable[..., SegmentTab]


def test_run_correct_and_download(visit: Visit, screenshot: Callable[[SegmentTab, str], None], tmp_path: Path):
    tab = visit()
    tab.found("a dog. pizza")
    assert "2 instances: a dog (1), pizza (1)." in tab.status and "Ran: detect" in tab.status
    legend = tab.page.locator("#annotated").inner_text()
    assert "a dog" in legend and "pizza" in legend
    assert [row[1] for row in tab.table()] == ["a dog", "pizza"]
    screenshot(tab, "desktop-result")

    tab.correct()
    tab.press(*DOG)
    tab.wait("Selected: 1 a dog.")
    area = tab.area("a dog")
    tab.tool("Remove point")
    tab.press(*EAR)
    tab.wait("Selected: 1 a dog, 1 point set.")
    assert tab.wait_for_area("a dog", changed_from=area) < area
    tab.tool("Add point")
    tab.press(*DOG)
    tab.wait("2 points set")
    assert "Ran: refine" in tab.status and "encode" in tab.status.partition("Kept from before")[2]
    screenshot(tab, "desktop-correct")
    tab.page.click("#undo")
    tab.wait("1 point set")
    tab.page.click("#undo")
    tab.wait_for_area("a dog", to=area)

    path = tab.download("coco", tmp_path)
    assert path.name == "picnic-coco.json"
    coco = COCO(str(path))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    areas = {names[one["category_id"]]: int(coco.annToMask(one).sum()) for one in coco.loadAnns(coco.getAnnIds())}
    assert areas == {"a dog": area, "pizza": tab.area("pizza")}


def test_a_setting_runs_again_only_what_depends_on_it(visit: Visit):
    tab = visit()
    tab.found("a dog. pizza")
    tab.page.click("#settings > button")
    # Above the score of anything, and by the keyboard.
    tab.slide("#box-threshold", "End", "Nothing was found. None of: a dog, pizza.")
    tab.page.wait_for_selector("#table", state="hidden")
    tab.slide("#box-threshold", "Home", "a dog (")
    ran, _, kept = tab.status.partition("Kept from before:")
    assert "detect" not in ran and "encode" not in ran
    assert "detect" in kept and "encode" in kept


@pytest.mark.slow
def test_new_instances_by_click_and_by_box(visit: Visit):
    tab = visit()
    tab.found("a dog. pizza")
    tab.correct()
    tab.page.fill("#phrase textarea, #phrase input", "a balloon")
    tab.tool("New by click")
    tab.press(*BALLOON)
    tab.wait("Selected: 3 a balloon.")
    choices = tab.page.locator("#alternatives button img")
    choices.first.wait_for()
    assert choices.count() == 3
    area = tab.wait_for_area("a balloon")
    choices.nth(2).click()
    other = tab.wait_for_area("a balloon", changed_from=area)
    assert other != area

    tab.page.fill("#phrase textarea, #phrase input", "a butterfly")
    tab.tool("New by box")
    tab.press(145, 125)
    tab.wait("Now press on the opposite corner of the box.")
    tab.press(268, 230)
    tab.wait("Selected: 4 a butterfly.")
    assert 3000 < tab.wait_for_area("a butterfly") < 15000
    tab.page.click("#delete")
    tab.wait("3 instances")


@pytest.mark.slow
def test_paint_and_apply(visit: Visit):
    tab = visit()
    tab.found("a dog. pizza")
    tab.correct()
    tab.press(*DOG)
    area = tab.area("a dog")
    tab.page.click("#brush > button")
    canvas = tab.page.locator("#editor canvas").first
    canvas.wait_for()
    tab.page.wait_for_timeout(1500)  # the canvas is there before the image on it, and no event says when
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(middle[0] - 80, middle[1])
    tab.page.mouse.down()
    tab.page.mouse.move(middle[0] + 80, middle[1], steps=10)
    tab.page.mouse.up()
    tab.page.wait_for_timeout(500)
    tab.page.click("#apply")
    assert tab.wait_for_area("a dog", changed_from=area) > area


@pytest.mark.slow
def test_phrases_are_hidden_and_shown_again(visit: Visit, tmp_path: Path):
    tab = visit()
    tab.found("a dog. pizza")
    masks = tab.page.locator("#annotated .image-container img")
    both = masks.count()
    tab.page.locator("#phrases").get_by_label("pizza (1)").uncheck()
    tab.page.wait_for_function(
        "n => document.querySelectorAll('#annotated .image-container img').length === n", arg=both - 1
    )
    labels = [shape["label"] for shape in tab.download_json("labelme", tmp_path)["shapes"]]
    assert set(labels) == {"a dog"}


@pytest.mark.parametrize(
    ("name", "data"),
    [("broken.png", b"not an image"), ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00")],
    ids=["text", "cut off"],
)
def test_a_broken_upload_shows_an_error_and_is_removed(visit: Visit, tmp_path: Path, name: str, data: bytes):
    tab = visit()
    (tmp_path / name).write_bytes(data)
    tab.upload(tmp_path / name)
    assert "image" in tab.toast()
    tab.page.wait_for_selector("#image input[type=file]", state="attached")
    tab.example()


def test_queries_that_cannot_run_show_an_error(visit: Visit):
    tab = visit()
    tab.ask("a dog")
    assert "there is no image yet" in tab.toast()
    tab.example()
    tab.page.locator(".toast-close").last.click()
    tab.page.wait_for_selector(".toast-body", state="detached")
    tab.ask(" ")
    assert "the text holds no phrase" in tab.toast()


def test_an_upload_works_like_an_example(visit: Visit, tmp_path: Path):
    image = Image.fromarray(np.full((300, 2600, 3), 200, np.uint8))
    image.save(tmp_path / "wide.png")
    tab = visit()
    tab.upload(tmp_path / "wide.png")
    tab.wait("scaled down from 2600 x 300 to 2048 x 236 pixels")
    tab.ask("a dog")
    tab.wait("Nothing was found. None of: a dog.")
    assert tab.table() == [] and "encode" not in tab.status  # without a detection there is nothing to segment


def test_users_do_not_see_each_other(visit: Visit):
    one, other = visit(), visit()
    one.found("a dog. pizza")
    assert "Add an image" in other.status and other.page.locator("#canvas img").count() == 0
    other.example("street")
    other.ask("a bus")
    other.wait("1 instance: a bus (1).")
    assert "a dog (1)" in one.status
    one.correct()
    one.press(*DOG)
    one.wait("Selected: 1 a dog.")
    other.correct()
    assert "a dog" not in other.status
    images = [tab.page.get_attribute("#canvas img", "src") for tab in (one, other)]
    assert images[0] != images[1]
