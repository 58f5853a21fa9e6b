"""The log of a training: JSON lines, and TensorBoard's files beside them where that package is installed."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from grounded.errors import ResultError
from grounded.utils.files import output_errors, write_atomically

LOG_FILE, TENSORBOARD = "log.jsonl", "tensorboard"


def has_tensorboard() -> bool:
    """Whether TensorBoard can write here."""
    return find_spec("tensorboard") is not None


class TrainingLog:
    """Writes rows of figures by step. What an earlier run wrote after the step from which this one goes on is removed.

    Raises:
        OutputError: the files cannot be written.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self.path = folder / LOG_FILE
        rows = read_log(folder) if self.path.exists() else []
        kept = [row for row in rows if row["step"] <= first_step]
        write_atomically(self.path, b"".join(json.dumps(row).encode() + b"\n" for row in kept))
        self._boards: Any = None
        if has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter

            self._boards = SummaryWriter(str(folder / TENSORBOARD), purge_step=first_step + 1)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._boards is not None:
            self._boards.close()

    def write(self, step: int, group: str, figures: Mapping[str, float]) -> None:
        """Add figures of a group, "train" or "validation", at the end of a step."""
        rounded = {name: float(f"{value:.5g}") for name, value in figures.items()}
        with output_errors(self.path), self.path.open("ab") as file:
            file.write(json.dumps({"step": step, group: rounded}).encode() + b"\n")
        if self._boards is not None:
            for name, value in figures.items():
                self._boards.add_scalar(f"{group}/{name}", value, step)
            self._boards.flush()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a training's log; a last line that was cut off is left out.

    Raises:
        ResultError: another line is no row.
    """
    lines = (folder / LOG_FILE).read_bytes().split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            assert isinstance(row["step"], int)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ResultError(f"{folder / LOG_FILE}: line {number} is no row of a training's log") from error
        rows.append(row)
    return rows
