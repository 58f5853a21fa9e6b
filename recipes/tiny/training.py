"""The loop that the three trainings share: seeded, resumable, logged, with progress.

The learning rate warms up, stays, and falls linearly to zero over the last part (Hagele et al. 2024), so a longer run
can go on from a checkpoint taken before the fall. Matrices inside the networks may use Muon (Jordan et al. 2024), which
needs fewer steps than AdamW.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train, and where to keep the state."""

    out: Path
    steps: int
    learning_rate: float
    warmup: int = 100
    decay_share: float = 0.35  # of all steps, at the end
    boosted: int = 0  # first steps, on an easier task, that bear a higher rate
    boost: float = 2.0  # by how much
    weight_decay: float = 0.02
    muon_rate: float | None = None  # learning rate of the matrices; None: AdamW for everything
    not_for_muon: tuple[str, ...] = ()  # pieces of names of matrices that stay with AdamW
    clip_norm: float = 1.0
    save_every: int = 100
    workers: int = 1
    seed: int = 0


class Batches(Dataset):
    """Batches by step number: `make(step)` is a pure function, so a resumed run sees the batches it would have seen."""

    def __init__(self, make: Callable[[int], Any], first: int, steps: int) -> None:
        self.make, self.first, self.steps = make, first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> Any:
        return self.make(self.first + index)


def rate_at(step: int, settings: Settings) -> float:
    """The learning rate of a step as a fraction of the full one."""
    decay = max(int(settings.steps * settings.decay_share), 1)
    scale = min((step + 1) / settings.warmup, 1.0, (settings.steps - step) / decay)
    return scale * settings.boost if step < settings.boosted else scale


def optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """AdamW, with Muon beside it for the matrices when asked for. Embeddings, biases and gains are not decayed."""
    muon, decayed, plain = [], [], []
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim != 2 or id(parameter) in embeddings:
            (decayed if parameter.ndim == 4 else plain).append(parameter)
        elif (
            settings.muon_rate is not None
            and min(parameter.shape) > 8
            and not any(x in name for x in settings.not_for_muon)
        ):
            muon.append(parameter)
        else:
            decayed.append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.98))]
    if muon and settings.muon_rate is not None:
        # "match_rms_adamw" scales the update so that rates and decay mean what they mean for AdamW.
        made.append(
            torch.optim.Muon(
                muon, settings.muon_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return made


def rank_and_size() -> tuple[int, int]:
    """Which of how many processes this is, where `torchrun` started several; else the only one."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def average_gradients(model: nn.Module) -> None:
    """The mean of the gradients of all processes, in each of them. Nothing where there is one.

    All travel in one message, so every process must have used the same parameters.
    """
    size = rank_and_size()[1]
    if size == 1:
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    for gradient, mean in zip(gradients, (together / size).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _progress(steps: int, first: int, rank: int) -> tqdm:
    return tqdm(total=steps, initial=first, mininterval=5, disable=rank > 0)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a killed run never leaves half of one."""
    partial = path.with_suffix(".part")
    torch.save(dict(state), partial)
    os.replace(partial, path)


def train(
    model: nn.Module,
    make_batch: Callable[[int], Any],
    compute_loss: Callable[[nn.Module, Any, int], dict[str, Tensor]],
    settings: Settings,
) -> None:
    """Train to `settings.steps`, going on from `out/state.pt` when it is there. `compute_loss` returns parts that are
    summed.

    Under `torchrun` each of several processes takes batches of its own, which `make_batch` must see to
    (`rank_and_size`), and the first one logs and saves.
    """
    rank, size = rank_and_size()
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    optimizer_list = optimizers(model, settings)
    bases = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizer_list]
    checkpoint, first = settings.out / "state.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizer_list, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    loader = DataLoader(
        Batches(make_batch, first, settings.steps),
        batch_size=None,
        num_workers=settings.workers,
        prefetch_factor=3 if settings.workers else None,
    )
    model.train()
    started = time.monotonic()
    with (settings.out / "log.jsonl").open("a") as log, _progress(settings.steps, first, rank) as bar:
        for step, batch in enumerate(loader, first):
            torch.manual_seed(settings.seed * 1_000_003 + step * size + rank)
            scale = rate_at(step, settings)
            for optimizer, base in zip(optimizer_list, bases, strict=True):
                for group, rate in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = rate * scale
                optimizer.zero_grad(set_to_none=True)
            parts = compute_loss(model, batch, step)
            loss = torch.stack([part for name, part in parts.items() if not name.startswith("_")]).sum()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}; lower the learning rate and resume"
                )
            loss.backward()
            average_gradients(model)
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            for optimizer in optimizer_list:
                optimizer.step()
            bar.update()
            if rank > 0:
                continue
            if step % 10 == 0:
                figures = {name.lstrip("_"): round(part.item(), 4) for name, part in parts.items()}
                row = {"step": step, "loss": round(loss.item(), 4), "norm": round(norm.item(), 2), **figures}
                log.write(json.dumps({**row, "seconds": round(time.monotonic() - started, 1)}) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{loss.item():.3f}")
            if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
                state = {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizer_list],
                    "step": step + 1,
                }
                save_state(checkpoint, state)
