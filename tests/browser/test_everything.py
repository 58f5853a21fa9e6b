"""The tab that finds masks of everything, in a browser."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.tab import SECONDS, SegmentTab


def begun(visit: Callable[..., SegmentTab], size: tuple[int, int]) -> tuple[SegmentTab, Any]:
    """The page with an example in the tab, and its settings open."""
    tab = visit(size)
    page = tab.page
    page.get_by_role("tab", name="Everything").click()
    page.click("#everything-example-picnic")
    wait(page, "#everything-status", "Press Find everything")
    page.click("#everything-settings > button")
    return tab, page


def wait(page: Any, where: str, text: str) -> None:
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText.includes(text)", arg=[where, text], timeout=SECONDS
    )


def search(page: Any, points: int) -> None:
    """Start a search with so many points to a side."""
    number, slider = (f"#everything-points input[type={kind}]" for kind in ("number", "range"))
    for _ in range(10):  # a component that is still being set up takes no value
        page.fill(number, str(points))
        page.press(number, "Tab")
        page.wait_for_timeout(500)
        if page.input_value(slider) == str(points):
            break
    assert page.input_value(slider) == str(points)
    page.wait_for_timeout(300)  # the value goes on to what is sent a moment later
    page.click("#everything-run")


@pytest.mark.parametrize(
    "size", [pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone", marks=pytest.mark.slow)]
)
def test_masks_of_everything(
    visit: Callable[..., SegmentTab],
    screenshot: Callable[[SegmentTab, str], None],
    size: tuple[int, int],
):
    tab, page = begun(visit, size)
    search(page, 10)
    wait(page, "#everything-status", "masks: dog (")
    masks = page.locator("#everything-annotated img.mask")
    masks.nth(5).wait_for()
    label = page.locator("#everything-annotated .legend button", has_text="dog").first
    label.hover()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.mouse.move(0, 0)
    screenshot(tab, f"everything-{size[0]}")
    with page.expect_download() as told:
        page.click("#everything-download-coco")
    coco = json.loads(told.value.path().read_text(encoding="utf-8"))
    assert told.value.suggested_filename == "picnic-coco.json"
    assert len(coco["annotations"]) == masks.count()
    page.locator("#everything-phrases").get_by_label("unnamed").uncheck()
    page.wait_for_function(
        "count => document.querySelectorAll('#everything-annotated img.mask').length < count", arg=masks.count()
    )


@pytest.mark.slow
def test_a_search_is_cancelled_and_another_begun(visit: Callable[..., SegmentTab]):
    _, page = begun(visit, DESKTOP)
    search(page, 40)
    wait(page, "#everything-progress", "of 1600 points")
    page.click("#everything-cancel")
    wait(page, "#everything-progress", "Cancelled")
    assert "Press Find everything" in page.inner_text("#everything-status")
    search(page, 6)
    wait(page, "#everything-status", "masks:")
