"""What every `grounded train` does around its training: the folder, the data and its check, messages and signals."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.errors import errors_as_messages

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.labelling.formats.annotations import Notes
    from grounded.training.check import Needed
    from grounded.training.data import TrainingData
    from grounded.training.loop import LoopSettings, Outcome


class Session:
    """A training from the command line: its folder, its data, and what it tells the user."""

    def __init__(self, options: dict[str, Any], needed: "Needed", stack: ExitStack) -> None:
        from grounded.labelling.formats.annotations import Notes
        from grounded.training.folder import CHECKED_FILE, check_training_folder
        from grounded.training.processes import Processes
        from grounded.utils.files import locked

        self.options, self.notes, self._shown = options, Notes(), 0
        self.processes: Processes = Processes.open(options["device"])
        name = options["base"].split(":")[-1]
        self.preset: str = options["preset"] or (name if name in ("photo", "tiny") else "base")
        self._checked = None
        if not options["check"]:
            if options["out"] is None:
                raise click.UsageError("--out is missing: where is the model to be written?")
            self.out: Path = options["out"]
            if self.processes.is_first:
                check_training_folder(self.out)
                stack.enter_context(locked(self.out, "trains in"))
            self._checked = self.out / CHECKED_FILE
        with self._first_alone():
            self.learned, self.held_out = self._read(needed)

    @contextmanager
    def _first_alone(self) -> Iterator[None]:
        """Within it the first process runs before the others, which find what it has written."""
        if not self.processes.is_first:
            self.processes.wait()
        yield
        if self.processes.is_first:
            self.processes.wait()

    def _read(self, needed: "Needed") -> "tuple[TrainingData, TrainingData]":
        from grounded.labelling.formats.annotations import Notes
        from grounded.training.check import read_training_data
        from grounded.training.data import describe, hold_out

        def read(source: Path, images: str | None, notes: "Notes", **classes: Iterable[str]) -> "TrainingData":
            return read_training_data(
                source,
                notes,
                needed=needed,
                images=images,
                **{name: tuple(values) for name, values in classes.items()},
                accepted_only=self.options["accepted_only"],
                checked=self._checked and self._checked.with_suffix(f".{source.stem}.json"),
                progress=lambda listed: tqdm(listed, desc=f"checking {source.name}", unit="image", disable=None),
            )

        learned = read(self.options["data"], self.options["images"], self.notes, classes=self.options["classes"])
        if self.options["validation"] is None:
            learned, held_out = hold_out(learned, self.options["hold_out"])
        else:
            notes = Notes()
            place = self.options["validation_images"]
            held_out = read(self.options["validation"], place, notes, measured=learned.classes)
            for line in notes.lines():
                self._tell(f"Warning: {self.options['validation'].name}: {line}")
            held_out = held_out.only_annotated()
        self.show_notes()
        if needed == "mask":
            learned = learned.only_annotated()
        self._tell(f"to learn from: {describe(learned)}")
        self._tell(f"to measure on: {describe(held_out)}")
        return learned, held_out

    def _tell(self, line: str) -> None:
        if self.processes.is_first:
            click.echo(line, err=True)

    def show_notes(self) -> None:
        """Print what was noted since the last time."""
        lines = self.notes.lines()
        for line in lines[self._shown :]:
            self._tell(f"Warning: {line}")
        self._shown = len(lines)

    def loop_settings(self, **changes: float) -> "LoopSettings":
        """The settings of the loop, from the options that every training has."""
        from grounded.training.loop import LoopSettings

        values: dict[str, Any] = {
            "steps": self.options["steps"],
            "learning_rate": self.options["rate"],
            "precision": self.options["precision"],
            "validate_every": self.options["validate_every"],
            "save_every": min(50, self.options["validate_every"]),
            "seed": self.options["seed"],
        }
        return LoopSettings(**(values | changes))

    def begin(self, settings: dict[str, Any]) -> None:
        """Enter the settings into the folder, or compare them with those of the training there."""
        from grounded.training.folder import open_training
        from grounded.training.log import has_tensorboard

        if self.processes.is_first:
            data = {"learned": self.learned.fingerprint, "held out": self.held_out.fingerprint}
            open_training(self.out, {**settings, "data": data, "preset": self.preset}, self.options["restart"])
        self.processes.wait()  # for an earlier state to be gone
        if not has_tensorboard():
            self._tell("TensorBoard is not installed (extra train): the log is log.jsonl alone")

    def fill(self, action: str, store: Any, keys: Any) -> None:
        """Compute what a store lacks, shared among the processes."""
        own = store.missing(keys[self.processes.rank :: self.processes.size])
        with tqdm(total=len(own), desc=action, unit="image", disable=None) as bar:
            for _ in store.fill(own):
                bar.update()
        self.processes.wait()

    def finish(self, run: Callable[..., "Outcome"], built: Any, measure: str) -> None:
        """Train, and say what came of it; exits with 130 or 143 where a signal ended it."""
        from grounded.labelling.interrupts import catch_interrupts

        line = "Stopping: this step is finished and saved first. Once more to stop at once."
        with catch_interrupts(lambda _: self._tell(line)) as interrupt:
            outcome = run(built, self.out, self.processes, interrupt, self.preset)
        if not self.processes.is_first:
            return
        better = f"{measure} on held-out images {outcome.first:.3f} -> {outcome.best:.3f}, at step {outcome.best_step}"
        if outcome.best_step == 0:
            better = f"{measure} on held-out images was never better than {outcome.first:.3f}, before the training"
        self._tell(f"{better}\n-> {self.out / 'model'}, {self.out / 'preset.yaml'}")
        if outcome.interrupted:
            self._tell(f"stopped after {outcome.step} of {outcome.steps} steps: the same command goes on")
            sys.exit(interrupt.exit_status or 1)


@contextmanager
def open_session(options: dict[str, Any], needed: "Needed") -> Iterator[Session]:
    """Open a session; errors become messages. With --check the command ends when the data has been read."""
    with errors_as_messages(), ExitStack() as stack:
        session = Session(options, needed, stack)
        if options["check"]:
            raise click.exceptions.Exit(0)
        yield session
