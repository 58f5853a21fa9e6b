import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from grounded.output import fonts
from grounded.output.fonts import BUNDLED, TextLine, letter_notes, system_fonts

EUROPEAN = "café, Straße, żółw, İstanbul, Tiếng Việt, Кошка, Ґава, Γάτα, ἀλώπηξ, “a” – … · × € № 5°"
# Scripts of which this machine may have a font, or not.
OTHERS = ("狗", "कुत्ता", "عربي", "כלב", "강아지", "🐶")


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without fonts."""
    forget()
    monkeypatch.setattr(fonts, "_font_folders", lambda: iter(()))
    yield
    forget()


def forget() -> None:
    system_fonts.cache_clear()
    fonts.find_fonts.cache_clear()


def drawn(text: str, size: int = 20, **options: object) -> np.ndarray:
    """The pixels of a line on white, black where letters are."""
    line = TextLine.of(text, size)
    image = Image.new("L", (round(line.width) + 4, line.ascent + line.descent + 4), 255)
    line.draw(ImageDraw.Draw(image), (2, 2), 0, **options)
    return 255 - np.asarray(image)


def test_letters_of_europe_need_no_other_font(no_system_fonts: None):
    assert letter_notes([EUROPEAN]) == ()
    (run,) = TextLine.of(EUROPEAN, 20).runs
    assert run[0].path == str(BUNDLED)


@pytest.mark.parametrize("letter", "éñßŁЖяΩωệ")
def test_a_letter_is_no_box(letter: str, no_system_fonts: None):
    box = drawn("\uffff")
    one = drawn(letter)
    assert one.any() and not (one.shape == box.shape and (one == box).all())


@pytest.mark.parametrize("text", OTHERS)
def test_what_has_no_letter_is_drawn_and_noted(text: str, no_system_fonts: None):
    (note, *_) = letter_notes(["a dog", text])
    assert note.startswith("no font of this machine has letters for ") and text[0] in note and "dog" not in note
    assert drawn(text).any()


@pytest.mark.parametrize("text", OTHERS)
def test_fonts_of_the_system_are_taken_for_other_scripts(text: str):
    if any("no font" in note for note in letter_notes([text])):
        pytest.skip(f"this machine has no font for {text}")
    runs = TextLine.of(f"a {text} 91%", 20).runs
    assert "".join(part for _, part in runs) == f"a {text} 91%"
    assert any(font.path != str(BUNDLED) and text[0] in part for font, part in runs)


def test_a_font_of_the_user_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    forget()
    shutil.copy(BUNDLED, tmp_path / "Mine-Bold.TTF")
    (tmp_path / "deep").mkdir()
    shutil.copy(BUNDLED, tmp_path / "deep" / "MineSans-Regular.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "LastResort.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_font_folders", lambda: iter((tmp_path, tmp_path / "absent")))
    names = [path.name for path in system_fonts()]
    assert names == ["MineSans-Regular.ttf", "broken.ttf", "Mine-Bold.TTF"]
    found = fonts.find_fonts(frozenset("é狗"))
    assert found == {"é": tmp_path / "deep" / "MineSans-Regular.ttf", "狗": None}
    forget()


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_each_system_has_its_folders(platform: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fonts.sys, "platform", platform)
    monkeypatch.setenv("LOCALAPPDATA", os.path.join("C:", "Users", "me"))
    folders = [str(folder) for folder in fonts._font_folders()]
    expected = {"linux": "/usr/share/fonts", "darwin": "/System/Library/Fonts", "win32": "Fonts"}[platform]
    assert any(folder.endswith(expected) for folder in folders) and len(folders) >= 2


@pytest.mark.parametrize(
    ("text", "width", "keep", "expected"),
    [
        pytest.param("a dog", None, "start", "a dog", id="any width"),
        pytest.param("a dog", 100, "start", "a dog", id="fits"),
        pytest.param("folder/image.png", 80, "start", "folder/i…", id="beginning"),
        pytest.param("folder/image.png", 80, "end", "…age.png", id="end"),
        pytest.param("a dog", 1, "start", "…", id="no room"),
        pytest.param(" a\ndog\t", None, "start", "a dog", id="white space"),
        pytest.param("", 10, "start", "", id="empty"),
    ],
)
def test_lines_are_cut_to_a_width(text: str, width: float | None, keep: str, expected: str):
    line = TextLine.of(text, 16, width, keep)
    assert "".join(part for _, part in line.runs) == expected
    assert width is None or line.width <= width or expected == "…"


def test_a_long_line_is_cut_in_little_time():
    assert TextLine.of("a dog é " * 2_000, 16, 300).width <= 300


def test_lines_of_one_size_are_alike_and_hold_their_letters():
    assert TextLine.of("ace", 20).ascent == TextLine.of("A", 20).ascent
    assert TextLine.of("ace", 20).descent == TextLine.of("g", 20).descent
    assert TextLine.of("Ấ", 20).ascent > TextLine.of("A", 20).ascent
    for text in ("Ấg", "Ag", "ĝỢ"):
        ink = drawn(text)
        assert ink.any() and not ink[[0, -1]].any()  # nothing is cut off


@pytest.mark.parametrize(
    ("anchor", "corner"),
    [("lt", (0, 0)), ("rb", (1, 1)), ("mm", (0.5, 0.5)), ("rm", (1, 0.5)), ("mt", (0.5, 0))],
)
def test_anchors(anchor: str, corner: tuple[float, float]):
    line, image = TextLine.of("Ag é", 20), Image.new("L", (200, 100), 0)
    line.draw(ImageDraw.Draw(image), (100, 50), 255, anchor)
    x0, y0, x1, y1 = image.getbbox() or (0, 0, 0, 0)
    width, height = line.width, line.ascent + line.descent
    assert x0 == pytest.approx(100 - corner[0] * width, abs=3) and x1 == pytest.approx(x0 + width, abs=4)
    assert y0 == pytest.approx(50 - corner[1] * height, abs=3) and y1 == pytest.approx(y0 + height, abs=4)


def test_joined_scripts_need_raqm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    assert "not joined" in letter_notes(["कुत्ता"])[-1] and "not joined" in letter_notes(["عربي"])[-1]
    assert letter_notes([EUROPEAN]) == ()


def test_the_licence_lies_beside_the_font():
    licence = (BUNDLED.parent / "OFL.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence and "Noto Project Authors" in licence
    assert BUNDLED.stat().st_size < 400_000
