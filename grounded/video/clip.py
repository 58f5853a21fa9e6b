"""What a clip is: frames with numbers and times, which can be read from any frame on. For readers and writers."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL import Image

T = TypeVar("T")

FRAME_RATE = 24.0  # frames per second of images, which have no times
_AHEAD = 4  # frames decoded before they are asked for


@dataclass(frozen=True)
class Frame:
    """One frame of a clip, upright RGB, with its number from 0 and its time in seconds from the first."""

    number: int
    seconds: float
    image: Image.Image


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip before its frames are read.

    name          of the file or folder, without folders before it
    frame_rate    frames per second, the mean where it varies
    count         how many frames there are, as the file states; None where it does not
    sound         the file whose sound belongs to the frames, if any
    pixel_aspect  width of a pixel by its height, as a player shows it. Frames keep the pixels that are stored
    file_names    of the frames, where each is a file
    is_live       a camera: each frame is there once, and there is none before the first
    """

    name: str
    frame_rate: float
    count: int | None = None
    sound: str | None = None
    pixel_aspect: float = 1.0
    file_names: tuple[str, ...] | None = None
    is_live: bool = False


@runtime_checkable
class Clip(Protocol):
    """A clip that can be read from any frame on, again and again, but for a camera's."""

    @property
    def info(self) -> ClipInfo: ...

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield the frames from number `start` to before `stop`.

        Raises:
            VideoError: a frame cannot be decoded; all before it have been yielded.
        """
        ...


def read_ahead(values: Iterator[T], count: int = _AHEAD) -> Iterator[T]:
    """Yield the values of an iterator that runs in a thread of its own, up to `count` values ahead.

    The thread has ended when this iterator is closed.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(count)
    stopped = threading.Event()

    def hand_over(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for value in values:
                if not hand_over("value", value):
                    break
            else:
                hand_over("end", None)
        except BaseException as error:  # raised again in the thread that reads
            hand_over("error", error)
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
