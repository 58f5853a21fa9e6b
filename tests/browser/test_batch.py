"""The tab for several images, in a browser."""

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
def images(tmp_path: Path) -> list[Path]:
    """Examples, and a file that is broken."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(PICNIC.read_bytes()[:5000])
    return [*(PICNIC.with_name(f"{name}.png") for name in ("picnic", "shelf", "street")), broken]


def begun(visit: Callable[..., SegmentTab], size: tuple[int, int]) -> tuple[SegmentTab, Any]:
    tab = visit(size)
    tab.page.get_by_role("tab", name="Several images").click()
    tab.page.fill("#batch-text textarea", "a dog. a clock. a car")
    return tab, tab.page


def add(page: Any, images: list[Path]) -> None:
    page.set_input_files("#batch-images input[type=file]", [str(path) for path in images])
    page.locator("#batch-images tr.file").nth(len(images) - 1).wait_for()


def wait(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#batch-progress')?.innerText.includes(text)", arg=text, timeout=SECONDS
    )


@pytest.mark.parametrize(
    "size", [pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone", marks=pytest.mark.slow)]
)
def test_several_images_and_one_text(
    visit: Callable[..., SegmentTab],
    screenshot: Callable[[SegmentTab, str], None],
    images: list[Path],
    size: tuple[int, int],
):
    tab, page = begun(visit, size)
    add(page, images)
    page.click("#batch-run")
    wait(page, "Done: 3 of 4 images labelled")
    page.locator("#batch-gallery img").nth(2).wait_for()
    assert page.locator("#batch-gallery img").count() == 3
    assert "broken.png failed: cannot read" in page.inner_text("#batch-notices")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screenshot(tab, f"batch-{size[0]}")
    with page.expect_download() as told:
        page.click("#batch-archive")
    with zipfile.ZipFile(told.value.path()) as archive:
        coco = json.loads(archive.read("annotations.json"))
    assert [image["file_name"] for image in coco["images"]] == ["picnic.png", "shelf.png", "street.png"]
    assert coco["annotations"]


@pytest.mark.slow
def test_a_run_is_cancelled(visit: Callable[..., SegmentTab], images: list[Path]):
    _, page = begun(visit, DESKTOP)
    add(page, images[:3] * 4)
    page.click("#batch-run")
    wait(page, "1 of 12")
    page.click("#batch-cancel")
    wait(page, "Cancelled")
    page.wait_for_timeout(1500)
    assert "Cancelled" in page.inner_text("#batch-progress")
    assert 0 < page.locator("#batch-gallery img").count() < 12
    assert not page.is_visible("#batch-archive")


@pytest.mark.slow
def test_a_run_may_follow_right_after_cancel(visit: Callable[..., SegmentTab], images: list[Path]):
    _, page = begun(visit, DESKTOP)
    add(page, images[:2])
    page.click("#batch-run")
    wait(page, "of 2")
    page.click("#batch-cancel")
    page.click("#batch-run")
    wait(page, "Done: 2 of 2")
    assert page.locator("#batch-gallery button img").count() == 2


def test_without_images_a_message_says_what_to_do(visit: Callable[..., SegmentTab]):
    tab, page = begun(visit, DESKTOP)
    page.click("#batch-run")
    assert "there are no images yet: add some" in tab.toast()
