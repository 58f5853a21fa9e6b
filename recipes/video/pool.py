"""Clips encoded ahead of training and kept on disk: the image encoder does not learn, so it runs once per frame.

`python -m recipes.video.pool --out runs/video-pool --clips 600` writes one file per clip; files that exist are left as
they are, so an interrupted run goes on. Only the visible part of the model frame is kept.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from safetensors.torch import safe_open, save_file
from torch import Tensor
from tqdm import tqdm

import segany
from recipes.video.clips import FRAMES, Clip, draw_clip
from segany.video.config import MemoryConfig
from segany.video.predictor import visible_cells

STEPS = (1, 2, 3)  # frames of the motion between two frames that are kept
KEPT = 16  # frames of a clip, at most
CLIP_SEED = 11


@dataclass(frozen=True)
class EncodedClip:
    """Frames of one clip as the video memory sees them.

    features  of the visible part of the model frame
    labels    1 + the index of the object that is visible, at the size of the low-resolution logits times `DETAIL`
    """

    features: Tensor  # (t, c, h, w) float16
    labels: Tensor  # (t, 4 h d, 4 w d) uint8


DETAIL = 2  # label pixels per low-resolution logit, along a side


def encode_clip(predictor: segany.Predictor, clip: Clip) -> EncodedClip:
    """Encode all frames of a clip."""
    config = predictor.model.config
    height, width = clip.frames.shape[1:3]
    embeddings = predictor.encode_batch(list(clip.frames), batch_size=4)
    rows, columns = visible_cells(config, MemoryConfig(), embeddings[0].resized_size)
    features = torch.cat([embedding.features for embedding in embeddings])[..., :rows, :columns]
    scale = 4 * DETAIL * config.grid_size / max(height, width)
    size = round(width * scale), round(height * scale)
    labels = np.zeros((len(clip.labels), 4 * DETAIL * rows, 4 * DETAIL * columns), np.uint8)
    for target, frame in zip(labels, clip.labels, strict=True):
        small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST))
        target[: small.shape[0], : small.shape[1]] = small[: target.shape[0], : target.shape[1]]
    return EncodedClip(features.half().contiguous(), torch.from_numpy(labels))


def pick_frames(number: int) -> tuple[int, int]:
    """The first frame, and the step between frames, of clip `number`."""
    rng = np.random.default_rng([CLIP_SEED, number])
    step = int(rng.choice(STEPS))
    return int(rng.integers(0, max(FRAMES - KEPT * step, 0) + 1)), step


def open_pool(folder: Path) -> Sequence[Path]:
    """The files of a pool, by number."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no clips in {folder}: encode some with python -m recipes.video.pool --out {folder}")
    return paths


def read_clip(path: Path) -> EncodedClip:
    """Read one file of a pool."""
    with safe_open(path, "pt") as file:
        return EncodedClip(file.get_tensor("features"), file.get_tensor("labels"))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/video-pool"), show_default=True)
@click.option("--clips", default=600, show_default=True)
@click.option("--segmenter", default="tiny", show_default=True, help="Whose image encoder; as segany.load takes it.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--part", type=(int, int), default=(0, 1), show_default=True, help="Part i of n, for several processes.")
def main(out: Path, clips: int, segmenter: str, device: str, part: tuple[int, int]) -> None:
    """Draw and encode the training clips."""
    out.mkdir(parents=True, exist_ok=True)
    predictor = segany.Predictor(segany.load(segmenter, device=device))
    for number in tqdm(range(part[0], clips, part[1]), desc="clips"):
        path = out / f"{number:05d}.safetensors"
        if path.exists():
            continue
        first, step = pick_frames(number)
        clip = draw_clip("train", number)
        frames = slice(first, first + KEPT * step, step)
        encoded = encode_clip(predictor, Clip(clip.frames[frames], clip.labels[frames], clip.objects))
        partial = path.with_suffix(".part")
        tensors = {"features": encoded.features.cpu(), "labels": encoded.labels}
        save_file(tensors, partial, {"objects": json.dumps(clip.objects)})
        partial.rename(path)


if __name__ == "__main__":
    main()
