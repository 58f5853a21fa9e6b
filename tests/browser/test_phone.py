"""The main tab on a small screen."""

from collections.abc import Callable
from itertools import pairwise

from tests.browser.conftest import PHONE
from tests.browser.tab import SegmentTab


def _fits(tab: SegmentTab) -> bool:
    return tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_phone_shows_all_in_one_column(
    visit: Callable[..., SegmentTab], screenshot: Callable[[SegmentTab, str], None]
):
    tab = visit(PHONE)
    assert _fits(tab)
    tab.found("a dog. pizza")
    assert _fits(tab)
    # The result comes below the query, and is brought into sight.
    tops = [tab.page.locator(id).bounding_box()["y"] for id in ("#image", "#text", "#run", "#status", "#table")]
    assert tops == sorted(tops)
    tab.page.wait_for_function("document.querySelector('#status').getBoundingClientRect().top < innerHeight / 2")
    screenshot(tab, "phone-result")
    tab.correct()
    tab.press(480, 260)
    tab.wait("Selected: 1 a dog.")
    tab.page.click("#brush > button")
    tab.page.locator("#editor canvas").first.wait_for()
    assert _fits(tab)
    screenshot(tab, "phone-correct")


def test_all_can_be_told_apart_without_seeing_it(visit: Callable[..., SegmentTab]):
    tab = visit()
    tab.found("a dog. pizza")
    tab.page.click("#settings > button")
    tab.correct()
    tab.press(480, 260)
    nameless = tab.page.evaluate(
        """[...document.querySelectorAll("input, textarea, select, button")]
        .filter((one) => one.checkVisibility() && !one.labels?.length && !one.ariaLabel && !one.title
                         && !one.innerText.trim() && !one.querySelector("img[alt]:not([alt=''])"))
        .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    images = tab.page.evaluate("[...document.querySelectorAll('#image img, #canvas img')].map((image) => image.alt)")
    assert images and all(images)
    levels = tab.page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((head) => +head.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
