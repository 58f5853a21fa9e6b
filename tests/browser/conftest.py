"""A server with the bundled models, and headless Chromium in front of it. Without either, the tests are skipped."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.tab import SegmentTab
from tests.data import ROOT

CHROMIUM = Path("/usr/bin/chromium")
DESKTOP, PHONE = (1280, 900), (390, 844)
_SECONDS_TO_START = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are slow: they start a server and a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; every test has its own contexts in it."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `app.py` serves, in a process of its own as users start it."""
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen([sys.executable, ROOT / "app.py"], cwd=ROOT, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + _SECONDS_TO_START
        while (found := re.search(r"The app is at (\S+)", log.read_text())) is None:
            assert server.poll() is None and time.monotonic() < end, f"the app has not started:\n{log.read_text()}"
            time.sleep(0.2)
        yield found[1]
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., SegmentTab]]:
    """`visit(size=DESKTOP)` opens the app as another user. In the end, no page may have had an error."""
    contexts, errors = [], []

    def visitor(size: tuple[int, int] = DESKTOP) -> SegmentTab:
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
        contexts.append(context)
        # The frame of Gradio's pages asks for a few things from elsewhere, which the app does not need.
        context.route(lambda url: not url.startswith(address), lambda route: route.abort())
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if _is_error(line, address) else None)
        page.goto(address, wait_until="domcontentloaded")
        return SegmentTab(page)

    yield visitor
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[[SegmentTab, str], None]:
    """`screenshot(tab, name)` keeps the whole page, also in the folder GROUNDED_SCREENSHOTS where that is set."""

    def keep(tab: SegmentTab, name: str) -> None:
        folders = [tmp_path, *map(Path, filter(None, [os.environ.get("GROUNDED_SCREENSHOTS")]))]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            tab.page.screenshot(path=folder / f"{name}.png", full_page=True)

    return keep


def _is_error(line: Any, address: str) -> bool:
    return line.type == "error" and line.location["url"].startswith(address)
