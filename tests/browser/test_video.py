"""The tab for clips, in a browser."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.tab import SECONDS, SegmentTab
from tests.grounded.video.clips import write_clip
from tests.grounded.video.drawn import drawn_clip, line

COUNT, SIZE = 32, (320, 240)  # frames, more than are done before a press on Pause arrives; width and height
PATHS = {"dog": line((80, 170), (230, 180), COUNT), "pizza": line((250, 60), (90, 70), COUNT)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dog and a pizza that move."""
    pytest.importorskip("av", reason="needs PyAV")
    images = [np.asarray(image) for image in drawn_clip(PATHS).images]
    return write_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", COUNT, size=SIZE, images=images)


def begun(visit: Callable[..., SegmentTab], size: tuple[int, int]) -> tuple[SegmentTab, Any]:
    tab = visit(size)
    tab.page.get_by_role("tab", name="Video", exact=True).click()
    return tab, tab.page


def wait(page: Any, text: str, where: str = "#video-status") -> None:
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText.includes(text)",
        arg=[where, text],
        timeout=4 * SECONDS,
    )


def upload(page: Any, clip: Path) -> None:
    page.set_input_files("#video-clip input[type=file]", str(clip))
    wait(page, f"Clip of {COUNT} frames, 320 × 240 pixels")


def track(page: Any, text: str) -> None:
    page.fill("#video-text textarea", text)
    page.click("#video-run")


def click_once_enabled(page: Any, button: str) -> None:
    """As a person does, while the page above the button still moves."""
    page.wait_for_function("where => document.querySelector(where)?.disabled === false", arg=button)
    page.dispatch_event(button, "click")


def press(page: Any, x: float, y: float) -> None:
    """Press on the frame at a place in its pixels."""
    image = page.locator("#video-canvas img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    scale = min(box["width"] / SIZE[0], box["height"] / SIZE[1])
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(middle[0] + (x - SIZE[0] / 2) * scale, middle[1] + (y - SIZE[1] / 2) * scale)


def download(page: Any, kind: str, folder: Path) -> Path:
    with page.expect_download() as told:
        page.click(f"#video-download-{kind}")
    path = folder / told.value.suggested_filename
    told.value.save_as(path)
    return path


@pytest.mark.parametrize(
    "size", [pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone", marks=pytest.mark.long)]
)
def test_a_clip_is_followed_paused_corrected_and_downloaded(
    visit: Callable[..., SegmentTab],
    screenshot: Callable[[SegmentTab, str], None],
    clip: Path,
    tmp_path: Path,
    size: tuple[int, int],
):
    tab, page = begun(visit, size)
    upload(page, clip)
    screenshot(tab, f"video-opened-{size[0]}")
    track(page, "a dog. pizza")
    wait(page, f"of {COUNT} frames, 2 objects", "#video-progress")
    screenshot(tab, f"video-running-{size[0]}")
    click_once_enabled(page, "#video-pause")
    wait(page, "Paused")
    done = page.evaluate("+document.querySelector('#video-number input[type=range]').value") + 1
    assert 0 < done < COUNT
    screenshot(tab, f"video-paused-{size[0]}")
    page.click("#video-go-on")
    wait(page, f"2 tracks in {COUNT} frames: a dog (1), pizza (1)")

    # The dog alone is corrected, from a frame in the middle on.
    slider = page.locator("#video-number input[type=number]")
    slider.fill("4")
    slider.press("Enter")
    wait(page, f"0–{COUNT - 1}", "#video-table")
    page.wait_for_timeout(1000)
    x, y = PATHS["dog"][4]
    press(page, x, y)
    page.wait_for_function("document.querySelector('#video-track input').value.startsWith('a dog')")
    page.locator("#video-tool").get_by_label("− Remove point").check()
    press(page, x + 15, y + 15)
    wait(page, "press more, or Follow from here on")
    screenshot(tab, f"video-correcting-{size[0]}")
    page.click("#video-follow")
    wait(page, "Following a dog")
    wait(page, f"2 tracks in {COUNT} frames")
    assert "Correcting" not in page.inner_text("#video-status")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screenshot(tab, f"video-corrected-{size[0]}")

    lines = [json.loads(text) for text in download(page, "records", tmp_path).read_text().splitlines()]
    assert [one["image"]["frame"] for one in lines] == list(range(COUNT))
    with zipfile.ZipFile(download(page, "masks", tmp_path)) as archive:
        assert [name for name in archive.namelist() if name.endswith(".png")] == [f"{i:05d}.png" for i in range(COUNT)]
    assert download(page, "video", tmp_path).name == "walk-tracks.mp4"
    assert (tmp_path / "walk-tracks.mp4").stat().st_size > 2000
    assert json.loads(download(page, "coco", tmp_path).read_text())["videos"][0]["length"] == COUNT


def test_a_clip_is_stopped_for_good(visit: Callable[..., SegmentTab], clip: Path):
    _, page = begun(visit, DESKTOP)
    upload(page, clip)
    track(page, "a dog")
    wait(page, f"of {COUNT} frames", "#video-progress")
    click_once_enabled(page, "#video-stop")
    wait(page, "Stopped")
    assert page.is_disabled("#video-go-on") and page.is_enabled("#video-run")


def test_what_is_no_clip_shows_an_error_and_is_removed(visit: Callable[..., SegmentTab], clip: Path, tmp_path: Path):
    tab, page = begun(visit, DESKTOP)
    page.click("#video-run")
    assert "there is no clip yet" in tab.toast()
    page.locator(".toast-close").last.click()
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    page.set_input_files("#video-clip input[type=file]", str(tmp_path / "broken.mp4"))
    page.wait_for_function(  # the browser's own message may stand there, too
        "text => [...document.querySelectorAll('.toast-body')].some(toast => toast.innerText.includes(text))",
        arg="broken.mp4 cannot be read as a video",
    )
    page.wait_for_selector("#video-clip input[type=file]", state="attached")
    upload(page, clip)
