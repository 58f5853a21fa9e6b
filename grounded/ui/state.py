"""What the app holds for one user, and the limits that all users have."""

from dataclasses import dataclass, field, replace
from typing import Any

from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.query import QuerySettings
from grounded.stages.cache import StageCache
from segany.utils.rle import RLE

_UNDO_STEPS = 30


@dataclass(frozen=True)
class Limits:
    """Bounds for uploads and for the time of one event."""

    max_side: int = 2048  # pixels; larger images are scaled down, which a note says
    max_megapixels: float = 100.0  # larger images are refused by the size that their file states
    max_file_mb: int = 30  # of one upload
    max_images: int = 100  # of one batch
    seconds: float = 300.0  # for one event
    allow_addresses: bool = False  # whether the server fetches images from public addresses that a user names
    fetch_seconds: float = 20.0  # for one of them
    max_clip_frames: int = 600  # of one clip; later ones are left out, which a note says
    max_clip_seconds: float = 60.0  # of one clip, likewise
    max_clip_side: int = 1280  # pixels; larger frames are scaled down


def open_within(image: ImageLike | SourceImage, limits: Limits) -> SourceImage:
    """Open an image, and scale it down where its longer side is beyond the limit; a note on it says so.

    Text is the path of a file and never an address: it may come from a stranger.

    Raises:
        ImageError: it cannot be read, or has too many pixels.
    """
    source = open_image(image, round(limits.max_megapixels * 1e6), allow_addresses=False)
    width, height = source.pixels.size
    scale = limits.max_side / max(width, height)
    if scale >= 1:
        return source
    size = max(1, round(width * scale)), max(1, round(height * scale))
    note = f"scaled down from {width} x {height} to {size[0]} x {size[1]} pixels"
    return replace(source, pixels=source.pixels.resize(size, reducing_gap=2.0), notes=(*source.notes, note))


@dataclass(frozen=True)
class Click:
    """A point in pixels of the image; foreground belongs to the instance."""

    x: float
    y: float
    foreground: bool


@dataclass(frozen=True, eq=False)
class EditState:
    """What `undo` goes back to: the instances, and the correction of one of them that is under way."""

    instances: Instances
    selected: int | None = None  # index of the instance that clicks and strokes correct
    clicks: tuple[Click, ...] = ()  # all of them since it was selected
    strokes: tuple[RLE | None, RLE | None] = (None, None)  # of the brush and of the eraser, likewise
    uncorrected: Instances | None = None  # the instances before the first of these clicks and strokes
    alternatives: Instances | None = None  # the masks that the click which made it may mean, best first
    corner: tuple[float, float] | None = None  # first corner of a box that is being drawn


@dataclass(frozen=True, eq=False)
class AppState:
    """One image of one user. Events replace the state; nothing in it is shared between users.

    `cache` alone is changed in place: it holds results of the models for this image, and never alters a result.
    """

    image: SourceImage | None = None
    name: str = "image"  # for the names of downloads
    cache: StageCache | None = None  # None where there is no image
    edits: EditState | None = None  # None until the first query
    history: tuple[EditState | None, ...] = ()  # earlier values of `edits`, oldest first
    seconds: dict[str, float] = field(default_factory=dict)  # of the stages that the last event ran
    stages_run: frozenset[str] = frozenset()  # stages that have ever run for this image
    hidden: frozenset[str] = frozenset()  # phrases whose instances are not shown
    last_query: tuple[str, QuerySettings] | None = None  # the same need not run again
    painting: bool = False  # whether the brush is open, which is slow to fill

    def __deepcopy__(self, memo: dict[int, Any]) -> "AppState":
        return self  # Gradio copies what it keeps for a user; this is a value, and its embedding is large

    def require_image(self) -> SourceImage:
        """The image.

        Raises:
            PromptError: there is none yet.
        """
        if self.image is None:
            raise PromptError("there is no image yet: upload one, or pick an example")
        return self.image

    @property
    def instances(self) -> Instances:
        """All instances so far, with their corrections; none before the first query."""
        if self.edits is not None:
            return self.edits.instances
        return Instances.empty((), self.image.size if self.image else (1, 1))

    def with_step(self, edits: EditState) -> "AppState":
        """The state after a step that can be undone."""
        return replace(self, edits=edits, history=(*self.history, self.edits)[-_UNDO_STEPS:])

    def with_seconds(self, seconds: dict[str, float]) -> "AppState":
        """The state with the stages that the last event ran."""
        return replace(self, seconds=dict(seconds), stages_run=self.stages_run | set(seconds))

    def showing(self, phrases: list[str]) -> "AppState":
        """The state with the instances of all other phrases hidden."""
        return replace(self, hidden=frozenset(self.instances.phrases) - frozenset(phrases))
