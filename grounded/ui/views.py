"""What the app shows of a state: images at the size of a screen, tables, colours and status lines."""

import colorsys
import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.phrases import listed, parse
from grounded.output.draw import draw, phrase_colour
from grounded.ui.state import AppState, EditState
from segany.utils.rle import RLE, decode_rle, encode_rle, rle_area

COLUMNS = ("#", "phrase", "score", "detector", "CLIP", "predicted IoU", "area, px", "source")
SCREEN_SIDE = 1024  # pixels of the longer side: more is not seen, and takes time at every click
GREEN, RED = "#1a7f37", "#cf222e"  # brush and eraser; told apart by hue, so that soft edges count as well
_FOREGROUND, _BACKGROUND, _RIM = (26, 127, 55), (207, 34, 46), (255, 255, 255)
_FAINT, _CLEAR = 0.18, 0.5
_TINT = 0.45  # opacity of a mask in the annotated image; its outline is opaque
_OPAQUE = 96  # alpha from which a pixel of a stroke counts: strokes have soft edges
_GOLDEN = 0.618033988749895  # of the circle of hues: each next hue falls into the largest gap that is left
_LIGHTNESS = (0.5, 0.62, 0.4)  # in turn, so that hues that come near one another still differ


@dataclass(frozen=True)
class ScreenImage:
    """An image scaled to the screen; `scale` is screen pixels for each pixel of the image."""

    pixels: Image.Image
    scale: float

    @classmethod
    def from_source(cls, source: SourceImage, side: int = SCREEN_SIDE) -> "ScreenImage":
        """Scale an image down to `side` pixels of its longer side; smaller ones stay as they are."""
        scale = _screen_scale(source, side)
        if scale == 1.0:
            return cls(source.pixels, scale)
        width, height = (max(1, round(length * scale)) for length in source.pixels.size)
        return cls(source.pixels.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0), scale)

    def masks(self, instances: Instances) -> Bool[np.ndarray, "n h w"]:
        """The masks in screen pixels; one that would vanish keeps a pixel."""
        width, height = self.pixels.size
        masks = np.zeros((len(instances), height, width), bool)
        for row, rle in enumerate(self._scaled_rles(instances)):
            masks[row] = decode_rle([rle])[0].numpy()
        return masks

    def instances(self, instances: Instances) -> Instances:
        """The instances in screen pixels."""
        if self.scale == 1.0:
            return instances
        width, height = self.pixels.size
        boxes = instances.boxes * self.scale
        return replace(instances, image_size=(height, width), rles=self._scaled_rles(instances), boxes=boxes)

    def _scaled_rles(self, instances: Instances) -> tuple[RLE, ...]:
        if self.scale == 1.0:
            return instances.rles
        width, height = self.pixels.size
        scaled = (_scaled_counts(rle["counts"], *rle["size"], height, width) for rle in instances.rles)
        return tuple(RLE(size=[height, width], counts=counts) for counts in scaled)


def screen_to_image(source: SourceImage, x: float, y: float) -> tuple[float, float]:
    """The point of the image, in its pixels, at the middle of a pixel of its `ScreenImage`."""
    scale = _screen_scale(source, SCREEN_SIDE)
    return (x + 0.5) / scale, (y + 0.5) / scale


def annotated_image(state: AppState) -> tuple[Image.Image, list[tuple[np.ndarray, str]]]:
    """The image, and a mask in [0, 1] with its label for each instance that is not hidden, for `gr.AnnotatedImage`."""
    screen = ScreenImage.from_source(state.require_image())
    visible = visible_instances(state)
    rows = [row for row, label in enumerate(state.instances.labels.tolist()) if label not in state.hidden]
    labels = [f"{row + 1} {label}" for row, label in zip(rows, visible.labels.tolist(), strict=True)]
    masks = [_tinted(mask) for mask in screen.masks(visible)]
    return screen.pixels, list(zip(masks, labels, strict=True))


def visible_instances(state: AppState) -> Instances:
    """The instances whose phrase is not hidden."""
    return _not_hidden(state.instances, state.hidden)


def label_colours(instances: Instances) -> dict[str, str]:
    """The colour of each label of `annotated_image`, as #rrggbb: that of its phrase."""
    return {
        f"{row + 1} {label}": "#{:02x}{:02x}{:02x}".format(*phrase_colour(label))
        for row, label in enumerate(instances.labels.tolist())
    }


def distinct_colours(count: int) -> list[str]:
    """Different colours as #rrggbb, neighbours in the list far from one another."""
    colours = []
    for number in range(count):
        parts = colorsys.hls_to_rgb(number * _GOLDEN % 1.0, _LIGHTNESS[number % len(_LIGHTNESS)], 0.85)
        colours.append("#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in parts)))
    return colours


def canvas_image(state: AppState) -> Image.Image:
    """The image to press on: the selected instance clear, the others faint, and the points so far."""
    screen = ScreenImage.from_source(state.require_image())
    edits = state.edits
    if edits is None:
        return screen.pixels
    instances = screen.instances(edits.instances)
    if edits.selected is None:
        image = draw(screen.pixels, _not_hidden(instances, state.hidden), show_scores=False)
    else:
        others = instances[[row for row in range(len(instances)) if row != edits.selected]]
        image = draw(screen.pixels, _not_hidden(others, state.hidden), opacity=_FAINT, show_scores=False)
        image = draw(image, instances[edits.selected], opacity=_CLEAR, show_scores=False)
    return draw_marks(image, edits, screen.scale)


def alternative_images(state: AppState) -> list[tuple[Image.Image, str]]:
    """An image with a caption for each alternative mask of the selected instance."""
    if state.edits is None or state.edits.alternatives is None:
        return []
    screen = ScreenImage.from_source(state.require_image(), SCREEN_SIDE // 2)
    return [
        (
            draw(screen.pixels, alternative, opacity=_CLEAR, show_scores=False),
            f"predicted IoU {alternative.predicted_iou[0]:.2f}",
        )
        for alternative in screen.instances(state.edits.alternatives)
    ]


def instance_table(instances: Instances) -> list[list[str | int]]:
    """One row for each instance, by `COLUMNS`; scores with three digits, and a dash where a stage did not run."""
    scores = zip(
        instances.scores, instances.detector_scores, instances.clip_scores, instances.predicted_iou, strict=True
    )
    return [
        [
            row + 1,
            str(instances.labels[row]),
            *(f"{score:.3f}" if np.isfinite(score) else "–" for score in values),
            int(area),
            str(instances.sources[row]),
        ]
        for row, (values, area) in enumerate(zip(scores, rle_area(instances.rles), strict=True))
    ]


def phrase_choices(instances: Instances) -> list[tuple[str, str]]:
    """For each phrase of the query or added later, its text with its count, and the phrase itself as the value."""
    counts = Counter(instances.labels.tolist())
    return [(f"{phrase} ({counts[phrase]})", phrase) for phrase in instances.phrases]


def instance_choices(instances: Instances) -> list[tuple[str, int]]:
    """The number and phrase of each instance, with its row as the value."""
    return [(f"{row + 1} {label}", row) for row, label in enumerate(instances.labels.tolist())]


def status_lines(state: AppState) -> tuple[str, ...]:
    """Sentences on what was found, what is selected, and what to do next."""
    image, edits = state.image, state.edits
    if image is None:
        return ("Add an image or pick an example, say what to find, and press Run.",)
    notes = tuple(f"The image was {note}." if note.startswith("scaled") else f"{note}." for note in image.notes)
    if edits is None:
        width, height = image.pixels.size
        return (f"Image of {width} × {height} pixels. Say what to find, and press Run.", *notes)
    understood = [f"Phrases: {listed(parse(state.last_query[0]))}."] if state.last_query else []
    unread = (f"{note[:1].upper()}{note[1:]}." for note in edits.instances.notes)
    lines = [found_line(edits.instances, "instance"), *understood, *unread, *notes]
    if edits.selected is not None:
        points = f", {len(edits.clicks)} point{'s' * (len(edits.clicks) != 1)} set" if edits.clicks else ""
        lines.append(f"Selected: {instance_choices(edits.instances)[edits.selected][0]}{points}.")
    if edits.corner is not None:
        lines.append("Now press on the opposite corner of the box.")
    return tuple(lines)


def found_line(instances: Instances, noun: str, optional_phrase: str | None = None) -> str:
    """How many instances there are of each phrase, and which phrases have none.

    Args:
        instances: all of them.
        noun: what to call them, in the singular.
        optional_phrase: not listed among the phrases that have none.
    """
    counts = Counter(instances.labels.tolist())
    total = f"{len(instances)} {noun}{'s' * (len(instances) != 1)}"
    there = ", ".join(f"{phrase} ({counts[phrase]})" for phrase in instances.phrases if counts[phrase])
    missing = ", ".join(phrase for phrase in instances.phrases if not counts[phrase] and phrase != optional_phrase)
    return (f"{total}: {there}." if there else "Nothing was found.") + (f" None of: {missing}." if missing else "")


def seconds_line(state: AppState) -> str:
    """Which stages the last event ran, and which results were kept from before."""
    ran = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in state.seconds.items() if name != "open")
    kept = ", ".join(sorted(state.stages_run - set(state.seconds) - {"open"}))
    lines = [f"Ran: {ran}." if ran else "", f"Kept from before: {kept}." if kept else ""]
    return " ".join(line for line in lines if line).replace("_", " ")  # names of functions as words


def status_html(lines: Iterable[str]) -> str:
    """Lines of plain text as HTML; empty ones are left out."""
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return f'<div role="status">{paragraphs}</div>'


def read_strokes(
    layers: Sequence[UInt8[np.ndarray, "_ _ 4"]], image_size: tuple[int, int]
) -> tuple[Bool[np.ndarray, "h w"] | None, Bool[np.ndarray, "h w"] | None]:
    """Masks of brush and eraser in the frame of the image, from layers painted in `GREEN` and `RED`.

    Args:
        layers: RGBA, of any size, each covering the whole image; later ones lie above.
        image_size: (height, width) of the image.

    Returns:
        the two masks; None for one that was not used.
    """
    brush, eraser = np.zeros((2, *image_size), bool)
    for layer in layers:
        red, green, _, alpha = np.moveaxis(layer.astype(np.int16), -1, 0)
        painted = alpha >= _OPAQUE
        added = _resized(painted & (green >= red), image_size)
        removed = _resized(painted & (green < red), image_size)
        brush, eraser = (brush | added) & ~removed, (eraser | removed) & ~added
    return brush if brush.any() else None, eraser if eraser.any() else None


def _screen_scale(source: SourceImage, side: int) -> float:
    return min(1.0, side / max(source.pixels.size))


@lru_cache(maxsize=512)
def _scaled_counts(counts: str, height: int, width: int, screen_height: int, screen_width: int) -> str:
    """The RLE counts of a mask in screen pixels. Of many masks each click changes one; the others are cached."""
    mask = decode_rle([RLE(size=[height, width], counts=counts)])[0].numpy()
    # Of each screen pixel, the pixel of the image at its middle.
    rows = ((np.arange(screen_height) + 0.5) * height / screen_height).astype(np.int64)
    columns = ((np.arange(screen_width) + 0.5) * width / screen_width).astype(np.int64)
    small = mask[np.ix_(rows, columns)]
    if not small.any() and mask.any():
        y, x = np.argwhere(mask)[0]
        small[y * screen_height // height, x * screen_width // width] = True
    return encode_rle(small[None])[0]["counts"]


def _not_hidden(instances: Instances, hidden: frozenset[str]) -> Instances:
    return instances[np.array([label not in hidden for label in instances.labels.tolist()], dtype=bool)]


def _tinted(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """A mask as opacity: translucent inside, opaque at its outline, 0 elsewhere."""
    line_width = max(1, round(max(mask.shape) / 400))
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-line_width, line_width):
            # Beyond the border the mask goes on as it ends, so that no line is drawn there.
            places = (np.arange(mask.shape[axis]) - step).clip(0, mask.shape[axis] - 1)
            inner &= mask.take(places, axis=axis)
    return np.where(inner, np.float32(_TINT), mask.astype(np.float32))


def draw_marks(image: Image.Image, edits: EditState, scale: float) -> Image.Image:
    """Points as dots, green with a plus or red with a minus, and the first corner of a box as a cross."""
    if not edits.clicks and edits.corner is None:
        return image
    marked = image.copy()
    pen, radius = ImageDraw.Draw(marked), max(6, max(marked.size) // 90)
    for click in edits.clicks:
        x, y = click.x * scale, click.y * scale
        colour = _FOREGROUND if click.foreground else _BACKGROUND
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_RIM, width=2)
        arm = radius / 2
        pen.line((x - arm, y, x + arm, y), fill=_RIM, width=2)
        if click.foreground:
            pen.line((x, y - arm, x, y + arm), fill=_RIM, width=2)
    if edits.corner is not None:
        x, y = edits.corner[0] * scale, edits.corner[1] * scale
        for colour, width in ((_RIM, 4), (_BACKGROUND, 2)):
            pen.line((x - 2 * radius, y, x + 2 * radius, y), fill=colour, width=width)
            pen.line((x, y - 2 * radius, x, y + 2 * radius), fill=colour, width=width)
    return marked


def _resized(mask: Bool[np.ndarray, "_ _"], image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    if mask.shape == image_size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(image_size[::-1], Image.Resampling.NEAREST))
