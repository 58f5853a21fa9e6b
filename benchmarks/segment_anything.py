"""segany beside the public implementations of Segment Anything: `python -m benchmarks.segment_anything`.

Same random weights, same image, one process, runs taken in turn, medians. Random weights give few distinct masks and
no meaningful scores, so the share of masks that survive is set by a quantile of predicted IoU, and NMS and the
stability threshold are off. Automatic masks are timed without the encoder, which has a row of its own.
"""

import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.agreement import mean_iou
from benchmarks.peers import Found, Peer, Segany, SegmentAnything, Transformers, random_weights
from segany.utils.points import build_point_grid

IMAGE = Path(__file__).parents[1] / "examples/picnic.png"
SIZE = (1800, 1200)
REFERENCE = "segment-anything"
SHARES = (0.1, 1.0)  # of the masks that survive
CLOSE = 1e-3  # scores this close to the threshold may fall on either side of it by rounding


@dataclass
class Row:
    """One thing that was measured: seconds of each peer, and how its answer agrees with the reference's."""

    what: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    gigabytes: dict[str, float] = field(default_factory=dict)  # resident memory above the level before
    agreement: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        return self.median(REFERENCE) / self.median(name)


class PeakMemory:
    """The largest resident memory of this process within a `with` block, above that at its start. Linux only."""

    def __enter__(self) -> "PeakMemory":
        self._stop, self._start = threading.Event(), _resident()
        self.gigabytes = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.gigabytes = max(self.gigabytes, _resident() - self._start)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident() -> float:
    """Gigabytes, on Linux; 0 elsewhere."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 / 1e9 if status.exists() else 0.0


def measure(what: str, peers: list[Peer], job: Callable[[Peer], Any], runs: int) -> tuple[Row, dict[str, Any]]:
    """Run the job `runs` times with each peer in turn; also returns the last answers."""
    row, answers = Row(what, {peer.name: [] for peer in peers}), {}
    for index in range(runs):
        for peer in reversed(peers):  # the reference last: memory that it has given back could serve the others
            with PeakMemory() as memory:
                start = time.perf_counter()
                answers[peer.name] = job(peer)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                row.seconds[peer.name].append(time.perf_counter() - start)
            row.gigabytes[peer.name] = max(memory.gigabytes, row.gigabytes.get(peer.name, 0))
            click.echo(f"{what}, run {index + 1}: {peer.name} {row.seconds[peer.name][-1]:.3f} s", err=True)
    return row, answers


def largest_difference(answers: dict[str, torch.Tensor]) -> dict[str, str]:
    expected = answers[REFERENCE].float()
    scale = f"values of std {expected.std():.2f}"
    differences = {name: float((value.float() - expected).abs().max()) for name, value in answers.items()}
    return {name: f"{value:.1e} at most, {scale}" for name, value in differences.items() if name != REFERENCE}


def compare(
    peers: list[Peer], width_height: tuple[int, int], points_per_side: int, runs: int, long_runs: int
) -> list[Row]:
    """All rows of the table."""
    extent = np.array(width_height)
    sixty_four = build_point_grid(8).numpy() * extent
    decode = {"one prompt": sixty_four[:1], "64 prompts": sixty_four}
    rows = []
    row, answers = measure("encode", peers, lambda peer: peer.encode(), runs)
    rows.append(row)
    row.agreement = largest_difference(answers)
    for what, points in decode.items():
        for peer in peers:
            peer.decode(points[:1])  # what is computed once for each image
        row, answers = measure(what, peers, partial(_decode, points=points), 3 * runs)
        rows.append(row)
        row.agreement = largest_difference(answers)
    grid = build_point_grid(points_per_side).numpy() * extent
    ours = next(peer for peer in peers if isinstance(peer, Segany))
    scores = ours.scores(grid).flatten()
    for share in SHARES:
        threshold = 0.0 if share == 1 else float(scores.quantile(1 - share))
        taking_part = [peer for peer in peers if share < 1 or not isinstance(peer, Transformers)]
        what = f"automatic masks {points_per_side} x {points_per_side}, {share:.0%} surviving"
        job = partial(_automatic, points_per_side=points_per_side, threshold=threshold)
        row, found = measure(what, taking_part, job, long_runs)
        rows.append(row)
        for name, answer in found.items():
            row.agreement[name] = f"{len(answer.rles)} masks"
            if name != REFERENCE and answer.points is not None:
                here, there = mean_iou(answer, found[REFERENCE])
                row.agreement[name] += f", mean IoU {here:.4f} / {there:.4f}"
        if threshold:
            close = int(((scores - threshold).abs() < CLOSE).sum())
            row.agreement[REFERENCE] += f", {close} within {CLOSE:g} of the threshold"
    return rows


def _decode(peer: Peer, points: np.ndarray) -> torch.Tensor:
    return peer.decode(points)


def _automatic(peer: Peer, points_per_side: int, threshold: float) -> Found:
    return peer.automatic(points_per_side, threshold)


def table(rows: list[Row]) -> str:
    """Markdown: one line for each thing and peer."""
    lines = ["| what | who | seconds | times as fast | peak GB | agreement |", "|---|---|---|---|---|---|"]
    for row in rows:
        for name in row.seconds:
            figures = f"{row.median(name):.3f} | {row.ratio(name):.1f} | {row.gigabytes[name]:.2f}"
            lines.append(f"| {row.what} | {name} | {figures} | {row.agreement.get(name, '')} |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Bars: how many times as fast as the reference, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in rows[0].seconds if name != REFERENCE]
    figure, axes = pyplot.subplots(figsize=(9, 0.9 * len(rows) + 1), layout="constrained")
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        taking_part = [(place, row.ratio(name)) for place, row in enumerate(rows) if name in row.seconds]
        places = [place + index * height for place, _ in taking_part]
        bars = axes.barh(places, [ratio for _, ratio in taking_part], height, label=name)
        axes.bar_label(bars, fmt=" %.1f")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel=f"times as fast as {REFERENCE}", title="Segment Anything, ViT-B, same weights")
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))], [row.what for row in rows])
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--model", "preset", default="vit_b", show_default=True, help="vit_b, vit_l or vit_h.")
@click.option("--image", type=click.Path(path_type=Path), default=IMAGE, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--points-per-side", default=32, show_default=True)
@click.option("--runs", default=3, show_default=True, help="Of encoding; decoding runs three times as often.")
@click.option("--long-runs", default=1, show_default=True, help="Of automatic masks.")
@click.option("--compile", "compiled", is_flag=True, help="Also segany with a compiled image encoder.")
@click.option("--without-transformers", is_flag=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw them; needs matplotlib.")
def main(
    preset: str,
    image: Path,
    device: str,
    points_per_side: int,
    runs: int,
    long_runs: int,
    compiled: bool,
    without_transformers: bool,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Time segany, segment-anything and transformers side by side."""
    opened = Image.open(image).convert("RGB").resize(SIZE)
    reference, state = random_weights(preset)
    peers: list[Peer] = [
        SegmentAnything(state, preset, opened, device),
        *([] if without_transformers else [Transformers(reference, opened, device)]),
        Segany(state, preset, opened, device, torch.float32),
        Segany(state, preset, opened, device, torch.bfloat16),
        *([Segany(state, preset, opened, device, torch.bfloat16, compile=True)] if compiled else []),
    ]
    rows = compare(peers, SIZE, points_per_side, runs, long_runs)
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{preset}, {SIZE[0]} x {SIZE[1]} image, {machine}, {platform.machine()}, PyTorch {torch.__version__}\n")
    print(table(rows))
    if json_path is not None:
        json_path.write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n")
    if plot_path is not None:
        plot(rows, plot_path)


if __name__ == "__main__":
    main()
