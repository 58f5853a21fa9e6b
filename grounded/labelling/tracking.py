"""Clips in a labelling run: the record of each frame, and how a clip goes on that was interrupted."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from typing import Protocol, runtime_checkable

from grounded.errors import ConfigError, ResultError, describe_error
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.sources import Item, Source
from grounded.labelling.store import Failure, FinishedClip, FramePlace, Run, fingerprint, index_frames, read_record_at
from grounded.video.clip import Clip
from grounded.video.tracks import TrackedFrame
from segany.utils.addresses import shown_address

_REMEMBERED = 3  # last frames of each object that are read again, as many as the memory is made again from


@runtime_checkable
class ClipTask(Protocol):
    """A task that labels clips as well, frame by frame."""

    def track(self, clip: Clip, before: Mapping[int, TrackedFrame]) -> Iterator[TrackedFrame]:
        """Yield the frames that follow those in `before`, which an interrupted pass has left, in order."""
        ...


def clip_config(run: Run) -> str:
    """Return what tells records of frames apart that must not be mixed: as `Run.config`, with the settings of video."""
    return fingerprint({"config": run.config, "video": run.configuration.get("video")})


def track_clip(
    task: object, item: Item, run: Run, before: Mapping[int, TrackedFrame]
) -> Iterator[Record | Failure | FinishedClip]:
    """Yield the record of each frame of a clip, and at last that it is finished, or its failure.

    Args:
        task: a `ClipTask`, or else the clip fails.
        item: the clip.
        run: whose records they are.
        before: what `frames_to_go_on_from` returned.
    """
    assert item.clip is not None
    config, video = clip_config(run), run.configuration.get("video", {})
    weights = None if video.get("kind") == "propagation" else video.get("checkpoint")
    models = {**run.models, "video": weights}
    labels: dict[int, str] = {}
    for frame in before.values():
        labels |= _labels(frame)
    count = max(before, default=-1) + 1
    try:
        if not isinstance(task, ClipTask):
            raise ConfigError("this task labels images, not clips")
        with item.clip.open() as clip:
            for frame in task.track(clip, before):
                labels |= _labels(frame)
                height, width = frame.instances.image_size
                info = ImageInfo(
                    file=item.clip.frame_file(item.file, frame.number),
                    width=width,
                    height=height,
                    address=item.address and shown_address(item.address),
                    clip=item.file,
                )
                count = frame.number + 1
                yield frame_record(frame, info, models, config)
    except Exception as error:  # damaged clips of every kind; the others go on
        yield Failure(file=item.file, reason=describe_error(error), kind="clip")
        return
    yield FinishedClip(file=item.file, frames=count, config=config, tracks=Counter(labels.values()))


def frame_record(frame: TrackedFrame, info: ImageInfo, models: Mapping[str, str | None], config: str) -> Record:
    """Return the record of a frame; where its image came from is left out of its instances."""
    instances = replace(frame.instances, image_source=None)
    frame = replace(frame, instances=instances)
    return Record(image=info, instances=instances, models=models, config=config, frame=frame)


def check_clip_settings(folder: str | PathLike[str], configs: Mapping[str, str], run: Run) -> None:
    """Raise ConfigError if a clip was tracked with other settings of video than those of `run`.

    Args:
        folder: of the run.
        configs: by the names of clips, what their records state.
        run: as it is now.
    """
    config = clip_config(run)
    changed = [clip for clip, one in configs.items() if one != config]
    if changed:
        raise ConfigError(
            f"{folder} holds {changed[0]}, which was tracked with other settings of video; use --restart to begin "
            "again, or another folder"
        )


def unfinished_clips(folder: str | PathLike[str], finished: Mapping[str, FinishedClip], run: Run) -> set[str]:
    """Return the clips of which some frames have a record, but not all.

    Raises:
        ConfigError: frames of a clip were tracked with other settings of video.
        ResultError: a record is damaged.
    """
    places = index_frames(folder, without=finished.keys())
    configs = {clip: read_record_at(own[-1].shard, own[-1].offset).config for clip, own in places.items()}
    check_clip_settings(folder, configs, run)
    return set(places)


def frames_to_go_on_from(folder: str | PathLike[str], clip: str) -> dict[int, TrackedFrame]:
    """Return, by number, those frames of a clip's records that tracking goes on from; none is held besides.

    They are the last ones of each object, the last key frame, and the last of all.

    Raises:
        ResultError: a record is damaged.
    """
    return remembered_frames(read_frames(index_frames(folder).get(clip, ())))


def read_frames(places: Sequence[FramePlace]) -> Iterator[TrackedFrame]:
    """Read the frames at these places one by one. Raises ResultError where a record is damaged."""
    for place in places:
        frame = read_record_at(place.shard, place.offset).frame
        if frame is None:
            raise ResultError(f"{place.shard}: the record of {place.file} must hold a frame, got none")
        yield frame


def remembered_frames(frames: Iterator[TrackedFrame]) -> dict[int, TrackedFrame]:
    """Return those of a clip's frames from which the memory of its objects is made again, in the order given.

    The order is that in which they were tracked.
    """
    kept: dict[int, TrackedFrame] = {}
    last_seen: dict[int, deque[int]] = {}
    uses: Counter[int] = Counter()
    key_frame = latest = None

    def release(number: int | None) -> None:
        if number is not None:
            uses[number] -= 1
            if not uses[number]:
                del kept[number], uses[number]

    for frame in frames:
        number = frame.number
        kept[number] = frame
        uses[number] += 1
        release(latest)
        latest = number
        if frame.is_key_frame:
            uses[number] += 1
            release(key_frame)
            key_frame = number
        for name in frame.track_ids.tolist():
            seen = last_seen.setdefault(name, deque())
            seen.append(number)
            uses[number] += 1
            if len(seen) > _REMEMBERED:
                release(seen.popleft())
    return kept


def _labels(frame: TrackedFrame) -> dict[int, str]:
    return dict(zip(frame.track_ids.tolist(), frame.instances.labels.tolist(), strict=True))


def count_frames(source: Source) -> int | None:
    """Return the number of images and frames, as the clips state it; None if one does not, or counting takes long."""
    if source.count() is None:
        return None
    total = 0
    for item in source.items():
        count: int | None = 1
        if item.clip is not None:
            with suppress(Exception), item.clip.open() as clip:  # one that cannot be opened is one failure
                count = clip.info.count
        if count is None:
            return None
        total += count
    return total
