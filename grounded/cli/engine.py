"""`grounded engine`: annotate images in rounds, each with a model that was trained on the rounds before."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from grounded.cli.errors import errors_as_messages
from grounded.errors import ConfigError, GroundedError

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.engine.report import Truths
    from grounded.engine.rounds import Engine, Plan
    from grounded.labelling.interrupts import Interrupt

F = TypeVar("F", bound=Callable[..., Any])
_FOLDER = click.Path(file_okay=False, path_type=Path)
_ENGINE = click.Path(exists=True, file_okay=False, path_type=Path)
_device = click.option("--device", help="auto, cpu, cuda, cuda:1, ...")
_PAPER_SECONDS = 30.0


@click.group()
def engine() -> None:
    """Annotate images in rounds, and train the model after each: the data engine of Segment Anything.

    Rounds are assisted (a person clicks, from nothing), semi-automatic (confident masks are shown, the person adds what
    is missing), or automatic. Each is an ordinary labelling run in DIR/rounds: browse, export and evaluate work on it.
    """


def _plan_options(command: F) -> F:
    """Decorate a command with the options of a plan; `_read_plan` takes their values."""
    options = (
        click.option("--out", required=True, metavar="DIR", type=_FOLDER, help="Folder of the data engine."),
        click.option(
            "--from", "base", default="photo", show_default=True, help="A preset, or a Segment Anything checkpoint."
        ),
        click.option(
            "--plan",
            "rounds",
            default="assisted:20,assisted:20,semi:20,auto",
            show_default=True,
            help="The rounds, each with its number of images; the last may take all that are left.",
        ),
        click.option(
            "--thirty-seconds", is_flag=True, help="Suggest the next image when a mask takes more than 30 seconds."
        ),
        click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Of each training."),
        click.option(
            "--hold-out",
            type=click.FloatRange(0, 0.9, min_open=True),
            default=0.2,
            show_default=True,
            help="Share of the annotated images that trainings are measured on.",
        ),
        click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Images a step."),
        click.option(
            "--rate", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True, help="Learning rate."
        ),
        click.option(
            "--points-per-side", type=click.IntRange(1), default=32, show_default=True, help="Of the automatic grid."
        ),
        click.option(
            "--crop-layers", type=click.IntRange(0, 3), default=1, show_default=True, help="For small objects."
        ),
        click.option(
            "--iou", type=click.FloatRange(0, 1), default=0.88, show_default=True, help="Least predicted IoU."
        ),
        click.option(
            "--stability", type=click.FloatRange(0, 1), default=0.95, show_default=True, help="Least stability score."
        ),
        click.option(
            "--confident-iou",
            type=click.FloatRange(0, 1),
            default=0.92,
            show_default=True,
            help="Least predicted IoU of masks that semi-automatic rounds show.",
        ),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For drawing the images."),
        _device,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _read_plan(source: str, options: dict[str, Any]) -> "Plan":
    """The plan that the values of `_plan_options` describe. Raises ConfigError."""
    from grounded.engine.rounds import AutomaticSettings, Plan, RoundTraining, base_config, parse_rounds

    base_config(options["base"])  # before anything is written
    return Plan(
        source=source,
        base=options["base"],
        rounds=parse_rounds(options["rounds"]),
        automatic=AutomaticSettings(
            points_per_side=options["points_per_side"],
            crop_layers=options["crop_layers"],
            pred_iou_thresh=options["iou"],
            stability_score_thresh=options["stability"],
            confident_iou=options["confident_iou"],
            confident_stability=options["stability"],
        ),
        training=RoundTraining(
            steps=options["steps"], rate=options["rate"], batch=options["batch"], hold_out=options["hold_out"]
        ),
        seconds_per_mask=_PAPER_SECONDS if options["thirty_seconds"] else None,
        seed=options["seed"],
    )


@engine.command()
@click.argument("images", metavar="IMAGES")
@_plan_options
def start(images: str, **options: Any) -> None:
    """Begin a data engine over IMAGES, and prepare its first round.

    IMAGES is all that `grounded label` takes: a folder, a pattern, a list, TAR files, a COCO file.
    """
    from grounded.engine import rounds
    from grounded.labelling.sources import open_source

    with errors_as_messages():
        plan = _read_plan(open_source(images).spec, options)
    with _work(options["out"]) as interrupt:
        one = rounds.start(options["out"], plan)
        _tell_next(_advance(one, options["device"], interrupt, to_next=False))


@engine.command()
@click.argument("folder", metavar="DIR", type=_ENGINE)
@click.option("--images", metavar="SOURCE", help="Where the images are now, if they have been moved.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [default: the first free from 7870]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Whoever reaches it can see and annotate; 0.0.0.0 lets other machines in.",
)
@click.option("--thirty-seconds/--no-limit", default=None, help="Suggest the next image after 30 seconds on a mask.")
@_device
def annotate(
    folder: Path, images: str | None, port: int | None, host: str, thirty_seconds: bool | None, device: str | None
) -> None:
    """Annotate the images of the current round, on a page of this machine: click, keep, next.

    Each mask is on the disk at once. Ctrl-C ends the page; `grounded engine next` ends the round.
    """
    from grounded.engine.rounds import Engine
    from grounded.labelling.frame_images import open_run_images
    from grounded.labelling.review import server
    from grounded.labelling.review.clicks import ClickSegmenter
    from grounded.labelling.review.session import AnnotationGuide, ReviewSession
    from grounded.labelling.store import Run
    from grounded.stages.fallback import UNNAMED

    with errors_as_messages():
        one = Engine.read(folder)
        if one.phase not in ("annotate", "done"):
            raise GroundedError(f"round {one.number} is to be {_STATES[one.phase]}: grounded engine next {folder}")
        limit = {None: one.plan.seconds_per_mask, True: _PAPER_SECONDS, False: None}[thirty_seconds]
        run = one.round_folder()
        session = ReviewSession(
            run,
            open_run_images(Run.read(run), images),
            ClickSegmenter(one.config(device=device)),
            AnnotationGuide(UNNAMED, limit),
        )
        with server.listen(host, port) as listener, suppress(KeyboardInterrupt):
            server.serve(session, host, listener)


@engine.command(name="next")
@click.argument("folder", metavar="DIR", type=_ENGINE)
@_device
def next_(folder: Path, device: str | None) -> None:
    """End the current round: train the model on what was accepted, and prepare the next round with it.

    What was interrupted or killed goes on with the same command.
    """
    from grounded.engine.rounds import Engine

    with _work(folder) as interrupt:
        one = Engine.read(folder)
        if one.phase == "done":
            raise GroundedError(f"all {len(one.plan.rounds)} rounds are done; grounded engine status {folder}")
        _tell_next(_advance(one, device, interrupt, to_next=one.phase in ("annotate", "train")))


@engine.command()
@click.argument("folder", metavar="DIR", type=_ENGINE)
@click.option("--truth", metavar="FILE", type=click.Path(exists=True), help="COCO file of true masks to compare with.")
def status(folder: Path, truth: str | None) -> None:
    """Print how far a data engine has come and what each round has brought; write report.json, .md and .png."""
    from grounded.engine.rounds import Engine

    with errors_as_messages():
        one = Engine.read(folder)
        _report(one, _read_truths(truth) if truth else None)
        _tell_next(one)


@engine.command()
@click.option("--data", required=True, metavar="FILE", type=click.Path(exists=True), help="COCO file of true masks.")
@click.option("--images", metavar="DIR", type=_ENGINE, help="Folder of the images. [default: that of --data]")
@click.option(
    "--good-iou", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="IoU at which it keeps a mask."
)
@click.option(
    "--most-clicks", type=click.IntRange(1), default=9, show_default=True, help="Clicks on one mask, at most."
)
@click.option("--to-find", type=click.FloatRange(0), default=3.0, show_default=True, help="Seconds to find an object.")
@click.option("--per-click", type=click.FloatRange(0), default=1.5, show_default=True, help="Seconds for a click.")
@click.option(
    "--per-decision", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds to judge one mask."
)
@click.option("--sample", type=click.IntRange(0), default=20, show_default=True, help="Automatic images it corrects.")
@_plan_options
def simulate(
    data: str,
    images: Path | None,
    good_iou: float,
    most_clicks: int,
    to_find: float,
    per_click: float,
    per_decision: float,
    sample: int,
    **options: Any,
) -> None:
    """Run all rounds with a simulated annotator, on images whose true masks are known.

    It clicks into the middle of the largest error until the mask is good. Its seconds are assumptions, those of the
    model are measured and added. What was interrupted or killed goes on with the same command.
    """
    from grounded.engine import rounds
    from grounded.engine.simulate import Annotator, annotate_round
    from grounded.labelling.sources import open_source

    with errors_as_messages():
        annotator = Annotator(
            good_iou=good_iou,
            most_clicks=most_clicks,
            to_find=to_find,
            per_click=per_click,
            per_decision=per_decision,
        )
        truths = _read_truths(data)
        source = open_source(data, images)
        unknown = [item.file for item in source.items() if item.file not in truths]
        if unknown:
            raise ConfigError(f"{data} must hold the true masks of all images, got none of {unknown[0]}")
        plan = _read_plan(source.spec, options)
    with _work(options["out"]) as interrupt:
        one = rounds.start(options["out"], plan)
        while one.phase != "done":
            one = _advance(one, options["device"], interrupt, to_next=False)
            if one.phase == "annotate":
                annotate_round(one, truths, annotator, sample, options["device"], interrupt)
            one = _advance(one, options["device"], interrupt, to_next=one.phase != "prepare")
        _report(one, truths)


# ---- What the commands share ----

_STATES = {"prepare": "prepared", "annotate": "annotated", "train": "trained on", "done": "done"}


@contextmanager
def _work(folder: Path) -> "Iterator[Interrupt]":
    """Hold the folder of a data engine; errors become messages, and the first Ctrl-C a wish to stop."""
    from grounded.labelling.interrupts import catch_interrupts
    from grounded.utils.files import locked

    def tell(_: str) -> None:
        click.echo("\nStopping: the image or step in work is finished first. Once more to stop at once.", err=True)

    with errors_as_messages(), locked(folder, "works in"), catch_interrupts(tell) as interrupt:
        yield interrupt


def _advance(one: "Engine", device: str | None, interrupt: "Interrupt", to_next: bool) -> "Engine":
    """Finish the current round where `to_next`, and prepare what is to be prepared; exits where it is interrupted."""
    from grounded.engine import loop
    from grounded.labelling.progress import open_progress

    if to_next and not interrupt():
        one = loop.finish(one, device, lambda line: click.echo(line, err=True), interrupt)
    if one.phase == "prepare" and not interrupt():
        one = loop.prepare(one, device, open_progress(), interrupt)
    if interrupt():
        click.echo("stopped: the same command goes on", err=True)
        sys.exit(interrupt.exit_status)
    return one


def _read_truths(path: str) -> "Truths":
    from grounded.engine.simulate import read_truths
    from grounded.labelling.formats.annotations import Notes

    notes = Notes()
    truths = read_truths(path, notes)
    for line in notes.lines():
        click.echo(f"Warning: {Path(path).name}: {line}", err=True)
    return truths


def _report(one: "Engine", truths: "Truths | None") -> None:
    """Print the table, and write it with JSON and plot."""
    from grounded.engine.report import REPORT, measure_rounds, to_table, write_report

    figures = measure_rounds(one, truths)
    if figures:
        write_report(one, figures)
        click.echo(to_table(figures))
        click.echo(f"-> {one.folder / REPORT}.json, .md, .png", err=True)


def _tell_next(one: "Engine") -> None:
    """Say where the engine stands, and which command goes on."""
    name = f"round {one.number} of {len(one.plan.rounds)}, {one.round.stage}"
    advice = {
        "prepare": f"to be prepared: grounded engine next {one.folder}",
        "annotate": f"ready: grounded engine annotate {one.folder}, and then grounded engine next {one.folder}",
        "train": f"to be trained on: grounded engine next {one.folder}",
        "done": "done, as all rounds are",
    }
    click.echo(f"{name}, is {advice[one.phase]}", err=True)
