"""The loop of all trainings: resumed equals uninterrupted, the best state is exported, and what stops it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from grounded.errors import ConfigError, GroundedError, ResultError
from grounded.training import folder as folders
from grounded.training import log
from grounded.training.loop import LoopSettings, Outcome, Task, build_optimizer, train
from grounded.training.processes import Processes

ALONE = Processes(torch.device("cpu"))
SETTINGS = LoopSettings(steps=8, learning_rate=0.05, validate_every=4, save_every=3, log_every=1)


class Line:
    """A line that is fitted to noisy points, and the steps at which it was exported."""

    def __init__(self, target: float = 2.0) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.target, self.exported = target, list[float]()

    def task(self) -> Task[tuple[Tensor, Tensor]]:
        return Task(
            trained=dict(self.model.named_parameters()),
            batch=self.batch,
            losses=self.losses,
            validate=lambda: {"closeness": 1 / (1 + abs(self.model.weight.item() - self.target))},
            export=lambda: self.exported.append(self.model.weight.item()),
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(16, 1, generator=torch.Generator().manual_seed(step))
        return x, self.target * x + 1

    def losses(self, batch: tuple[Tensor, Tensor]) -> Iterator[dict[str, Tensor]]:
        x, y = batch
        for name in ("first", "second"):
            noisy = self.model(x) + 0.01 * torch.randn_like(x)  # of the step's seed
            yield {name: nn.functional.mse_loss(noisy, y)}

    def train(self, folder: Path, settings: LoopSettings = SETTINGS, stop_after: int = 99) -> Outcome:
        asked = iter(range(1, 100))
        return train(self.task(), settings, folder, ALONE, lambda: next(asked) >= stop_after)


def rows(folder: Path) -> list[dict]:
    """The log without times."""
    found = log.read_log(folder)
    for row in found:
        row.get("train", {}).pop("seconds", None)
    return found


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    whole, parts = Line(), Line()
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    expected = whole.train(tmp_path / "whole")
    first = parts.train(tmp_path / "parts", stop_after=stop_after)
    assert first.interrupted and first.step == stop_after
    parts = Line()  # as another process begins
    outcome = parts.train(tmp_path / "parts")
    assert outcome == expected and not outcome.interrupted
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True))
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_killed_between_saves(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    whole, killed = Line(), Line()
    whole.train(tmp_path / "whole")

    def die(step: int) -> tuple[Tensor, Tensor]:
        if step == 5:  # the last state is that after step 3, and the log is ahead of it
            raise KeyboardInterrupt
        return killed.batch(step)

    task = killed.task()
    with pytest.raises(KeyboardInterrupt):
        train(Task(**{**vars(task), "batch": die}), SETTINGS, tmp_path / "parts", ALONE)
    killed = Line()
    killed.train(tmp_path / "parts")
    assert torch.equal(whole.model.weight, killed.model.weight)
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_the_best_state_is_exported(tmp_path: Path) -> None:
    line = Line()
    outcome = line.train(tmp_path)
    assert outcome.best > outcome.first and outcome.best_step == 8
    assert len(line.exported) == 3  # before the first step, and each time that it got better
    away = Line(target=Line().model.weight.item())  # it begins at the truth, and can only get worse
    (tmp_path / "away").mkdir()
    assert away.train(tmp_path / "away").best_step == 0 and len(away.exported) == 1


def test_validation_and_losses_are_logged(tmp_path: Path) -> None:
    Line().train(tmp_path)
    assert [row["step"] for row in rows(tmp_path) if "validation" in row] == [0, 4, 8]
    row = next(row for row in rows(tmp_path) if "train" in row)
    assert row["train"]["loss"] == pytest.approx(row["train"]["first"] + row["train"]["second"], rel=1e-3)
    assert log.has_tensorboard() == any((tmp_path / log.TENSORBOARD).glob("events*"))


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "has_tensorboard", lambda: False)
    Line().train(tmp_path)
    assert (tmp_path / log.LOG_FILE).exists() and not (tmp_path / log.TENSORBOARD).exists()


def test_rates_rise_stay_and_fall() -> None:
    settings = LoopSettings(steps=100, learning_rate=1.0, warmup=5)
    rates = [settings.rate_at(step) for step in range(100)]
    assert rates[0] == 0.2 and rates[5:60] == [1.0] * 55 and rates[-1] == pytest.approx(1 / 40)
    assert LoopSettings(steps=1, learning_rate=1.0).rate_at(0) == 1


def test_vectors_are_not_decayed() -> None:
    task = Task(**{**vars(Line().task()), "trained": dict(nn.Linear(3, 2).named_parameters()), "rate_of": len})
    groups = build_optimizer(task, SETTINGS).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.05 * 6, 0.01), (0.05 * 4, 0.0)]


@pytest.mark.parametrize("precision", ["bfloat16", "auto", "float16"])
def test_precisions(tmp_path: Path, precision) -> None:
    line = Line()
    assert line.train(tmp_path, LoopSettings(steps=3, learning_rate=0.05, precision=precision)).step == 3
    assert line.model.weight.dtype == torch.float32 and line.model.weight.isfinite().all()


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    line = Line()
    with torch.no_grad():
        line.model.weight.fill_(float("nan"))
    with pytest.raises(GroundedError, match="the loss is no number"):
        line.train(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_state_is_named(tmp_path: Path, damage: bytes | None) -> None:
    if damage is None:
        torch.save({"trained": {"other": torch.zeros(1)}}, tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(damage)
    with pytest.raises(ResultError, match=r"state\.pt"):
        Line().train(tmp_path)


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    (tmp_path / log.LOG_FILE).write_text('{"step": 1}\nnonsense\n{"step"')
    with pytest.raises(ResultError, match="line 2 is no row"):
        log.read_log(tmp_path)


def test_a_folder_goes_on_with_its_own_settings_alone(tmp_path: Path) -> None:
    settings = {"base": "tiny", "loop": {"steps": 5, "validate_every": 10}, "parts": ["decoder"]}
    folders.open_training(tmp_path, settings, restart=False)
    folders.open_training(tmp_path, {**settings, "loop": {"steps": 5, "validate_every": 1}}, restart=False)
    other = {**settings, "loop": {"steps": 6, "validate_every": 10}}
    with pytest.raises(ConfigError, match=r"loop\.steps 5 instead of 6; --restart begins anew"):
        folders.open_training(tmp_path, other, restart=False)
    (tmp_path / "state.pt").write_text("old")
    folders.open_training(tmp_path, other, restart=True)
    assert not (tmp_path / "state.pt").exists()
    assert json.loads((tmp_path / "training.json").read_text())["loop"]["steps"] == 6


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    folders.check_training_folder(tmp_path / "new")
    folders.check_training_folder(tmp_path)
    (tmp_path / ".lock").touch()
    folders.check_training_folder(tmp_path)
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(ConfigError, match=r"must be new, empty, or of a training, got thesis\.doc"):
        folders.check_training_folder(tmp_path)


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(ConfigError, match="the extra train has it"):
        Processes.open("cpu")
