"""The review page as a person has it, in a browser, before `grounded browse` in a process of its own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.data import ROOT
from tests.grounded.labelling.review.runs import example_run

_COMMAND = "from grounded.cli.browse import browse; browse()"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return example_run(tmp_path, copies=100)


@pytest.fixture
def visit(chromium: Any, run: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`visit(size=DESKTOP)` opens the page in another window. In the end, no page may have had an error."""
    log, errors, contexts = tmp_path / "log", [], []
    with log.open("w") as stream:
        server = subprocess.Popen([sys.executable, "-c", _COMMAND, run], cwd=ROOT, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + 120
        while (found := re.search(r"The page is at (\S+)", log.read_text())) is None:
            assert server.poll() is None and time.monotonic() < end, f"it has not started:\n{log.read_text()}"
            time.sleep(0.2)

        def visitor(size: tuple[int, int] = DESKTOP, file: str = "") -> Any:
            contexts.append(chromium.new_context(viewport={"width": size[0], "height": size[1]}))
            page = contexts[-1].new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            page.goto(f"{found[1]}#{file}")
            return page

        yield visitor
    finally:
        for context in contexts:
            context.close()
        server.terminate()
        server.wait(30)
    assert errors == []


def save_screenshot(page: Any, name: str) -> None:
    """A screenshot of the page, in the folder GROUNDED_SCREENSHOTS where that is set."""
    if folder := os.environ.get("GROUNDED_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"browse-{name}.png")


def until(page: Any, condition: str) -> None:
    """Wait until an expression holds; the policy of the page forbids the way in which Playwright itself would."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"still not so: {condition}\nstatus: {page.inner_text('#status')}")


def wait(page: Any, text: str, where: str = "#status") -> None:
    until(page, f"document.querySelector({where!r}).innerText.includes({text!r})")


def labels(page: Any) -> list[str]:
    """The lines of the list of instances."""
    return [" ".join(text.split()) for text in page.locator("#instances li").all_inner_texts()]


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_image_is_reviewed_by_the_keyboard(visit: Callable[..., Any], run: Path):
    page = visit()
    wait(page, "104 images", "#count")
    until(page, "[...document.querySelectorAll('.card img')].slice(0, 8).every((one) => one.naturalWidth)")
    assert page.locator(".card").count() < 104  # the others come when one scrolls there
    save_screenshot(page, "grid")
    page.select_option("[name=phrase]", "dog")
    wait(page, "35 images", "#count")
    page.click(".card[data-file='picnic.png']")
    wait(page, "6 of 6 instances to review")
    until(page, "document.querySelector('#photo').naturalWidth === 640")
    page.keyboard.press("a")
    page.keyboard.press("r")
    wait(page, "4 of 6 instances to review")
    save_screenshot(page, "image")
    assert labels(page)[:3] == ["dog accepted 0.90", "pizza rejected 0.80", "watermelon 0.70"]
    page.keyboard.press("u")
    wait(page, "5 of 6 instances to review")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("l")
    page.keyboard.type("a slice of pizza")
    page.keyboard.press("Enter")
    wait(page, "4 of 6 instances to review")
    assert labels(page)[1] == "a slice of pizza relabelled 0.80"
    wait(page, "2 instances reviewed in 1 image", "#agreement")
    assert (run / "reviews.jsonl").read_text().count("\n") == 4
    page.keyboard.press("Escape")
    assert "partly" in page.inner_text(".card[data-file='picnic.png']")


@pytest.mark.slow
def test_masks_are_drawn_by_clicks(visit: Callable[..., Any]):
    page = visit(file="picnic.png")
    wait(page, "6 of 6 instances to review")
    page.keyboard.press("d")
    click(page, 480, 300)
    wait(page, "Keep it, or click again")
    click(page, 420, 120, button="right")
    until(page, "document.querySelectorAll('#masks circle').length === 2")
    wait(page, "Keep it, or click again")
    save_screenshot(page, "redraw")
    page.keyboard.press("Enter")
    wait(page, "5 of 6 instances to review")
    assert labels(page)[0] == "dog redrawn 0.90"
    page.keyboard.press("n")
    click(page, 90, 90)
    wait(page, "Keep it, or click again")
    page.fill("#new-phrase", "a thing")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#instances li').length === 7")
    assert labels(page)[6] == "a thing added"
    wait(page, "1 added", "#agreement")


def click(page: Any, x: float, y: float, **options: Any) -> None:
    """Click a place in pixels of the example."""
    until(page, "document.querySelector('#photo').naturalWidth === 640")
    box = page.locator("#masks").bounding_box()
    page.mouse.click(box["x"] + x * box["width"] / 640, box["y"] + y * box["height"] / 480, **options)


@pytest.mark.slow
def test_the_list_goes_on_sorts_and_filters(visit: Callable[..., Any]):
    page = visit()
    wait(page, "104 images", "#count")
    for _ in range(60):
        if page.locator(".card").count() == 104:
            break
        page.mouse.wheel(0, 5000)
        page.wait_for_timeout(200)
    files = page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.file)")
    assert len(set(files)) == 104 and files[-1] == "more/nothing.png"
    page.select_option("[name=phrase]", "bus")
    wait(page, "34 images", "#count")
    page.select_option("[name=state]", "done")
    wait(page, "0 images", "#count")
    page.select_option("[name=state]", "")
    page.select_option("[name=sort]", "name")
    page.locator(".card").first.click()
    wait(page, "5 of 5 instances to review")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#file').innerText === 'more/copy005.png'")


@pytest.mark.slow
def test_an_image_in_which_nothing_was_found(visit: Callable[..., Any]):
    page = visit(file="more/nothing.png")
    wait(page, "Nothing was found here: accept that")
    assert page.is_disabled("#reject")
    page.keyboard.press("a")
    wait(page, "Reviewed: nothing is there")
    assert page.is_disabled("#accept")
    wait(page, "in 1 image", "#agreement")
    page.keyboard.press("u")
    wait(page, "Nothing was found here: accept that")


@pytest.mark.slow
def test_two_windows(visit: Callable[..., Any]):
    first, second = visit(file="shelf.png"), visit(file="shelf.png")
    for page in (first, second):
        wait(page, "5 of 5 instances to review")
    first.keyboard.press("a")
    wait(first, "4 of 5 instances to review")
    second.keyboard.press("r")
    wait(second, "4 of 5 instances to review")
    first.reload()
    wait(first, "4 of 5 instances to review")
    assert labels(first)[0].startswith("clock rejected")


@pytest.mark.slow
def test_a_phone(visit: Callable[..., Any]):
    page = visit(PHONE)
    wait(page, "104 images", "#count")
    until(page, "[...document.querySelectorAll('.card img')].slice(0, 4).every((one) => one.naturalWidth)")
    assert fits(page)
    save_screenshot(page, "phone-grid")
    page.goto(f"{page.url.split('#')[0]}#street.png")
    wait(page, "5 of 5 instances to review")
    until(page, "document.querySelector('#photo').naturalWidth === 640")
    assert fits(page)
    page.locator("#accept").click()
    wait(page, "4 of 5 instances to review")
    save_screenshot(page, "phone-image")


@pytest.mark.slow
def test_images_that_are_gone(visit: Callable[..., Any], run: Path):
    (run.parent / "images" / "picnic.png").unlink()
    page = visit(file="picnic.png")
    wait(page, "6 of 6 instances to review")
    wait(page, "picnic.png cannot be found: no such image", "#missing")
    assert page.locator("#redraw").is_disabled() and page.locator("#masks path").count() == 6
    save_screenshot(page, "missing")
