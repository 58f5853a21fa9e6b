"""The page of `grounded engine annotate` as a person has it, by the mouse and by the keyboard alone."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grounded.labelling.review.log import read_reviews
from tests.browser.conftest import DESKTOP
from tests.browser.test_browse import click, labels, save_screenshot, until, wait
from tests.data import ROOT

_COMMAND = [sys.executable, "-m", "grounded", "engine"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data engine in its first round, over two examples."""
    (tmp_path / "images").mkdir()
    for name in ("picnic.png", "shelf.png"):
        shutil.copy(ROOT / "examples" / name, tmp_path / "images")
    start = [*_COMMAND, "start", tmp_path / "images", "--out", tmp_path / "engine", "--plan", "assisted:2"]
    subprocess.run(start, cwd=ROOT, check=True, capture_output=True)
    return tmp_path / "engine"


@pytest.fixture
def page(chromium: Any, folder: Path, tmp_path: Path) -> Iterator[Any]:
    """The page, which has no errors in the end."""
    log, errors = tmp_path / "log", []
    with log.open("w") as stream:
        command = [*_COMMAND, "annotate", folder, "--thirty-seconds"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    context = chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    try:
        end = time.monotonic() + 120
        while (found := re.search(r"The page is at (\S+)", log.read_text())) is None:
            assert server.poll() is None and time.monotonic() < end, f"it has not started:\n{log.read_text()}"
            time.sleep(0.2)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(found[1])
        yield page
    finally:
        context.close()
        server.terminate()
        server.wait(30)
    assert errors == []


def test_click_keep_next(page: Any, folder: Path):
    wait(page, "0 masks so far. Click an object")  # the first image is open, and waits for a click
    assert page.inner_text("#file") == "picnic.png"
    click(page, 480, 300)
    wait(page, "Keep it, or click again")
    page.keyboard.press("Enter")
    wait(page, "1 mask so far")
    until(page, "document.querySelectorAll('#masks path').length === 1")
    click(page, 90, 90)
    wait(page, "Keep it, or click again")
    wait(page, "This mask:", "#timer")
    save_screenshot(page, "annotate")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#instances li').length === 2")
    page.keyboard.press("Escape")  # the masks so far
    assert [re.sub(r"\d+ s", "n s", line) for line in labels(page)] == ["unnamed added n s"] * 2
    page.keyboard.press("n")
    page.keyboard.press("Enter")  # nothing was clicked: the next image
    until(page, "document.querySelector('#file').innerText === 'shelf.png'")
    reviews = read_reviews(folder / "rounds" / "01-assisted")
    assert [(one.file, one.action, one.clicks) for one in reviews] == [("picnic.png", "add", 1)] * 2
    assert all(one.seconds is not None and 0 < one.seconds < 60 for one in reviews)


def test_the_keyboard_alone_suffices(page: Any, folder: Path):
    wait(page, "0 masks so far")
    for key in ["ArrowRight"] * 10 + ["ArrowDown"] * 4 + ["Shift+ArrowUp"]:
        page.keyboard.press(key)
    assert page.locator("#masks line").count() == 2  # the cross
    page.keyboard.press("Space")
    wait(page, "Keep it, or click again")
    until(page, "document.querySelectorAll('#masks circle').length === 1")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("x")
    until(page, "document.querySelectorAll('#masks circle').length === 2")
    wait(page, "Keep it, or click again")
    page.keyboard.press("Enter")
    wait(page, "1 mask so far")
    page.keyboard.press("u")
    wait(page, "0 masks so far")
    page.keyboard.press("PageDown")
    until(page, "document.querySelector('#file').innerText === 'shelf.png'")
    wait(page, "0 masks so far")
    page.keyboard.press("Enter")
    wait(page, "This is the last image. End the round with: grounded engine next")
    actions = [(one.action, one.clicks) for one in read_reviews(folder / "rounds" / "01-assisted")]
    assert actions == [("add", 2), ("undo", None)]
