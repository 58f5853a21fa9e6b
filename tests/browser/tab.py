"""The main tab as a user has it."""

import json
from pathlib import Path
from typing import Any

SECONDS = 30_000  # milliseconds; a busy machine takes its time


class SegmentTab:
    """What a user does and sees on one page of the app."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.set_default_timeout(SECONDS)
        self.wait("Add an image")

    def wait(self, text: str) -> None:
        """Wait until the line of the status says so."""
        self.page.wait_for_function("text => document.querySelector('#status')?.innerText.includes(text)", arg=text)

    @property
    def status(self) -> str:
        return self.page.inner_text("#status")

    def example(self, name: str = "picnic") -> None:
        self.page.click(f"#example-{name}")
        self.wait("Image of 640 × 480 pixels")

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#image input[type=file]", str(path))

    def ask(self, text: str) -> None:
        self.page.fill("#text textarea", text)
        self.page.click("#run")

    def found(self, text: str = "a dog. pizza") -> None:
        """Pick the example and ask for what is in it."""
        self.example()
        self.ask(text)
        self.wait("instances:")
        self.page.wait_for_selector("#table [role=gridcell]")

    def slide(self, slider: str, key: str, text: str) -> None:
        """Press a key on a slider until the line of the status says so: one that is being set up hears nothing."""
        handle = self.page.locator(f"{slider} input[type=range]")
        for _ in range(SECONDS // 3000):
            handle.focus()
            handle.press("ArrowLeft" if key == "End" else "ArrowRight")
            handle.press(key)
            for _ in range(30):
                if text in self.status:
                    return
                self.page.wait_for_timeout(100)
        self.wait(text)

    def table(self) -> list[list[str]]:
        """The rows as they are shown."""
        return self.page.evaluate(
            """[...document.querySelectorAll("#table [role=row]:has([role=gridcell])")]
            .map((row) => [...row.querySelectorAll("[role=gridcell]")].map((cell) => cell.innerText.trim()))"""
        )

    def area(self, phrase: str) -> int:
        return next(int(row[6]) for row in self.table() if row[1] == phrase)

    def wait_for_area(self, phrase: str, changed_from: int | None = None, to: int | None = None) -> int:
        """Wait until the area in the table is another one, or a certain one."""
        for _ in range(SECONDS // 100):
            area = next((int(row[6]) for row in self.table() if row[1] == phrase), None)
            if area is not None and (area != changed_from if to is None else area == to):
                return area
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the area of {phrase!r} is still {area}")

    def correct(self) -> None:
        self.page.get_by_role("tab", name="Correct", exact=True).click()
        self.page.wait_for_selector("#canvas img")

    def result(self) -> None:
        self.page.get_by_role("tab", name="Result", exact=True).click()

    def tool(self, name: str) -> None:
        self.page.locator("#tool").get_by_label(name).check()

    def press(self, x: float, y: float) -> None:
        """Press on the canvas at a place in pixels of the example, and wait until another image is there."""
        image = self.page.locator("#canvas img")
        image.scroll_into_view_if_needed()
        before, box = image.get_attribute("src"), image.bounding_box()
        scale = min(box["width"] / 640, box["height"] / 480, 1)
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.click(middle[0] + (x - 320) * scale, middle[1] + (y - 240) * scale)
        self.page.wait_for_function(
            "src => document.querySelector('#canvas img').getAttribute('src') !== src", arg=before
        )

    def toast(self) -> str:
        """The text of the error that is shown."""
        toast = self.page.locator(".toast-body.error").last
        toast.wait_for()
        return toast.inner_text()

    def download(self, kind: str, folder: Path) -> Path:
        with self.page.expect_download() as told:
            self.page.click(f"#download-{kind}")
        path = folder / told.value.suggested_filename
        told.value.save_as(path)
        return path

    def download_json(self, kind: str, folder: Path) -> dict[str, Any]:
        return json.loads(self.download(kind, folder).read_text(encoding="utf-8"))
