"""The run of one clip: its frames as records in the store of labelling, killed and gone on with as any run is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path

from grounded.data.phrases import parse
from grounded.errors import ConfigError
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store.reader import read_records
from grounded.labelling.store.run import Run, fingerprint
from grounded.labelling.store.writer import Writer, open_run
from grounded.pipeline import Text
from grounded.video.clip import Clip
from grounded.video.frames import ClipLike, open_clip
from grounded.video.pipeline import VideoPipeline
from grounded.video.prompts import ObjectPrompt
from grounded.video.run import OBJECT
from grounded.video.tracks import TrackedFrame
from segany.utils.addresses import is_address


def frame_file(clip: str, number: int) -> str:
    """The name of the record of a frame: sorted by number, and unique where several clips share a folder."""
    return f"{clip}/{number:06d}"


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
        models={**video.pipeline.models, "video": video.config.checkpoint},
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
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrackedFrame]:
    """Track a clip, append the record of each frame, and yield it; frames that have a record are not tracked again.

    Arguments and errors are those of `VideoPipeline.track`, and those of `Writer.append`.
    """
    clip = source if isinstance(source, Clip) else open_clip(source)
    before = read_tracked_frames(writer.folder) if writer.done else {}
    first = max(before, default=start - 1) + 1
    frames = video.track(clip, text, prompts=prompts, start=first, stop=stop, before=before)
    for frame in frames:
        size = frame.instances.image_size
        info = ImageInfo(file=frame_file(clip.info.name, frame.number), width=size[1], height=size[0])
        instances = replace(frame.instances, image_source=None)
        writer.append(
            Record(
                image=info,
                instances=instances,
                models=writer.run.models,
                config=writer.run.config,
                frame=replace(frame, instances=instances),
            )
        )
        yield frame
        if should_stop():
            return


def read_tracked_frames(folder: str | PathLike[str]) -> dict[int, TrackedFrame]:
    """Return the frames of a clip's run by number, in order.

    Raises:
        ResultError: a line is damaged, or the folder does not exist.
        ConfigError: the folder holds a run of images.
    """
    frames = {}
    for record in read_records(folder):
        if record.frame is None:
            raise ConfigError(f"{folder} holds the run of images, not of a clip: {record.image.file} is no frame")
        frames[record.frame.number] = record.frame
    return dict(sorted(frames.items()))
