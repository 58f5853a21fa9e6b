"""The main job on the bundled weights, beside its budgets: `python -m benchmarks.main_job`.

Times the installed `grounded segment` as a user starts it, a warm `Pipeline.segment`, and the peak memory of the whole
process.
"""

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

IMAGE = Path(__file__).parents[1] / "examples/astronaut.jpg"
TEXT = "a person. a dog"
# What is measured -> the most it may take.
BUDGETS = {
    "grounded --help, seconds": 1.0,
    "grounded segment, end to end, seconds": 12.0,
    "warm pipeline.segment, 640 x 480, seconds": 0.5,
    "peak memory of grounded segment, GB": 1.5,
}


def command_seconds(arguments: list[str], runs: int) -> list[float]:
    """Wall-clock seconds of whole processes, imports included."""
    program = shutil.which("grounded")
    if program is None:
        raise click.ClickException("grounded is not installed here: pip install .")
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds


def warm_seconds(runs: int) -> list[float]:
    """Seconds of `segment` on an image of 640 x 480 after two calls to warm up."""
    from PIL import Image

    from grounded import Pipeline

    pipeline = Pipeline.from_config("photo")
    image = Image.open(IMAGE).convert("RGB").resize((640, 480))
    seconds = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        pipeline.segment(image, TEXT)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def peak_gigabytes() -> float:
    """The largest resident size of any child process so far; the kernel counts in KB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


@click.command()
@click.option("--runs", default=5, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(runs: int, json_path: Path | None) -> None:
    """Print each figure beside its budget."""
    with tempfile.TemporaryDirectory() as out:
        job = command_seconds(["segment", str(IMAGE), TEXT, "--config", "photo", "--out", out], runs)
    peak = peak_gigabytes()
    figures = {
        "grounded --help, seconds": statistics.median(command_seconds(["--help"], runs)),
        "grounded segment, end to end, seconds": statistics.median(job),
        "warm pipeline.segment, 640 x 480, seconds": statistics.median(warm_seconds(3 * runs)),
        "peak memory of grounded segment, GB": peak,
    }
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, median of {runs} runs\n")
    print("| measure | value | budget | |\n|---|---|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} | {BUDGETS[name]:.1f} | {'yes' if value <= BUDGETS[name] else 'no'} |")
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
