"""What is shown of a session: pictures at the size of a screen, a table, a line of times."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.output.draw import draw, phrase_colour
from grounded.ui.session import Session, Work
from segany.utils.rle import RLE, decode_rle, encode_rle

COLUMNS = ("#", "phrase", "score", "detector", "CLIP", "predicted IoU", "area, px", "source")
SCREEN_SIDE = 1024  # pixels of the longer side: more is not seen, and takes time at every click
_FOREGROUND, _BACKGROUND, _RIM = (26, 127, 55), (207, 34, 46), (255, 255, 255)
_FAINT, _CLEAR = 0.18, 0.5
_TINT = 0.45  # of a mask in the annotated picture; its outline is opaque


@dataclass(frozen=True)
class Screen:
    """A picture scaled to the screen; `scale` is screen pixels for each of the picture's."""

    picture: Image.Image
    scale: float

    @classmethod
    def of(cls, source: SourceImage, side: int = SCREEN_SIDE) -> "Screen":
        scale = _scale(source, side)
        if scale == 1.0:
            return cls(source.pixels, scale)
        width, height = (max(1, round(length * scale)) for length in source.pixels.size)
        return cls(source.pixels.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0), scale)

    def masks(self, instances: Instances) -> Bool[np.ndarray, "n h w"]:
        """The masks as the screen shows them; one that would vanish keeps a pixel."""
        width, height = self.picture.size
        shown = np.zeros((len(instances), height, width), bool)
        for row, rle in enumerate(self._rles(instances)):
            shown[row] = decode_rle([rle])[0].numpy()
        return shown

    def instances(self, instances: Instances) -> Instances:
        """The instances in the frame of the screen."""
        if self.scale == 1.0:
            return instances
        width, height = self.picture.size
        scaled = instances.boxes * self.scale
        return replace(instances, image_size=(height, width), rles=self._rles(instances), boxes=scaled)

    def _rles(self, instances: Instances) -> tuple[RLE, ...]:
        if self.scale == 1.0:
            return instances.rles
        width, height = self.picture.size
        small = (_small(rle["counts"], *rle["size"], height, width) for rle in instances.rles)
        return tuple(RLE(size=[height, width], counts=counts) for counts in small)


def to_picture(source: SourceImage, x: float, y: float) -> tuple[float, float]:
    """The place in the picture's pixels that a pixel of its `Screen` shows."""
    scale = _scale(source, SCREEN_SIDE)
    return (x + 0.5) / scale, (y + 0.5) / scale


def annotated(
    session: Session, hidden: frozenset[str] = frozenset()
) -> tuple[Image.Image, list[tuple[np.ndarray, str]]]:
    """The picture, and a mask in [0, 1] with its label for each instance whose phrase is not hidden."""
    screen = Screen.of(session.opened)
    chosen = shown(session.instances, hidden)
    rows = np.flatnonzero([label not in hidden for label in session.instances.labels.tolist()])
    labels = [f"{row + 1} {label}" for row, label in zip(rows.tolist(), chosen.labels.tolist(), strict=True)]
    masks = [_tinted(mask) for mask in screen.masks(chosen)]
    return screen.picture, list(zip(masks, labels, strict=True))


def shown(instances: Instances, hidden: frozenset[str]) -> Instances:
    """The instances whose phrase is not hidden."""
    return instances[np.array([label not in hidden for label in instances.labels.tolist()], dtype=bool)]


def colours(instances: Instances) -> dict[str, str]:
    """The colour of each label of `annotated`, as #rrggbb: that of its phrase."""
    return {
        f"{row + 1} {label}": "#{:02x}{:02x}{:02x}".format(*phrase_colour(label))
        for row, label in enumerate(instances.labels.tolist())
    }


def canvas(session: Session, hidden: frozenset[str] = frozenset()) -> Image.Image:
    """The picture to press on: the selected instance clear, the others faint, and the points set so far."""
    screen = Screen.of(session.opened)
    work = session.work
    if work is None:
        return screen.picture
    selected = work.selected
    everything = screen.instances(work.instances)
    if selected is None:
        picture = draw(screen.picture, shown(everything, hidden), show_scores=False)
    else:
        others = everything[[row for row in range(len(everything)) if row != selected]]
        picture = draw(screen.picture, shown(others, hidden), opacity=_FAINT, show_scores=False)
        picture = draw(picture, everything[selected], opacity=_CLEAR, show_scores=False)
    return _with_marks(picture, work, screen.scale)


def alternatives(session: Session) -> list[tuple[Image.Image, str]]:
    """A picture with a caption for each mask that the last click may mean."""
    if session.work is None or session.work.alternatives is None:
        return []
    screen = Screen.of(session.opened, SCREEN_SIDE // 2)
    choices = screen.instances(session.work.alternatives)
    return [
        (
            draw(screen.picture, choice, opacity=_CLEAR, show_scores=False),
            f"predicted IoU {choice.predicted_iou[0]:.2f}",
        )
        for choice in choices
    ]


def table(instances: Instances) -> list[list[str | int]]:
    """One row for each instance, by `COLUMNS`; scores with three digits, and a dash where a stage did not run."""
    return [
        [
            row + 1,
            str(instances.labels[row]),
            _rounded(instances.scores[row]),
            _rounded(instances.detector_scores[row]),
            _rounded(instances.clip_scores[row]),
            _rounded(instances.predicted_iou[row]),
            int(coco_mask.area(instances.rles[row])),
            str(instances.sources[row]),
        ]
        for row in range(len(instances))
    ]


def counts(instances: Instances) -> list[tuple[str, str]]:
    """For each phrase that was asked or added, its count in words and the phrase itself, to choose from."""
    found = Counter(instances.labels.tolist())
    return [(f"{phrase} ({found[phrase]})", phrase) for phrase in instances.phrases]


def names(instances: Instances) -> list[tuple[str, int]]:
    """The number and phrase of each instance, with its row, to choose from."""
    return [(f"{row + 1} {label}", row) for row, label in enumerate(instances.labels.tolist())]


def status(session: Session) -> tuple[str, ...]:
    """What there is, what is selected, and what to do next, in sentences."""
    picture, work = session.picture, session.work
    if picture is None:
        return ("Add a picture or pick an example, say what to find, and press Run.",)
    notes = tuple(f"The picture was {note}." if note.startswith("scaled") else f"{note}." for note in picture.notes)
    if work is None:
        width, height = picture.pixels.size
        return (f"Picture of {width} × {height} pixels. Say what to find, and press Run.", *notes)
    lines = [_found(work.instances), *notes]
    if work.selected is not None:
        points = f", {len(work.clicks)} point{'s' * (len(work.clicks) != 1)} set" if work.clicks else ""
        lines.append(f"Selected: {names(work.instances)[work.selected][0]}{points}.")
    if work.corner is not None:
        lines.append("Now press on the opposite corner of the box.")
    return tuple(lines)


def times(session: Session) -> str:
    """Which stages the last event ran, and which answers were kept from before."""
    ran = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in session.seconds.items() if name != "open")
    kept = ", ".join(sorted(session.ran - set(session.seconds) - {"open"}))
    parts = [f"Ran: {ran}." if ran else "", f"StageCache from before: {kept}." if kept else ""]
    return " ".join(part for part in parts if part)


def _scale(source: SourceImage, side: int) -> float:
    return min(1.0, side / max(source.pixels.size))


@lru_cache(maxsize=512)
def _small(counts: str, height: int, width: int, seen_height: int, seen_width: int) -> str:
    """The counts of a scaled mask. Of many masks, each click changes one; the others are not scaled again."""
    mask = decode_rle([RLE(size=[height, width], counts=counts)])[0].numpy()
    small = mask[np.ix_(_samples(seen_height, height), _samples(seen_width, width))]
    if not small.any() and mask.any():
        y, x = np.argwhere(mask)[0]
        small[y * seen_height // height, x * seen_width // width] = True
    return encode_rle(small[None])[0]["counts"]


def _samples(seen: int, length: int) -> np.ndarray:
    """Indices of the `seen` pixels out of `length` that are shown, at the middles of what they stand for."""
    return ((np.arange(seen) + 0.5) * length / seen).astype(np.int64)


def _tinted(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """A mask as opacity: translucent inside, opaque at its outline, 0 elsewhere."""
    reach = max(1, round(max(mask.shape) / 400))
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-reach, reach):
            inner &= _moved(mask, step, axis)
    return np.where(inner, np.float32(_TINT), mask.astype(np.float32))


def _moved(mask: Bool[np.ndarray, "h w"], step: int, axis: int) -> Bool[np.ndarray, "h w"]:
    """The mask moved by some pixels; beyond the border it goes on as it ends, so that no line is drawn there."""
    places = (np.arange(mask.shape[axis]) - step).clip(0, mask.shape[axis] - 1)
    return mask.take(places, axis=axis)


def _found(instances: Instances) -> str:
    """How many instances of which phrases, and which phrases have none."""
    found = Counter(instances.labels.tolist())
    total = f"{len(instances)} instance{'s' * (len(instances) != 1)}"
    there = ", ".join(f"{phrase} ({found[phrase]})" for phrase in instances.phrases if found[phrase])
    missing = ", ".join(phrase for phrase in instances.phrases if not found[phrase])
    parts = [f"{total}: {there}." if there else "Nothing was found.", f"None of: {missing}." if missing else ""]
    return " ".join(part for part in parts if part)


def _rounded(value: np.float32) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _with_marks(picture: Image.Image, work: Work, scale: float) -> Image.Image:
    """Points as dots, green with a plus or red with a minus, and the first corner of a box as a cross."""
    if not work.clicks and work.corner is None:
        return picture
    marked = picture.copy()
    pen, radius = ImageDraw.Draw(marked), max(6, max(marked.size) // 90)
    for click in work.clicks:
        x, y = click.x * scale, click.y * scale
        colour = _FOREGROUND if click.foreground else _BACKGROUND
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_RIM, width=2)
        arm = radius / 2
        pen.line((x - arm, y, x + arm, y), fill=_RIM, width=2)
        if click.foreground:
            pen.line((x, y - arm, x, y + arm), fill=_RIM, width=2)
    if work.corner is not None:
        x, y = work.corner[0] * scale, work.corner[1] * scale
        for colour, width in ((_RIM, 4), (_BACKGROUND, 2)):
            pen.line((x - 2 * radius, y, x + 2 * radius, y), fill=colour, width=width)
            pen.line((x, y - 2 * radius, x, y + 2 * radius), fill=colour, width=width)
    return marked
