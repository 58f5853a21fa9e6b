"""Letters for overlays, sheets and plots: the bundled Noto Sans, and the system's fonts for what it lacks."""

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from PIL import ImageDraw, ImageFont, features

Colour: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = float | int

# Latin, Greek and Cyrillic of Noto Sans 2.15, under the SIL Open Font License in the same folder.
BUNDLED = Path(__file__).with_name("noto_sans") / "NotoSans-Regular.ttf"
_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
# Fonts whose letters are the placeholders of other fonts.
_PLACEHOLDERS = ("lastresort", "adobeblank", "adobenotdef")
# In the name of a file: what is less fit for labels. "Sans" and "Regular" are fitter than what says nothing.
_UNFIT = ("bold", "italic", "oblique", "black", "thin", "light", "condensed", "narrow", "mono", "serif", "emoji")
_NOT_A_CHARACTER = "\uffff"  # every font shows its placeholder for it
_PROBE_SIZE = 24  # pixels; at this size letters differ from placeholders


@dataclass(frozen=True)
class TextLine:
    """A line of text on one baseline, in runs of one font each, from left to right. Sizes are in pixels."""

    runs: tuple[tuple[ImageFont.FreeTypeFont, str], ...]
    size: int

    @classmethod
    def of(cls, text: str, size: int, width: Pixels | None = None, keep: str = "start") -> "TextLine":
        """Choose fonts for `text`, and with `width` cut it to that many pixels; a cut is marked.

        Args:
            text: its white space becomes spaces, for a line has no breaks.
            size: of the letters.
            width: of the longest line; None for any.
            keep: "start" or "end", the part that a cut leaves.
        """
        text = " ".join(text.split())
        line = cls(_runs(text, size), size)
        if width is None or line.width <= width:
            return line
        fits, cut = 0, len(text)  # the line of `fits` characters is short enough, that of `cut` is not
        while cut - fits > 1:
            middle = (fits + cut) // 2
            narrow = cls(_runs(_marked_cut(text, middle, keep), size), size).width <= width
            fits, cut = (middle, cut) if narrow else (fits, middle)
        return cls(_runs(_marked_cut(text, fits, keep), size), size)

    @property
    def width(self) -> float:
        """The sum of the advances of the runs."""
        return float(sum(font.getlength(text) for font, text in self.runs))

    @property
    def ascent(self) -> int:
        """From the highest letter down to the baseline; at least as for "A", so that lines of one size are alike."""
        return max(-round(font.getbbox(text, anchor="ls")[1]) for font, text in self._measured)

    @property
    def descent(self) -> int:
        """From the baseline down to the lowest letter, at least as for "g"."""
        return max(round(font.getbbox(text, anchor="ls")[3]) for font, text in self._measured)

    @property
    def _measured(self) -> tuple[tuple[ImageFont.FreeTypeFont, str], ...]:
        return ((load_font(BUNDLED, self.size), "Ag"), *self.runs)

    def draw(
        self, canvas: ImageDraw.ImageDraw, xy: tuple[Pixels, Pixels], fill: Colour | int, anchor: str = "lt"
    ) -> None:
        """Draw the line where `xy` is its anchor: "l", "m" or "r" of its width, and "t", "m" or "b" of its height."""
        x = xy[0] - self.width * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
        height = self.ascent + self.descent
        y = xy[1] - height * {"t": 0.0, "m": 0.5, "b": 1.0}[anchor[1]] + self.ascent
        for font, text in self.runs:
            canvas.text((round(x), round(y)), text, font=font, fill=fill, anchor="ls")
            x += font.getlength(text)


def letter_notes(texts: Iterable[str]) -> tuple[str, ...]:
    """Return notes for the user on what of `texts` cannot be drawn as it is written."""
    characters = frozenset("".join(texts))
    notes = []
    fonts = find_fonts(_without_letters(characters))
    # Marks are drawn with the letters that they belong to.
    if missing := "".join(c for c, path in fonts.items() if path is None and unicodedata.category(c)[0] != "M"):
        notes.append(f"no font of this machine has letters for {missing[:20]}: they are drawn as boxes")
    if any(map(_needs_shaping, characters)) and not features.check("raqm"):
        notes.append("letters of right-to-left and Indic scripts are not joined: this Pillow comes without Raqm")
    return tuple(notes)


@lru_cache(maxsize=64)
def load_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """Return a font at a size in pixels; of a variable one the regular weight.

    Raises:
        OSError: the file is no font, or has not this size.
    """
    font = ImageFont.truetype(str(path), size)
    if "[" in path.name or "VF" in path.name or "Variable" in path.name:
        with suppress(OSError, ValueError, NotImplementedError):
            font.set_variation_by_name("Regular")
    return font


@lru_cache(maxsize=256)
def find_fonts(characters: frozenset[str]) -> dict[str, Path | None]:
    """Return for each character a font of the system that has it, None where there is none; one font for many."""
    found: dict[str, Path | None] = dict.fromkeys(sorted(characters))
    missing = set(characters)
    for path in system_fonts() if missing else ():
        for character in [c for c in missing if _has_letter(path, c)]:
            found[character] = path
            missing.remove(character)
        if not missing:
            break
    return found


@lru_cache(maxsize=1)
def system_fonts() -> tuple[Path, ...]:
    """Return the font files of this machine, those that are fittest for labels first."""
    paths = {
        Path(folder, name)
        for top in _font_folders()
        for folder, _, names in os.walk(top)
        for name in names
        if name.lower().endswith(_ENDINGS) and not name.lower().startswith(_PLACEHOLDERS)
    }
    return tuple(sorted(paths, key=_fitness))


def _fitness(path: Path) -> tuple[int, int, str, str]:
    name = path.stem.lower()
    is_fit = ("sans" in name and "serif" not in name) + ("regular" in name)
    return sum(word in name.replace("sansserif", "") for word in _UNFIT), -is_fit, name, str(path)


def _font_folders() -> Iterator[Path]:
    """Yield where this system keeps its fonts and those of the user."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts")
        if local := os.environ.get("LOCALAPPDATA"):
            yield Path(local, "Microsoft", "Windows", "Fonts")
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts")
    else:
        data_folders = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        user_folder = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
        yield from (Path(folder, "fonts") for folder in (user_folder, *data_folders.split(":")))
        yield home / ".fonts"


@lru_cache(maxsize=65536)
def _has_letter(path: Path, character: str) -> bool:
    """Whether a font has a letter for a character, rather than a placeholder."""
    if unicodedata.category(character)[0] in "ZC":
        return True  # white space and joiners, which leave no mark in any font
    try:
        font = _probe(path)
        # Pillow tells nothing of the characters that a font knows, but the placeholder is the same for all others.
        return _pixels(font, character) != _pixels(font, _NOT_A_CHARACTER)
    except (OSError, ValueError):
        return False  # no font, or of fixed sizes, as some of emoji


@lru_cache(maxsize=32)
def _probe(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), _PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _pixels(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _without_letters(characters: frozenset[str]) -> frozenset[str]:
    """The characters that the bundled font lacks."""
    return frozenset(c for c in characters if not c.isascii() and not _has_letter(BUNDLED, c))


def _runs(text: str, size: int) -> tuple[tuple[ImageFont.FreeTypeFont, str], ...]:
    """Split a text into runs of one font, as few as possible, so that letters of one word are joined and kerned."""
    if text.isascii():
        return ((load_font(BUNDLED, size), text),)
    found = find_fonts(_without_letters(frozenset(text)))
    runs: list[tuple[Path, str]] = []
    for character in text:
        current = runs[-1][0] if runs else BUNDLED
        # Marks and joiners belong to the letter before them, whose font places them.
        belongs = bool(runs) and unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
        path = current if belongs or _has_letter(current, character) else found.get(character) or BUNDLED
        if runs and path == current:
            runs[-1] = path, runs[-1][1] + character
        else:
            runs.append((path, character))
    return tuple((load_font(path, size), part) for path, part in runs)


def _marked_cut(text: str, length: int, keep: str) -> str:
    if keep == "end":
        return f"…{text[len(text) - length :].lstrip()}"
    return f"{text[:length].rstrip()}…"


def _needs_shaping(character: str) -> bool:
    """Whether letters of the script of a character change with those around them, or run from right to left."""
    # The Brahmic scripts of South and South-East Asia lie side by side in Unicode.
    return unicodedata.bidirectional(character) in ("R", "AL") or "\u0900" <= character <= "\u109f"
