"""The tab for several pictures, in a browser."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.tab import SECONDS, SegmentTab
from tests.data import PICNIC


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Examples, and a file that is broken."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(PICNIC.read_bytes()[:5000])
    return [*(PICNIC.with_name(f"{name}.png") for name in ("picnic", "shelf", "street")), broken]


def begun(visit: Callable[..., SegmentTab], size: tuple[int, int]) -> tuple[SegmentTab, Any]:
    tab = visit(size)
    tab.page.get_by_role("tab", name="Several pictures").click()
    tab.page.fill("#several-text textarea", "a dog. a clock. a car")
    return tab, tab.page


def add(page: Any, pictures: list[Path]) -> None:
    page.set_input_files("#several-pictures input[type=file]", [str(path) for path in pictures])
    page.locator("#several-pictures tr.file").nth(len(pictures) - 1).wait_for()


def wait(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#several-progress')?.innerText.includes(text)", arg=text, timeout=SECONDS
    )


@pytest.mark.parametrize(
    "size", [pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone", marks=pytest.mark.slow)]
)
def test_several_pictures_and_one_text(
    visit: Callable[..., SegmentTab],
    screenshot: Callable[[SegmentTab, str], None],
    pictures: list[Path],
    size: tuple[int, int],
):
    tab, page = begun(visit, size)
    add(page, pictures)
    page.click("#several-run")
    wait(page, "Done: 3 of 4 pictures labelled")
    page.locator("#several-gallery img").nth(2).wait_for()
    assert page.locator("#several-gallery img").count() == 3
    assert "broken.png failed: cannot read" in page.inner_text("#several-notices")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screenshot(tab, f"several-{size[0]}")
    with page.expect_download() as told:
        page.click("#several-archive")
    with zipfile.ZipFile(told.value.path()) as archive:
        coco = json.loads(archive.read("annotations.json"))
    assert [image["file_name"] for image in coco["images"]] == ["picnic.png", "shelf.png", "street.png"]
    assert coco["annotations"]


@pytest.mark.slow
def test_a_run_is_cancelled(visit: Callable[..., SegmentTab], pictures: list[Path]):
    _, page = begun(visit, DESKTOP)
    add(page, pictures[:3] * 4)
    page.click("#several-run")
    wait(page, "1 of 12")
    page.click("#several-cancel")
    wait(page, "Cancelled")
    page.wait_for_timeout(1500)
    assert "Cancelled" in page.inner_text("#several-progress")
    assert 0 < page.locator("#several-gallery img").count() < 12
    assert not page.is_visible("#several-archive")


@pytest.mark.slow
def test_a_run_may_follow_right_after_cancel(visit: Callable[..., SegmentTab], pictures: list[Path]):
    _, page = begun(visit, DESKTOP)
    add(page, pictures[:2])
    page.click("#several-run")
    wait(page, "of 2")
    page.click("#several-cancel")
    page.click("#several-run")
    wait(page, "Done: 2 of 2")
    assert page.locator("#several-gallery button img").count() == 2


def test_without_pictures_a_message_says_what_to_do(visit: Callable[..., SegmentTab]):
    tab, page = begun(visit, DESKTOP)
    page.click("#several-run")
    assert "there are no pictures yet: add some" in tab.toast()
