"""The plan of a data engine and how far it has come: values, and the file that holds them."""

import json
import os
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, Strict

from grounded.config import PipelineConfig, load, override, preset_names
from grounded.errors import ConfigError, ResultError
from grounded.utils.files import LOCK_FILE, check_folder, json_bytes, write_atomically
from grounded.utils.validation import Count, Fraction, checked_dataclass, read_as

Stage = Literal["assisted", "semi", "auto"]
# Of the current round: its images get their records, a person annotates, the model is trained; after the last: done.
Phase = Literal["prepare", "annotate", "train", "done"]

STATE_FILE, ROUNDS, MODELS = "engine.json", "rounds", "models"
MODEL, OUTCOME_FILE = "model", "outcome.json"  # in the folder of a training


@checked_dataclass
class PlannedRound:
    """A stage, and how many images it takes; None takes all that no earlier round had."""

    stage: Stage
    images: Count | None = None


@checked_dataclass
class AutomaticSettings:
    """How the model finds masks by itself; the defaults are those with which SA-1B was made, but for the crops."""

    points_per_side: Count = 32  # of the grid over the whole image; each layer of crops has half of the one before
    crop_layers: Annotated[int, Field(ge=0, le=3)] = 1  # SA-1B: 2, for objects that are small in 1500 pixels
    pred_iou_thresh: Fraction = 0.88
    stability_score_thresh: Fraction = 0.95
    nms_thresh: Fraction = 0.7  # box IoU
    min_region: Annotated[int, Field(ge=0)] = 100  # pixels; smaller holes and islands are removed
    most_of_image: Fraction = 0.95  # masks that cover more are dropped
    # Of masks that the semi-automatic stage shows. The paper shows what a detector finds that was trained on the masks
    # of the first stage; here the segmenter's own confidence decides.
    confident_iou: Fraction = 0.92
    confident_stability: Fraction = 0.95
    # Share of a mask that may lie in a more confident one that is shown: parts of an object are left to the person.
    confident_overlap: Fraction = 0.5


@checked_dataclass
class RoundTraining:
    """How the model is trained after each round."""

    steps: Count = 300
    rate: Annotated[float, Field(gt=0)] = 1e-4
    batch: Count = 4  # images a step, of each 4 masks
    hold_out: Annotated[float, Field(gt=0, le=0.9)] = 0.2  # share of the annotated images to measure on
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


@checked_dataclass
class Plan:
    """Everything that a data engine is started with."""

    source: str  # of the images, absolute; `open_source` opens it
    base: str  # a preset, or a checkpoint of a Segment Anything
    rounds: Annotated[tuple[PlannedRound, ...], Strict(False)]
    automatic: AutomaticSettings = field(default_factory=AutomaticSettings)
    training: RoundTraining = field(default_factory=RoundTraining)
    seconds_per_mask: Annotated[float, Field(gt=0)] | None = None  # after which the page suggests the next image
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if not self.rounds:
            raise ConfigError("rounds must hold at least one, got none")
        for number, one in enumerate(self.rounds[:-1], start=1):
            if one.images is None:
                raise ConfigError(
                    f"rounds: only the last may take all images that are left, got round {number} of {self.rounds}"
                )


def parse_rounds(text: str) -> tuple[PlannedRound, ...]:
    """Read "assisted:20,semi:20,auto". Raises ConfigError."""
    rounds = []
    for part in text.split(","):
        stage, _, count = (piece.strip() for piece in part.partition(":"))
        if stage not in get_args(Stage):
            raise ConfigError(f"a round must be one of {', '.join(get_args(Stage))}, got {part.strip()!r} in {text!r}")
        if count and not (count.isascii() and count.isdigit() and int(count)):
            raise ConfigError(f"{stage} must have a number of images, as in {stage}:20, got {part.strip()!r}")
        rounds.append(PlannedRound(stage, int(count) if count else None))  # type: ignore[arg-type]
    return tuple(rounds)


@checked_dataclass
class Engine:
    """A data engine as its folder holds it."""

    folder: Annotated[Path, Strict(False)]
    plan: Plan
    number: Count = 1  # of the current round
    phase: Phase = "prepare"

    @property
    def round(self) -> PlannedRound:
        """The current round."""
        return self.plan.rounds[self.number - 1]

    def round_folder(self, number: int | None = None) -> Path:
        """The labelling run of a round, by default of the current one."""
        number = number or self.number
        return self.folder / ROUNDS / f"{number:02d}-{self.plan.rounds[number - 1].stage}"

    def training_folder(self, number: int | None = None) -> Path:
        """The training after a round."""
        return self.folder / MODELS / f"{number or self.number:02d}"

    def config(self, number: int | None = None, device: str | None = None) -> PipelineConfig:
        """The configuration whose segmenter a round works with: that of the latest training before it.

        Raises:
            ConfigError: the base is no preset and no checkpoint can be named so.
        """
        config = base_config(self.plan.base)
        for earlier in range((number or self.number) - 1, 0, -1):
            folder = self.training_folder(earlier)
            if (folder / OUTCOME_FILE).is_file():
                config = override(config, segmenter={"checkpoint": str((folder / MODEL).resolve())})
                break
        return config if device is None else override(config, device=device)

    def in_phase(self, phase: Phase, number: int | None = None) -> "Engine":
        """Return the engine a step further on, which is on the disk then. Raises OutputError."""
        changed = replace(self, phase=phase, number=number or self.number)
        changed.write()
        return changed

    def write(self) -> None:
        """Write the state, atomically. Raises OutputError."""
        state = {"plan": asdict(self.plan), "number": self.number, "phase": self.phase}
        write_atomically(self.folder / STATE_FILE, json_bytes(state))

    @classmethod
    def read(cls, folder: Path) -> "Engine":
        """Read the state of a folder.

        Raises:
            ResultError: there is none, or it cannot be read.
            ConfigError: a value is missing or out of range.
        """
        path = folder / STATE_FILE
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ResultError(f"{folder} holds no data engine: there is no {STATE_FILE}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ResultError(f"{path} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise ResultError(f"{path} must hold an object, got {type(data).__name__}")
        engine = read_as(cls, {**data, "folder": folder}, str(path))
        if engine.number > len(engine.plan.rounds):
            raise ResultError(f"{path}: the plan has {len(engine.plan.rounds)} rounds, got the number {engine.number}")
        return engine


def base_preset(base: str) -> str:
    """The preset whose other models go with a base: itself, or "base" where it is the checkpoint of a segmenter."""
    return base if base in preset_names() or base.endswith((".yaml", ".yml")) else "base"


def base_config(base: str) -> PipelineConfig:
    """The configuration of a base: a preset, by name or as a YAML file, or the checkpoint of a segmenter.

    Raises:
        ConfigError: it cannot be read, or its segmenter is no Segment Anything.
    """
    if (preset := base_preset(base)) == base:
        config = load(preset)
    else:
        checkpoint = os.path.abspath(base) if os.path.exists(base) else base
        config = override(load(preset), segmenter={"checkpoint": checkpoint})
    if config.segmenter.kind != "segany":
        raise ConfigError(f"{base} has a segmenter of kind {config.segmenter.kind!r}: rounds train kind 'segany'")
    return config


def start(folder: Path, plan: Plan) -> Engine:
    """Begin a data engine in a folder; where it holds one with the same plan, that is gone on with.

    Raises:
        ConfigError: it holds one with another plan, or something else.
        OutputError: it cannot be written.
    """
    check_folder(folder)
    if (folder / STATE_FILE).exists():
        engine = Engine.read(folder)
        changed = [name for name, value in asdict(plan).items() if asdict(engine.plan)[name] != value]
        if changed:
            raise ConfigError(f"{folder} holds a data engine with other {', '.join(changed)}: take another folder")
        return engine
    present = sorted(one.name for one in folder.iterdir()) if folder.exists() else []
    if others := [name for name in present if name != LOCK_FILE]:
        raise ConfigError(f"{folder} must be new, empty, or of a data engine, got {', '.join(others[:3])} in it")
    engine = Engine(folder, plan)
    engine.write()
    return engine
