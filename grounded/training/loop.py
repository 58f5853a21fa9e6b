"""The loop that all trainings share: seeded, resumable after a kill, logged, validated, in mixed precision.

A batch is a pure function of its step, and each step seeds PyTorch anew, so a resumed training sees the batches that it
would have seen. The learning rate rises, stays, and falls linearly to zero over the last part (Hagele et al., 2024).
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from grounded.errors import GroundedError, ResultError, one_line
from grounded.training.log import TrainingLog
from grounded.training.processes import Processes
from grounded.utils.files import open_atomically, output_errors
from segany.precision import computes_in_bfloat16

STATE_FILE = "state.pt"
Precision = Literal["auto", "float32", "bfloat16", "float16"]
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast to train."""

    steps: int
    learning_rate: float
    warmup: int = 20  # steps in which the learning rate rises; fewer of a short training
    decay_share: float = 0.4  # of all steps, at the end
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: Precision = "auto"  # bfloat16 where the device has it
    validate_every: int = 100
    save_every: int = 50
    log_every: int = 10
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step as a fraction of the full one."""
        warmup = max(1, min(self.warmup, self.steps // 10))
        decay = max(1, int(self.steps * self.decay_share))
        return min((step + 1) / warmup, 1.0, (self.steps - step) / decay)


@dataclass(frozen=True)
class Task(Generic[B]):
    """What is trained, and on what. All functions run on this process's device.

    trained   the parameters that learn, by name; nothing else of the model changes
    rate_of   multiple of the learning rate for a parameter of a name
    batch     of a step; called ahead of it in another thread, with no randomness but its own
    losses    parts of the loss of a batch by name; of each mapping that is yielded the sum is propagated back
    validate  figures on held-out images, of which the first decides which step is best: higher is better
    export    writes the model as it is now into the folder, for use
    """

    trained: Mapping[str, nn.Parameter]
    batch: Callable[[int], B]
    losses: Callable[[B], Iterator[Mapping[str, Tensor]]]
    validate: Callable[[], Mapping[str, float]]
    export: Callable[[], None]
    rate_of: Callable[[str], float] = lambda name: 1.0


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    step: int
    steps: int
    best_step: int
    best: float
    first: float  # before the first step
    interrupted: bool = False


@dataclass
class _Progress:
    """What changes from step to step, besides weights and optimizer."""

    step: int = 0
    best: float = -1.0
    best_step: int = -1
    first: float = -1.0


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast for a precision; for "float32", and "auto" on a device without bfloat16, one that does nothing."""
    if precision == "auto":
        precision = "bfloat16" if computes_in_bfloat16(device) else "float32"
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)


def train(
    task: Task[Any],
    settings: LoopSettings,
    folder: Path,
    processes: Processes,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train to `settings.steps`, going on from the state in `folder` where there is one.

    Args:
        task: what is trained.
        settings: of the loop.
        folder: for state and log.
        processes: this one and those that train with it.
        interrupted: asked after each step; then the state is saved and the training ends.

    Raises:
        GroundedError: the loss is not a number.
        ResultError: the state is damaged, or that of another model.
        OutputError: state or log cannot be written.
    """
    parameters = list(task.trained.values())
    optimizer = build_optimizer(task, settings)
    bases = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.precision == "float16")
    progress = _load_state(folder / STATE_FILE, task, optimizer, scaler)
    with ExitStack() as stack:
        log = stack.enter_context(TrainingLog(folder, progress.step)) if processes.is_first else None
        bar = stack.enter_context(_bar(settings.steps, progress.step, processes))
        if progress.best_step < 0:
            _validate(task, progress, log, processes)
        stop, clock, logged = False, time.monotonic(), progress.step
        for step, batch in _ahead(task.batch, progress.step, settings.steps, stack):
            torch.manual_seed(settings.seed * 1_000_003 + step * processes.size + processes.rank)
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * settings.rate_at(step)
            optimizer.zero_grad(set_to_none=True)
            parts = _backward(task, batch, settings, scaler, processes.device)
            processes.average_gradients(parameters)
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            progress.step = done = step + 1
            bar.update()
            bar.set_postfix(loss=f"{parts['loss']:.3f}", best=f"{progress.best:.3f}", refresh=False)
            stop = processes.any(interrupted())
            is_last = done == settings.steps
            if log is not None and (done % settings.log_every == 0 or is_last):
                seconds = (time.monotonic() - clock) / (done - logged)  # of a step
                log.write(done, "train", {**parts, "gradient norm": float(norm), "seconds": seconds})
                clock, logged = time.monotonic(), done
            if done % settings.validate_every == 0 or is_last:
                before = time.monotonic()
                _validate(task, progress, log, processes)
                clock += time.monotonic() - before
            if processes.is_first and (done % settings.save_every == 0 or is_last or stop):
                _save_state(folder / STATE_FILE, task, optimizer, scaler, progress)
            if stop:
                break
    processes.wait()
    return Outcome(progress.step, settings.steps, progress.best_step, progress.best, progress.first, stop)


def build_optimizer(task: Task[Any], settings: LoopSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019). Matrices and kernels are decayed, biases, gains and single vectors not."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in task.trained.items():
        decays = parameter.ndim >= 2 and min(parameter.shape) > 1
        groups.setdefault((task.rate_of(name), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": settings.learning_rate * rate,
                "weight_decay": settings.weight_decay * decays,
            }
            for (rate, decays), parameters in groups.items()
        ]
    )


def _backward(
    task: Task[Any], batch: Any, settings: LoopSettings, scaler: torch.amp.GradScaler, device: torch.device
) -> dict[str, float]:
    """Propagate the losses of a batch back, and return their parts and their sum."""
    figures: dict[str, float] = {}
    with autocast(device, settings.precision):
        for parts in task.losses(batch):
            total = torch.stack([part.float() for part in parts.values()]).sum()
            if not torch.isfinite(total):
                raise GroundedError("the loss is no number: go on from the saved state with a lower learning rate")
            scaler.scale(total).backward()
            for name, part in parts.items():
                figures[name] = figures.get(name, 0.0) + float(part.detach())
    return {"loss": sum(figures.values()), **figures}


def _ahead(make: Callable[[int], B], first: int, steps: int, stack: ExitStack) -> Iterator[tuple[int, B]]:
    """Yield the batches of steps; the next one is made in a thread meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batch")
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    following: Future[B] | None = pool.submit(make, first) if first < steps else None
    for step in range(first, steps):
        assert following is not None
        batch = following.result()
        following = pool.submit(make, step + 1) if step + 1 < steps else None
        yield step, batch


def _validate(task: Task[Any], progress: _Progress, log: TrainingLog | None, processes: Processes) -> None:
    """Measure, and export where it is the best so far."""
    if log is not None:
        with torch.no_grad():
            figures = task.validate()
        score = next(iter(figures.values()))
        log.write(progress.step, "validation", figures)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        tqdm.write(f"step {progress.step}: {shown}", file=sys.stderr)
        if progress.best_step < 0:
            progress.first = score
        if progress.best_step < 0 or score > progress.best:
            progress.best, progress.best_step = score, progress.step
            task.export()
    elif progress.best_step < 0:
        progress.best_step = 0  # known to the first process alone
    processes.wait()


def _bar(steps: int, first: int, processes: Processes) -> "tqdm[Any]":
    return tqdm(total=steps, initial=first, desc="training", unit="step", disable=None if processes.is_first else True)


# ---- The state from which a training goes on ----


def _save_state(
    path: Path,
    task: Task[Any],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: _Progress,
) -> None:
    state = {
        "trained": {name: parameter.detach() for name, parameter in task.trained.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": vars(progress),
    }
    with open_atomically(path) as file, output_errors(path):
        torch.save(state, file)


def _load_state(
    path: Path, task: Task[Any], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> _Progress:
    if not path.exists():
        return _Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        trained, names = state["trained"], list(task.trained)
        if list(trained) != names:
            raise ResultError(f"{path}: is the state of a training of other parameters")
        for name, parameter in task.trained.items():
            parameter.data.copy_(trained[name])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        return _Progress(**state["progress"])
    except GroundedError:
        raise
    except Exception as error:  # of damaged files PyTorch raises errors of many kinds
        raise ResultError(f"{path}: cannot be read: {one_line(error, 200)}; --restart begins anew") from error


def require_parameters(trained: Mapping[str, nn.Parameter], others: Sequence[nn.Module]) -> None:
    """Let `trained` learn, and nothing else of `others`."""
    chosen = {id(parameter) for parameter in trained.values()}
    for module in others:
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
