"""What one user of the app is working on: a value that events replace. Nothing here is shared between users."""

from dataclasses import dataclass, field, replace
from typing import Any

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.stages.cache import StageCache
from segany.utils.rle import RLE

_UNDO_STEPS = 30


@dataclass(frozen=True)
class Click:
    """A point in pixels of the picture; foreground belongs to the instance."""

    x: float
    y: float
    foreground: bool


@dataclass(frozen=True, eq=False)
class Work:
    """What can be undone: the instances, and what the user says of one of them."""

    instances: Instances
    selected: int | None = None  # the instance that clicks and strokes are for
    clicks: tuple[Click, ...] = ()  # all of them since it was selected
    strokes: tuple[RLE | None, RLE | None] = (None, None)  # of the brush and of the eraser, likewise
    before: Instances | None = None  # the instances as they were then
    alternatives: Instances | None = None  # other masks that the click which made it may mean, best first
    corner: tuple[float, float] | None = None  # the first corner of a box that is being drawn


@dataclass(frozen=True, eq=False)
class Session:
    """One picture of one user. `Studio` makes a new value at every event; the old one stays as it was.

    `kept` is the exception: it remembers answers of the models about this picture, and never changes what is answered.
    """

    picture: SourceImage | None = None
    name: str = "picture"  # for the files that are taken away
    kept: StageCache = field(default_factory=StageCache)
    work: Work | None = None  # None until something was asked
    history: tuple[Work | None, ...] = ()  # what `undo` goes back to
    seconds: dict[str, float] = field(default_factory=dict)  # of the stages that the last event ran
    ran: frozenset[str] = frozenset()  # the stages that have ever run for this picture

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        return self  # an interface may copy what it keeps for a user; this is a value, and its embedding is large

    @property
    def opened(self) -> SourceImage:
        """The picture.

        Raises:
            PromptError: there is none yet.
        """
        if self.picture is None:
            raise PromptError("there is no picture yet: upload one, or pick an example")
        return self.picture

    @property
    def instances(self) -> Instances:
        """What was found and corrected so far; nothing where nothing was asked."""
        if self.work is not None:
            return self.work.instances
        return Instances.empty((), self.picture.size if self.picture else (1, 1))

    def to(self, work: Work) -> "Session":
        """The session after a step of the user that can be undone."""
        return replace(self, work=work, history=(*self.history, self.work)[-_UNDO_STEPS:])

    def timed(self, seconds: dict[str, float]) -> "Session":
        """The session, with the stages that the last event ran."""
        return replace(self, seconds=dict(seconds), ran=self.ran | set(seconds))
