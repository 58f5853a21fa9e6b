"""The run of one clip: its frames as records in the store of labelling, killed and gone on with as any run is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path

from grounded.data.phrases import parse
from grounded.errors import ConfigError
from grounded.labelling.records import ImageInfo
from grounded.labelling.sources.clips import frame_file
from grounded.labelling.store.reader import index_frames, read_done_files
from grounded.labelling.store.run import Run, fingerprint
from grounded.labelling.store.writer import Writer, open_run
from grounded.labelling.tracking import frame_record, read_frames, remembered_frames
from grounded.pipeline import Text
from grounded.video.clip import Clip
from grounded.video.frames import ClipLike, open_clip
from grounded.video.pipeline import Direction, VideoPipeline
from grounded.video.prompts import ObjectPrompt
from grounded.video.run import OBJECT
from grounded.video.tracks import TrackedFrame
from segany.utils.addresses import is_address


def open_clip_run(
    folder: str | PathLike[str],
    video: VideoPipeline,
    source: str | PathLike[str],
    text: Text | None = None,
    prompts: Sequence[ObjectPrompt] = (),
    *,
    restart: bool = False,
) -> Writer:
    """Begin the run of a clip in `folder`, or go on with the one that is there.

    Args:
        folder: created where it is missing.
        video: whose settings and models the run states.
        source: the clip, a file, folder, pattern or address.
        text: what is looked for.
        prompts: masks, boxes and points on any frames.
        restart: put aside what an earlier run left, and begin again.

    Raises:
        BusyError: another run is writing into the folder.
        ConfigError: the run that is there is of another clip, text or settings, and `restart` is not set.
        OutputError: the folder cannot be written to.
    """
    phrases = () if text is None else parse(text)
    labels = {prompt.label or OBJECT: None for prompt in prompts}
    config = video.pipeline.config.to_dict()
    settings = {key: value for key, value in config.items() if key != "device"}
    run = Run(
        source=str(source) if is_address(str(source)) else str(Path(source).absolute()),
        phrases=tuple(dict.fromkeys([*phrases, *labels])),
        configuration=config,
        models={**video.pipeline.models, "video": video.config.weights},
        config=fingerprint({"phrases": phrases, "prompts": [asdict(prompt) for prompt in prompts], "config": settings}),
        phrase_scores=False,
    )
    return open_run(folder, run, restart=restart)


def track_into(
    writer: Writer,
    video: VideoPipeline,
    source: ClipLike | Clip,
    text: Text | None = None,
    prompts: Sequence[ObjectPrompt] = (),
    *,
    start: int = 0,
    stop: int | None = None,
    direction: Direction = "forwards",
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrackedFrame]:
    """Track a clip, append the record of each frame, and yield it; frames that have a record are not tracked again.

    Arguments and errors are those of `VideoPipeline.track`, and those of `Writer.append`.

    Raises:
        ConfigError: frames have records, and `start` is neither one of them nor next to them.
    """
    clip = source if isinstance(source, Clip) else open_clip(source)
    for frame in _passes(writer, video, clip, text, prompts, start, stop, direction):
        height, width = frame.instances.image_size
        file = frame_file(clip.info.name, frame.number)
        info = ImageInfo(file=file, width=width, height=height, clip=clip.info.name)
        writer.append(frame_record(frame, info, writer.run.models, writer.run.config))
        yield frame
        if should_stop():
            return


def _passes(
    writer: Writer,
    video: VideoPipeline,
    clip: Clip,
    text: Text | None,
    prompts: Sequence[ObjectPrompt],
    start: int,
    stop: int | None,
    direction: Direction,
) -> Iterator[TrackedFrame]:
    """The frames that have no record yet, in one pass or in two; each begins with what the records tell by then."""
    for one in ("forwards", "backwards") if direction == "both" else (direction,):
        done = TrackedFrames(writer.folder)
        if done and not done.first - 1 <= start <= done.last + 1:
            raise ConfigError(
                f"{writer.folder} holds the frames {done.first} to {done.last}, and a run goes on next to them: "
                f"expected a start there, got {start}"
            )
        if one == "forwards":
            before = remembered_frames(iter(done))
            first = done.last + 1 if done else start
            yield from video.track(clip, text, prompts=prompts, start=first, stop=stop, before=before)
        else:
            before = remembered_frames(reversed(done))
            first = done.first - 1 if done else start
            last = stop if direction == "backwards" else 0
            yield from video.track(
                clip, text, prompts=prompts, start=first, stop=last, direction="backwards", before=before
            )


class TrackedFrames:
    """The frames of a clip's run in order of their numbers, read from its records one by one.

    Raises:
        ResultError: the folder does not exist; while frames are read, a record is damaged.
        ConfigError: the folder holds a run of images, or of several clips.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        clips = index_frames(folder)
        if len(clips) > 1 or (not clips and read_done_files(folder)):
            found = f"{len(clips)} clips" if clips else "images"
            raise ConfigError(f"{folder} must hold the run of one clip, got a run of {found}")
        self._places = next(iter(clips.values()), [])

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[TrackedFrame]:
        return read_frames(self._places)

    def __reversed__(self) -> Iterator[TrackedFrame]:
        return read_frames(self._places[::-1])

    @property
    def numbers(self) -> list[int]:
        """Of the frames, ascending."""
        return [place.number for place in self._places]

    @property
    def first(self) -> int:
        return self._places[0].number

    @property
    def last(self) -> int:
        return self._places[-1].number
