"""The shared training loop: its schedule; a resumed run equals one that was never stopped, and two processes one."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from recipes.tiny.training import Settings, rate_at, train


def settings(out: Path, steps: int = 8, **changes) -> Settings:
    return Settings(out, steps, learning_rate=1e-2, warmup=2, save_every=4, workers=0, **changes)


def make_batch(step: int) -> torch.Tensor:
    return torch.randn(16, 12, generator=torch.Generator().manual_seed(step))


def compute_loss(model: nn.Module, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
    noise = torch.randn_like(batch) * 0.01  # drawn from the loop's own seed, so it must not depend on what ran before
    return {"fit": ((model(batch + noise) - batch.flip(1)) ** 2).mean(), "_shown": batch.mean()}


def fresh_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 12))


@pytest.mark.parametrize(("step", "rate"), [(0, 0.5), (1, 1.0), (5, 1.0), (6, 1.0), (7, 0.5)])
def test_the_rate_warms_up_stays_and_falls(tmp_path: Path, step: int, rate: float) -> None:
    assert rate_at(step, settings(tmp_path, decay_share=0.25)) == pytest.approx(rate)


@pytest.mark.parametrize("muon_rate", [None, 1e-2], ids=["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, muon_rate: float | None) -> None:
    whole, parts = fresh_model(), fresh_model()
    train(whole, make_batch, compute_loss, settings(tmp_path / "whole", decay_share=0.0, muon_rate=muon_rate))
    train(parts, make_batch, compute_loss, settings(tmp_path / "parts", 4, decay_share=0.0, muon_rate=muon_rate))
    again = fresh_model()
    train(again, make_batch, compute_loss, settings(tmp_path / "parts", decay_share=0.0, muon_rate=muon_rate))
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_the_log_holds_every_part(tmp_path: Path) -> None:
    train(fresh_model(), make_batch, compute_loss, settings(tmp_path))
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert row["step"] == 0 and {"loss", "fit", "shown", "norm"} <= set(row)
    assert row["loss"] == row["fit"]  # what starts with an underscore is only shown


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="step 0"):
        train(fresh_model(), make_batch, lambda *_: {"fit": torch.tensor(float("nan"))}, settings(tmp_path))


def _train_one_of_two(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    halves = lambda step: make_batch(step)[rank::2]  # noqa: E731
    model = fresh_model()
    train(model, halves, lambda m, b, _: {"fit": ((m(b) - b.flip(1)) ** 2).mean()}, settings(out))
    torch.save(model.state_dict(), out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_learn_what_one_learns_from_all_their_batches(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_train_one_of_two, (port, tmp_path), nprocs=2)
    alone = fresh_model()
    train(alone, make_batch, lambda m, b, _: {"fit": ((m(b) - b.flip(1)) ** 2).mean()}, settings(tmp_path / "alone"))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1  # the first process alone writes
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 8
