"""The training after a round: `grounded train segmenter` on everything that was accepted so far."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grounded.engine.accepted import accepted_data
from grounded.engine.rounds import OUTCOME_FILE, Engine, base_preset
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.training import segmenter
from grounded.training.check import ONE_CLASS
from grounded.training.data import TrainingData, describe, hold_out
from grounded.training.folder import EMBEDDINGS, check_training_folder, open_training
from grounded.training.interactive import InteractiveSettings
from grounded.training.loop import LoopSettings
from grounded.training.processes import Processes
from grounded.utils.files import json_bytes, locked, write_atomically


@dataclass(frozen=True)
class RoundOutcome:
    """What the training after a round has brought: IoU on held-out accepted masks, boxes as prompts."""

    images: int
    objects: int
    steps: int
    before: float
    after: float  # of the best step, which is kept

    @classmethod
    def read(cls, folder: Path) -> "RoundOutcome | None":
        """Read that of a training; None where it has not come to its end. Raises ResultError."""
        path = folder / OUTCOME_FILE
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ResultError(f"{path} cannot be read: {error}") from error


def train_round(
    engine: Engine,
    device: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Train the model of the current round on what was accepted, or go on with that; the next round uses the result.

    Where the accepted masks have changed since it was begun, it begins anew.

    Returns:
        False where it was interrupted, and goes on with the next call.

    Raises:
        GroundedError: the data or the model cannot be read, or files cannot be written.
    """
    folder, notes = engine.training_folder(), Notes()
    if (folder / OUTCOME_FILE).is_file():
        return True
    data = accepted_data(engine, notes, lambda listed: tqdm(listed, desc="reading", unit="image", disable=None))
    if data is None:
        raise ResultError(
            f"nothing is accepted so far: annotate round {engine.number} first, with grounded engine annotate"
        )
    learned, held_out = hold_out(data, engine.plan.training.hold_out)
    tell(f"to learn from: {describe(learned)}")
    tell(f"to measure on: {describe(held_out)}")
    settings = _settings(engine)
    check_training_folder(folder)
    with locked(folder, "trains in"):
        _open(folder, settings, learned, held_out, tell)
        processes = Processes.open(device or "auto")
        built = segmenter.SegmenterTraining.build(settings, learned, held_out, folder, processes, notes)
        for line in notes.lines():
            if not line.startswith(ONE_CLASS):  # as is usual here
                tell(f"Warning: {line}")
        if built.embeddings is not None:
            missing = built.embeddings.missing(built.keys())
            for _ in tqdm(built.embeddings.fill(missing), "encoding images", len(missing), unit="image", disable=None):
                if interrupted():
                    return False
        result = segmenter.run(built, folder, processes, interrupted, base_preset(engine.plan.base))
        if result.interrupted:
            return False
        outcome = RoundOutcome(len(data.images), data.objects, result.steps, result.first, result.best)
        write_atomically(folder / OUTCOME_FILE, json_bytes(asdict(outcome)))
        shutil.rmtree(folder / EMBEDDINGS, ignore_errors=True)  # the next model has others
    return True


def _settings(engine: Engine) -> segmenter.SegmenterSettings:
    training = engine.plan.training
    loop = LoopSettings(
        steps=training.steps,
        learning_rate=training.rate,
        precision=training.precision,
        validate_every=min(100, max(1, training.steps // 4)),
        seed=engine.plan.seed,
    )
    return segmenter.SegmenterSettings(
        base=engine.config().segmenter.checkpoint, loop=loop, interactive=InteractiveSettings(images=training.batch)
    )


def _open(
    folder: Path,
    settings: segmenter.SegmenterSettings,
    learned: TrainingData,
    held_out: TrainingData,
    tell: Callable[[str], None],
) -> None:
    data = {"learned": learned.fingerprint, "held out": held_out.fingerprint}
    values: dict[str, Any] = {**settings.to_dict(), "data": data}
    try:
        open_training(folder, values, restart=False)
    except ConfigError as error:
        tell(f"The training begins anew: {error}")
        open_training(folder, values, restart=True)
