"""The images of a run, those of the frames of its clips among them: decoded when they are asked for."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from grounded.data.image import open_image
from grounded.errors import GroundedError, ImageError
from grounded.labelling.records import Record
from grounded.labelling.sources import Item, SequenceSource, Source, open_source
from grounded.labelling.sources.clips import ClipPlace
from grounded.labelling.sources.items import is_image
from grounded.labelling.store import Run
from grounded.utils.files import image_bytes
from grounded.video.clip import Clip, Frame

SUFFIX = ".jpg"  # of frames that are written as images
_QUALITY = 95
_FRAME_NAME = re.compile(r"(.+)/(\d{6,})")
_NEAR = 64  # frames that are decoded in passing rather than looked up by going to another place


def open_run_images(run: Run, images: str | None = None) -> "RunImages":
    """Open the images of a run at `images`, or else where they were.

    Raises:
        ConfigError: they are not there.
    """
    source = open_source(images or run.source, videos=True)
    return RunImages(SequenceSource.of(source) if run.clips else source)


def named_as_image(record: Record) -> Record:
    """Return the record of a frame of a video under the name of an image: "a.mp4/000012.jpg" of "a.mp4/000012"."""
    if record.image.clip is None or is_image(record.image.file):
        return record
    return replace(record, image=replace(record.image, file=record.image.file + SUFFIX))


@dataclass
class RunImages:
    """A `Source` that knows frames of clips by the names of their records as well, with or without `SUFFIX`.

    Frames are fast in their order, of one clip after the other. For several threads.
    """

    source: Source
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _opened: ExitStack = field(default_factory=ExitStack, repr=False)  # holds the clip that is open
    _clip: tuple[str, Clip] | None = None  # its name, and itself
    _frames: Iterator[Frame] | None = field(default=None, repr=False)
    _next: int = 0  # number of the frame that comes next from them

    @property
    def spec(self) -> str:
        return self.source.spec

    def items(self) -> Iterator[Item]:
        return self.source.items()

    def count(self) -> int | None:
        return self.source.count()

    def get(self, file: str) -> bytes:
        """Return the bytes of an image, or those of a frame as a JPEG file.

        Raises:
            ImageError: the source has no such image or frame, or it cannot be read.
        """
        try:
            return self.source.get(file)
        except ImageError:  # no image, and perhaps a frame
            name = _FRAME_NAME.fullmatch(file.removesuffix(SUFFIX))
            place = self._place(name[1]) if name else None
            if name is None or place is None:
                raise
        with self._lock:
            try:
                frame = self._read(name[1], place, int(name[2]))
            except (GroundedError, OSError) as error:
                self.close()
                raise ImageError(f"{file} cannot be read: {error}") from error
        if frame is None:
            raise ImageError(f"{name[1]} has no frame {int(name[2])}")
        return image_bytes(open_image(frame.image).pixels, "JPEG", quality=_QUALITY)

    def close(self) -> None:
        """Close the clip that is open."""
        self._clip = self._frames = None
        self._opened.close()

    def _place(self, clip: str) -> ClipPlace | None:
        """Where a clip of that name lies; what `grounded track` was given is called by its own name."""
        found = self._clips.get(clip)
        is_whole = found is None and Path(self.spec).name == clip
        return ClipPlace(self.spec) if is_whole else found

    @cached_property
    def _clips(self) -> dict[str, ClipPlace]:
        return {item.file: item.clip for item in self.source.items() if item.clip is not None and not item.clip.images}

    def _read(self, name: str, place: ClipPlace, number: int) -> Frame | None:
        """The frame of that number; None where the clip ends before it."""
        if self._clip is None or self._clip[0] != name:
            self.close()
            self._clip = name, self._opened.enter_context(place.open())
        if self._frames is None or not 0 <= number - self._next <= _NEAR:
            self._frames = self._clip[1].frames(number)
        for frame in self._frames:
            self._next = frame.number + 1
            if frame.number == number:
                return frame
        self._frames = None
        return None
