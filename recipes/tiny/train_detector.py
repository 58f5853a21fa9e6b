"""Train the bundled detector on drawn scenes.

`python -m recipes.tiny.train_detector --pool runs/pool --out runs/detector`, then the same with `--export` writes
grounded/weights/detector. The first steps teach the two backbones alone to agree cell by cell, which is cheap; then the
whole detector learns.
"""

from functools import cache
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import (
    generate_masks_with_special_tokens_and_transfer_map,
)

from grounded.training.grounding_dino_losses import Truth, match, match_by_place, noised_references, set_loss
from recipes.tiny.detector_losses import dense_phrase_loss
from recipes.tiny.detector_model import FIXED, MEAN, SIDE, STD, build_model, build_tokenizer, export
from recipes.tiny.pool import PoolScene, open_pool, relit
from recipes.tiny.queries import Query, ask
from recipes.tiny.training import Settings, train

WEIGHTS = Path(__file__).parents[2] / "grounded/weights/detector"
BATCH = 16
CELLS = SIDE // 8  # side of the finest feature map; the next two are half and a quarter
SAMPLES = 3  # per cell and axis, to measure how much of it an object covers
# Muon's whole-matrix updates unsettle the layers that say where to look and how far to move a box.
NOT_FOR_MUON = ("sampling_offsets", "attention_weights", "bbox_embed", "reference_points_head", "relative_position")


@cache
def _tokenizer():
    return build_tokenizer()


@cache
def phrase_ids(phrase: str) -> tuple[int, ...]:
    """The token ids of one phrase, without special tokens."""
    return tuple(_tokenizer()(phrase, add_special_tokens=False)["input_ids"])


def encode_query(query: Query, limit: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of "[CLS] phrase . phrase . [SEP]" and each phrase's span; phrases beyond the limit are left out."""
    ids, spans = [FIXED["[CLS]"]], []
    for phrase in query.phrases:
        tokens = phrase_ids(phrase)
        if len(ids) + len(tokens) + 2 > limit:
            break
        spans.append((len(ids), len(ids) + len(tokens)))
        ids += [*tokens, FIXED["."]]
    return [*ids, FIXED["[SEP]"]], spans


def coverage(scene: PoolScene, index: int) -> np.ndarray:
    """The share of each cell of the finest feature map that an object covers, (CELLS, CELLS) float32."""
    steps = (np.arange(CELLS * SAMPLES) + 0.5) / (CELLS * SAMPLES)
    rows, columns = ((steps * extent).astype(int) for extent in scene.framed_size)
    sampled = scene.mask(scene.objects[index])[np.ix_(rows, columns)]
    return sampled.reshape(CELLS, SAMPLES, CELLS, SAMPLES).mean((1, 3), dtype=np.float32)


def detector_image(scene: PoolScene, flip: bool, rng: np.random.Generator) -> np.ndarray:
    """The scene as the detector sees it, with other contrast and brightness, (SIDE, SIDE, 3) uint8."""
    image = Image.fromarray(scene.square).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = relit(np.asarray(image), rng)
    return pixels[:, ::-1] if flip else pixels


def make_batch(pool: list[PoolScene], step: int, limit: int = 64) -> dict:
    """Images, token ids, and the truth in tokens."""
    rng = np.random.default_rng([21, step])
    images, rows, truths, covers = [], [], [], []
    for _ in range(BATCH):
        scene = pool[rng.integers(len(pool))]
        query = ask(scene.objects, rng)
        ids, spans = encode_query(query, limit)
        flip = rng.random() < 0.5
        images.append(detector_image(scene, flip, rng))
        named = [i for i, answer in enumerate(query.answers) if 0 <= answer < len(spans)]
        corners = np.array([scene.objects[i].box for i in named], np.float32).reshape(-1, 4)
        if flip:
            corners[:, [0, 2]] = 1 - corners[:, [2, 0]]
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        cover = np.stack([coverage(scene, i) for i in named]) if named else np.zeros((0, CELLS, CELLS), np.float32)
        rows.append(ids)
        truths.append((boxes, [spans[query.answers[i]] for i in named]))
        covers.append(cover[:, :, ::-1] if flip else cover)
    length = max(map(len, rows))
    input_ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in rows])
    batch_truths, cell_truth = [], torch.zeros(BATCH, CELLS, CELLS, length)
    for index, ((boxes, named_spans), cover) in enumerate(zip(truths, covers, strict=True)):
        tokens = torch.zeros(len(boxes), length, dtype=torch.bool)
        for row, (start, stop) in enumerate(named_spans):
            tokens[row, start:stop] = True
        batch_truths.append(Truth(torch.from_numpy(boxes), tokens))
        cell_truth[index] = torch.einsum(
            "khw,kt->hwt", torch.from_numpy(np.ascontiguousarray(cover)), tokens.float()
        ).clamp(max=1)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return {"pixels": pixels, "input_ids": input_ids, "truths": batch_truths, "cells": cell_truth}


def normalised(pixels: Tensor) -> Tensor:
    """uint8 (b, 3, h, w) -> float, as the image processor of the exported folder does."""
    return (pixels.float() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


class Trainee(nn.Module):
    """The detector, and the temperature and bias of the two dense losses, which are dropped after training."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = build_model()
        self.dense_scale = nn.Parameter(torch.full((2,), 2.0))
        self.dense_bias = nn.Parameter(torch.full((2,), -4.0))

    def backbone_features(self, pixels: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the encoder: cells (b, n, d) of all levels and tokens (b, t, d)."""
        base = self.detector.model
        masks, positions = generate_masks_with_special_tokens_and_transfer_map(
            input_ids, special_tokens=base.special_tokens
        )
        words = base.text_backbone(input_ids, masks[:, None], torch.zeros_like(input_ids), positions).last_hidden_state
        maps, _ = base.backbone(pixels, torch.ones_like(pixels[:, 0], dtype=torch.long))
        cells = [project(level) for project, (level, _) in zip(base.input_proj_vision, maps, strict=True)]
        return torch.cat([level.flatten(2).transpose(1, 2) for level in cells], 1), base.text_projection(words)

    def decode(
        self, hidden: Tensor, first: Tensor, later: Tensor, text: Tensor, text_mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Token logits and boxes of every decoder layer, from its hidden states and the references it started from."""
        found = []
        for level in range(hidden.shape[1]):
            reference = first if level == 0 else later[:, level - 1]
            logits = self.detector.class_embed[level](hidden[:, level], text, text_mask)[..., : text.shape[1]]
            delta = self.detector.bbox_embed[level](hidden[:, level]).float()
            found.append((logits.float().clamp(min=-50), (delta + torch.logit(reference.float(), eps=1e-5)).sigmoid()))
        return found


def cell_pyramid(cells: Tensor) -> Tensor:
    """Coverage at the three feature levels, flattened like the encoder's tokens: (b, n, t)."""
    fine = cells.permute(0, 3, 1, 2)
    levels = (fine, F.avg_pool2d(fine, 2), F.avg_pool2d(fine, 4))  # CELLS is a multiple of 4
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)


def compute_loss(model: Trainee, batch: dict, step: int, align_steps: int) -> dict[str, Tensor]:
    """The dense loss alone while aligning, then the set losses of every stage beside it."""
    pixels, ids, truths = normalised(batch["pixels"]), batch["input_ids"], batch["truths"]
    text_mask = ids != 0
    dense = cell_pyramid(batch["cells"])
    if step < align_steps:
        with torch.autocast("cpu", torch.bfloat16):
            vision, text = model.backbone_features(pixels, ids)
        return {
            "dense": dense_phrase_loss(
                vision.float(), text.float(), text_mask, dense, model.dense_scale[0], model.dense_bias[0]
            )
        }
    base = model.detector.model
    decoder_call: dict = {}
    hook = base.decoder.register_forward_pre_hook(lambda _, args, kwargs: decoder_call.update(kwargs), with_kwargs=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = base(pixel_values=pixels, input_ids=ids, attention_mask=text_mask.long())
        hook.remove()
        references = noised_references(truths, model.detector.config.num_queries)
        again = base.decoder(**{**decoder_call, "reference_points": references})
        text = out.encoder_last_hidden_state_text
        layers = model.decode(
            out.intermediate_hidden_states,
            out.init_reference_points,
            out.intermediate_reference_points,
            text,
            text_mask,
        )
        noised = model.decode(
            again.intermediate_hidden_states, references, again.intermediate_reference_points, text, text_mask
        )
    vision = out.encoder_last_hidden_state_vision
    parts = {
        "dense": dense_phrase_loss(
            vision.float(), text.float(), text_mask, dense, model.dense_scale[1], model.dense_bias[1]
        )
    }
    first_logits = out.enc_outputs_class.float()[..., : ids.shape[1]].clamp(min=-50)
    best = first_logits.max(-1)[0].topk(model.detector.config.num_queries, 1).indices[..., None]
    first_logits = torch.gather(first_logits, 1, best.expand(-1, -1, first_logits.shape[-1]))
    first_boxes = torch.gather(out.enc_outputs_coord_logits.float(), 1, best.expand(-1, -1, 4)).sigmoid()
    stages = {"first": (first_logits, first_boxes), **{f"layer{i}": stage for i, stage in enumerate(layers)}}
    for name, (logits, boxes) in stages.items():
        pairs = [match(logits[i].detach(), boxes[i].detach(), truth) for i, truth in enumerate(truths)]
        parts[name] = set_loss(logits, boxes, text_mask, truths, pairs)
    pairs = [match_by_place(references[i], truth) for i, truth in enumerate(truths)]
    for index, (logits, boxes) in enumerate(noised):
        parts[f"noised{index}"] = 0.5 * set_loss(logits, boxes, text_mask, truths, pairs)
    return parts


@click.command()
@click.option("--pool", type=click.Path(path_type=Path), default=Path("runs/pool"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/detector"), show_default=True)
@click.option("--steps", default=2400, show_default=True)
@click.option("--align-steps", default=800, show_default=True, help="Steps for the two backbones alone, at the start.")
@click.option("--rate", default=1.0, show_default=True, help="Learning rates as a multiple of the usual ones.")
@click.option("--from-shipped", is_flag=True, help="Start from the shipped weights instead of random ones.")
@click.option(
    "--export", "to_export", is_flag=True, help="Only write the trained weights to grounded/weights/detector."
)
def main(pool: Path, out: Path, steps: int, align_steps: int, rate: float, from_shipped: bool, to_export: bool) -> None:
    """Train the tiny detector."""
    torch.manual_seed(0)
    model = Trainee()
    if from_shipped:
        model.detector.load_state_dict(load_file(WEIGHTS / "model.safetensors"), strict=False)
    if to_export:
        model.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
        export(model.detector, WEIGHTS)
        return
    scenes = open_pool(pool)
    settings = Settings(out, steps, learning_rate=rate * 3e-4, muon_rate=rate * 6e-4, not_for_muon=NOT_FOR_MUON)
    train(
        model, lambda step: make_batch(scenes, step), lambda m, b, step: compute_loss(m, b, step, align_steps), settings
    )


if __name__ == "__main__":
    main()
