"""The command `grounded track`: follows what a text names, or what is given, through a clip."""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.errors import errors_as_messages
from grounded.cli.options import pipeline_options, read_config
from grounded.errors import ConfigError, GroundedError, describe_error

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.video.clip import Clip
    from grounded.video.pipeline import Direction, VideoPipeline
    from grounded.video.prompts import ObjectPrompt

# Name of an output: the file or folder that it writes.
OUTPUTS = {
    "video": "annotated.mp4",
    "masks": "masks",
    "mot": "mot.txt",
    "mots": "mots.txt",
    "coco": "coco_video.json",
    "youtube-vis": "youtube_vis_results.json",
    "cutouts": "cutouts",
    "cutout-clip": "cutout.webm",
}
_WITH_IMAGES = ("video", "cutouts", "cutout-clip")


@click.command()
@click.argument("clip")
@click.argument("text", required=False)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the tracks.")
@click.option(
    "--masks",
    metavar="PNG",
    type=click.Path(exists=True, path_type=Path),
    help="Masks of objects in the first frame, as DAVIS gives them, or a folder of such files named by frame.",
)
@click.option(
    "--prompts",
    "prompts_file",
    metavar="JSON",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Points, boxes and masks on any frames.",
)
@click.option("--start", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the first frame.")
@click.option("--stop", type=click.IntRange(min=1), help="Number of the frame before which to stop.  [the end]")
@click.option(
    "--direction",
    type=click.Choice(["forwards", "backwards", "both"]),
    default="forwards",
    show_default=True,
    help="From --start on: to the end, down to the beginning, or first the one and then the other.",
)
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), default=24, show_default=True, help="Of images.")
@click.option(
    "--output",
    "outputs",
    multiple=True,
    type=click.Choice(["none", *OUTPUTS]),
    default=("video",),
    show_default=True,
    help="What to write besides the records; may be given several times.",
)
@pipeline_options
@click.option("--restart", is_flag=True, help="Put aside what an earlier run left in the folder, and begin again.")
def track(
    clip: str,
    text: str | None,
    out: Path,
    masks: Path | None,
    prompts_file: Path | None,
    start: int,
    stop: int | None,
    direction: "Direction",
    fps: float,
    outputs: tuple[str, ...],
    restart: bool,
    **fields: Any,
) -> None:
    """Follow what TEXT names, or objects that are given by masks or prompts, through CLIP.

    CLIP is a video file or its address, an animated image, a folder of images or a pattern such as "shots/*.jpg", or
    camera:0. One record per frame goes into the folder, and the outputs are written when all frames have one. A run
    that was interrupted or killed goes on where it was when the same command is given again.

    Exit status: 0 all frames are done; 1 the clip could not be read to its end, or the run could not go on; 2 wrong
    arguments; 130 or 143 interrupted, and the records so far are complete.
    """
    if text is None and masks is None and prompts_file is None:
        raise click.UsageError("expected a TEXT, --masks or --prompts, got none of them")
    from grounded.labelling.clips import open_clip_run
    from grounded.video.frames import open_clip
    from grounded.video.pipeline import VideoPipeline

    camera = clip.removeprefix("camera:") if clip.startswith("camera:") else None
    if camera is not None and not camera.isdecimal():
        raise click.UsageError(f"expected the number of a camera, such as camera:0, got {clip}")
    source = clip if camera is None else int(camera)
    try:
        config = read_config(**fields)
        opened = open_clip(source, fps)
        _check_outputs(opened, outputs)
        prompts = _read_prompts(opened, masks, prompts_file, start)
    except GroundedError as error:
        raise click.UsageError(str(error)) from error
    with errors_as_messages():
        video = VideoPipeline.from_config(config)
        with open_clip_run(out, video, clip, text, prompts, restart=restart) as writer:
            status = _track_all(writer, video, opened, text, prompts, (start, stop, direction))
    if status in (130, 143):
        sys.exit(status)
    chosen = [name for name in outputs if name != "none"]
    sys.exit(max(status, _write_outputs(out, opened, chosen) if chosen else 0))


def _read_prompts(
    clip: "Clip", masks: Path | None, prompts_file: Path | None, start: int
) -> tuple["ObjectPrompt", ...]:
    """The prompts of both options; the size of a frame, which they must have, is that of the first."""
    if masks is None and prompts_file is None:
        return ()
    from grounded.video.prompts import ObjectPrompt, read_masks, read_prompts

    first = next(clip.frames(start, start + 1), None)
    if first is None:
        raise ConfigError(f"{clip.info.name} has no frame {start}")
    size = first.image.height, first.image.width
    prompts: list[ObjectPrompt] = []
    if masks is not None:
        given, labels = read_masks(masks, size, start)
        prompts += [
            ObjectPrompt(frame=number, track_id=name, label=labels.get(name), rle=rle)
            for number, objects in given.items()
            for name, rle in objects.items()
        ]
    if prompts_file is not None:
        prompts += read_prompts(prompts_file, size)
    return tuple(prompts)


def _track_all(
    writer: Any,
    video: "VideoPipeline",
    clip: "Clip",
    text: str | None,
    prompts: tuple["ObjectPrompt", ...],
    extent: tuple[int, int | None, "Direction"],
) -> int:
    """Track every frame that has no record yet, with a progress bar. Returns the exit status."""
    from grounded.labelling.clips import TrackedFrames, track_into
    from grounded.labelling.interrupts import catch_interrupts

    start, stop, direction = extent
    total = _count_frames(clip.info.count, start, stop, direction)
    with catch_interrupts(lambda line: click.echo(f"\n{line}", err=True)) as interrupt:
        try:
            frames = track_into(
                writer, video, clip, text, prompts, start=start, stop=stop, direction=direction, should_stop=interrupt
            )
            done = len(writer.done)
            with tqdm(total=total, initial=done, unit="frame", disable=None) as progress:
                for frame in frames:
                    progress.set_postfix(objects=len(frame))
                    progress.update()
            # From the records, so that what earlier runs found counts too.
            labels: dict[int, str] = {}
            tracked = TrackedFrames(writer.folder)
            for frame in tracked:
                labels |= zip(frame.track_ids.tolist(), frame.instances.labels.tolist(), strict=True)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except Exception as error:
            click.echo(f"Error: {describe_error(error)}", err=True)
            return interrupt.exit_status or 1
    counts = ", ".join(f"{label}: {count}" for label, count in Counter(labels.values()).items()) or "nothing was seen"
    unmet = sorted({prompt.frame for prompt in prompts} - set(tracked.numbers))
    if unmet and not interrupt.exit_status:
        click.echo(f"Prompts are on frames that were not tracked: {', '.join(map(str, unmet))}", err=True)
    click.echo(f"{len(writer.done)} frames -> {writer.folder} ({counts})")
    return interrupt.exit_status or 0


def _count_frames(count: int | None, start: int, stop: int | None, direction: "Direction") -> int | None:
    """How many frames there are to track; None where the clip does not state its length."""
    if direction == "backwards":
        return start + 1 - (stop or 0)
    end = stop if count is None else min(count, stop or count)
    return None if end is None else max(end - (0 if direction == "both" else start), 0)


def _write_outputs(folder: Path, clip: "Clip", names: list[str]) -> int:
    """Write the outputs from the records, with the frames of the clip. Returns the exit status."""
    from grounded.labelling.clips import TrackedFrames
    from grounded.video.output.write import with_images, write_outputs

    try:
        frames = TrackedFrames(folder)
        outputs = [_open_output(name, folder / OUTPUTS[name], clip) for name in names]
        written = write_outputs(with_images(clip, frames), outputs)
        for _ in tqdm(written, total=len(frames), desc="outputs", unit="frame", disable=None):
            pass
    except GroundedError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    for name in names:
        click.echo(f"  {folder / OUTPUTS[name]}")
    return 0


def _check_outputs(clip: "Clip", names: Sequence[str]) -> None:
    """Raise ConfigError for outputs that show the frames of a camera: these are there once, while they are tracked."""
    drawn = [name for name in names if name in _WITH_IMAGES]
    if clip.info.is_live and drawn:
        others = ", ".join(name for name in OUTPUTS if name not in _WITH_IMAGES)
        raise ConfigError(
            f"the frames of a camera are gone when they have been tracked, so there is no output {', '.join(drawn)}: "
            f"choose --output {others} or none, or record a clip first"
        )


def _open_output(name: str, path: Path, clip: "Clip") -> AbstractContextManager[Any]:
    from grounded.video.output import annotate, coco_video, cutouts, mask_folder, mot

    if name == "video":
        return annotate.annotated_clip(path, clip.info)
    if name == "masks":
        return mask_folder.mask_folder(path)
    if name == "mot":
        return mot.mot_file(path)
    if name == "mots":
        return mot.mots_file(path)
    if name == "coco":
        return coco_video.coco_video_file(path, clip.info)
    if name == "youtube-vis":
        return coco_video.youtube_vis_results(path)
    return cutouts.cutout_folder(path) if name == "cutouts" else cutouts.cutout_clip(path, clip.info)
