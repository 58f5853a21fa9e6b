"""Train the video memory for a bundled segmenter, whose image encoder stays as it is.

`python -m recipes.video.train --pool runs/video-pool --out runs/video`, then the same with `--export`, writes
segany/weights/tiny-video.safetensors. A step follows the objects of one clip through eight frames, forwards or
backwards, from the true masks of the first, as SAM 2 was trained (Ravi et al., 2024, section 4); now and then a later
frame is prompted too. Most steps see a window of a quarter of the cells around each object.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import segany
from recipes.tiny.training import Settings, train
from recipes.tiny.windows import cut
from recipes.video.pool import DETAIL, EncodedClip, open_pool, read_clip
from segany.training.losses import iou_loss, mask_loss
from segany.video.checkpoint import save
from segany.video.memory import FrameMasks, VideoMemory

LENGTH = 8  # frames of a training sequence
OBJECTS = 3  # of a clip, at most, that a step follows
WINDOW = 24  # cells along a side
WHOLE_EVERY = 8  # steps, of which one sees all cells
MIN_AREA = 12  # low-resolution pixels that must be visible in the first frame
GIVEN = 8.0  # logit inside a given mask, as `Predictor.mask_prompts` makes them
STEP_SEED = 13


@dataclass(frozen=True)
class Sequence:
    """What one step learns from: n objects through t frames, each within its window of h x w cells."""

    features: Tensor  # (t, n, c, h, w)
    truths: Tensor  # (t, n, 4 h, 4 w), 0 to 1
    corners: Tensor  # (n, 2) of the windows, x and y in cells
    prompted: tuple[int, ...]  # frames whose true masks are given


def make_sequence(paths: list[Path], step: int) -> Sequence:
    """Draw the sequence of a step: always the same for the same number."""
    rng = np.random.default_rng([STEP_SEED, step])
    while True:
        sequence = _cut_sequence(read_clip(paths[rng.integers(len(paths))]), rng, whole=step % WHOLE_EVERY == 0)
        if sequence is not None:
            return sequence


def _cut_sequence(clip: EncodedClip, rng: np.random.Generator, whole: bool) -> Sequence | None:
    frames = _pick_frames(len(clip.features), rng)
    features, labels = clip.features[frames].float(), clip.labels[frames]
    areas = {index: int((labels[0] == index).sum()) / DETAIL**2 for index in labels[0].unique().tolist() if index}
    visible = [index for index, area in areas.items() if area >= MIN_AREA]
    if not visible:
        return None
    chosen = rng.permutation(visible)[:OBJECTS].tolist()
    truths = torch.stack([F.avg_pool2d((labels == index).float(), DETAIL) for index in chosen], dim=1)  # (t, n, ., .)
    rows, columns = features.shape[-2:]
    corners = torch.zeros(len(chosen), 2, dtype=torch.long)
    if whole or min(rows, columns) < WINDOW:
        features = features[:, None].expand(-1, len(chosen), -1, -1, -1)
    else:
        for row, truth in enumerate(truths[0]):
            ys, xs = torch.nonzero(truth > 0.5, as_tuple=True)
            middle = torch.stack([xs, ys]).float().mean(1) / 4 if len(xs) else torch.zeros(2)
            corner = middle.numpy() - WINDOW * rng.uniform(0.3, 0.7, 2)
            corners[row] = torch.from_numpy(corner.round().clip(0, [columns - WINDOW, rows - WINDOW])).long()
        features = torch.stack([cut(frame.expand(len(chosen), -1, -1, -1), corners, WINDOW) for frame in features])
        truths = torch.stack([cut(frame, corners * 4, WINDOW * 4) for frame in truths])
    later = int(rng.integers(2, LENGTH)) if rng.random() < 0.25 else 0
    return Sequence(features, truths, corners, tuple(sorted({0, later})))


def _pick_frames(count: int, rng: np.random.Generator) -> list[int]:
    stride = int(rng.integers(1, 3)) if count >= 2 * LENGTH else 1
    first = int(rng.integers(0, count - (LENGTH - 1) * stride))
    frames = list(range(first, first + LENGTH * stride, stride))
    return frames[::-1] if rng.random() < 0.5 else frames


class Codes:
    """What the image model's prompt encoder adds to features: the position of each cell, and a given mask."""

    def __init__(self, model: segany.SegAny) -> None:
        self.encoder = model.prompt_encoder.requires_grad_(False)
        self.position = self.encoder.dense_position_code()

    def positions(self, sequence: Sequence) -> Tensor:
        """(n, c, h, w)"""
        rows, columns = sequence.features.shape[-2:]
        code = self.position[..., :rows, :columns]
        if (rows, columns) == (WINDOW, WINDOW):
            code = cut(self.position.expand(len(sequence.corners), -1, -1, -1), sequence.corners, WINDOW)
        return code

    def given(self, logits: Tensor) -> Tensor:
        """(n, c, h, w), of masks that are given."""
        return self.encoder.mask_downscaling(logits)

    def not_given(self, size: torch.Size) -> Tensor:
        """(1, c, h, w)"""
        return self.encoder.no_mask_embed.weight[..., None, None].expand(1, -1, *size)


def compute_loss(memory: VideoMemory, sequence: Sequence, codes: Codes) -> dict[str, Tensor]:
    """Follow the objects and compare every frame that was not given with its truth."""
    positions, size = codes.positions(sequence), sequence.features.shape[-2:]
    objects = sequence.truths.shape[1]
    memories = []
    sums: dict[str, Tensor] = {}
    for frame, (features, truth) in enumerate(zip(sequence.features, sequence.truths, strict=True)):
        here = truth.flatten(1).sum(1) >= 1.0
        if frame in sequence.prompted:
            logits = (truth * 2 - 1)[:, None] * GIVEN
            found = memory.decode(features, positions, codes.given(logits), objects)
            sure = torch.where(here, 10.0, -10.0)
            given = FrameMasks(logits, torch.ones(objects), sure, found.pointer)
            memories.append(memory.remember(frame, features, given, prompted=True))
            weight = 0.25  # the mask is known; this teaches the pointer and the decoder alone
        else:
            found = memory.decode(memory.recall(features, memories, frame), positions, codes.not_given(size), objects)
            memories.append(memory.remember(frame, features, found))
            weight = 1.0
        losses = _frame_losses(found, truth, here)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros(())) + weight * value
        if frame + 1 == LENGTH:
            with torch.no_grad():
                sums["_iou at the end"] = _mean_iou(found, truth, here) * LENGTH
    return {name: value / LENGTH for name, value in sums.items()}


def _frame_losses(found: FrameMasks, truth: Tensor, here: Tensor) -> dict[str, Tensor]:
    """Of masks and their predicted IoU where the object is there, and of presence everywhere."""
    present = here.float()
    count = present.sum().clamp(min=1)
    masks = mask_loss(found.logits, truth)[:, 0]
    ious = iou_loss(found.predicted_iou[:, None], found.logits.detach(), truth)[:, 0]
    return {
        "mask": (masks * present).sum() / count,
        "iou": (ious * present).sum() / count,
        "presence": F.binary_cross_entropy_with_logits(found.presence, present),
    }


def _mean_iou(found: FrameMasks, truth: Tensor, here: Tensor) -> Tensor:
    masks, true_masks = found.logits[:, 0] > 0, truth > 0.5
    iou = (masks & true_masks).sum((1, 2)) / (masks | true_masks).sum((1, 2)).clamp(min=1)
    return iou[here].mean() if bool(here.any()) else torch.ones(())


def new_memory(model: segany.SegAny) -> VideoMemory:
    """A memory to train: the decoder starts as the image model's, and attention looks for what looks alike.

    Queries are given the product of the memory encoder's last projection and the projection of keys, so that before any
    training a cell attends to memories of cells with similar features.
    """
    memory = VideoMemory(model.config)
    memory.mask_decoder.load_state_dict(model.mask_decoder.state_dict())
    encoder = memory.memory_encoder
    with torch.no_grad():
        torch.nn.init.dirac_(encoder.feature_projection.weight)
        projection = encoder.projection.weight[:, :, 0, 0]  # (d, c)
        torch.nn.init.orthogonal_(projection)
        for layer in memory.memory_attention.layers:
            attention = layer.cross_attn
            torch.nn.init.orthogonal_(attention.k_proj.weight)
            attention.q_proj.weight.copy_(attention.k_proj.weight @ projection)
            for linear in (layer.self_attn.out_proj, layer.cross_attn.out_proj, layer.linear2):
                torch.nn.init.normal_(linear.weight, std=0.02)
                torch.nn.init.zeros_(linear.bias)
        for table in (memory.time_code, memory.no_object_memory, memory.no_object_pointer, memory.presence_token):
            torch.nn.init.normal_(table.weight, std=0.02)
    return memory


@click.command()
@click.option("--pool", type=click.Path(path_type=Path), default=Path("runs/video-pool"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/video"), show_default=True)
@click.option("--segmenter", default="tiny", show_default=True)
@click.option("--steps", default=6000, show_default=True)
@click.option("--rate", default=1.0, show_default=True, help="Learning rates as a multiple of the usual ones.")
@click.option("--export", "to_export", is_flag=True, help="Only write the trained weights, as segany loads them.")
@click.option("--weights", type=click.Path(path_type=Path), help="The file to export to; else the bundled one.")
def main(pool: Path, out: Path, segmenter: str, steps: int, rate: float, to_export: bool, weights: Path | None) -> None:
    """Train the video memory."""
    model = segany.load(segmenter)
    torch.manual_seed(0)
    memory = new_memory(model)
    if to_export:
        memory.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
        bundled = Path(segany.__file__).parent / "weights" / f"{segmenter}-video.safetensors"
        save(memory, weights or bundled)
        return
    paths, codes = list(open_pool(pool)), Codes(model)
    settings = Settings(
        out,
        steps,
        learning_rate=rate * 3e-4,
        muon_rate=rate * 6e-4,
        not_for_muon=("time_code", "pointer_time"),
        decay_share=0.4,
        workers=0,
    )
    train(
        memory,
        lambda step: make_sequence(paths, step),
        lambda m, sequence, _: compute_loss(m, sequence, codes),  # type: ignore[arg-type]
        settings,
    )


if __name__ == "__main__":
    main()
