"""The interactive rounds: they run, they correct, and a small network learns from them."""

from dataclasses import replace

import pytest
import torch

from segany import PRESETS, Prompts, SegAny
from segany.training.rounds import interactive_rounds

CONFIG = replace(
    PRESETS["tiny"],
    image_size=64,
    encoder_dim=48,
    encoder_depth=2,
    encoder_heads=2,
    global_blocks=(1,),
    prompt_dim=32,
    decoder_mlp_dim=64,
)


def task(count: int) -> tuple[torch.Tensor, torch.Tensor, Prompts]:
    """Bright squares on a dark ground, each with a click in its middle."""
    torch.manual_seed(0)
    pixels, truths, points = (
        torch.zeros(count, 3, 64, 64),
        torch.zeros(count, CONFIG.low_res_size, CONFIG.low_res_size),
        [],
    )
    scale = 64 // CONFIG.low_res_size
    for index in range(count):
        x, y = (torch.randint(2, 20, (2,)) * scale).tolist()
        side = 10 * scale
        pixels[index, :, y : y + side, x : x + side] = 2
        truths[index, y // scale : y // scale + 10, x // scale : x // scale + 10] = 1
        points.append([[x + side / 2, y + side / 2]])
    return pixels, truths, Prompts(points=points, point_labels=torch.ones(count, 1, dtype=torch.int64))


@pytest.mark.parametrize("rounds", [1, 2, 5, 11])
def test_each_round_gives_a_loss_and_one_mask_per_prompt(rounds: int) -> None:
    model = SegAny(CONFIG)
    pixels, truths, prompts = task(3)
    losses = list(interactive_rounds(model, model.encode_image(pixels), prompts, truths, rounds))
    assert len(losses) == rounds
    for loss in losses:
        assert torch.isfinite(loss.total) and loss.total.requires_grad
        assert loss.logits.shape == (3, 1, CONFIG.low_res_size, CONFIG.low_res_size) and not loss.logits.requires_grad


@pytest.mark.parametrize("first", ["box", "text"])
def test_other_first_prompts(first: str) -> None:
    model = SegAny(CONFIG)
    pixels, truths, _ = task(2)
    prompts = (
        Prompts(boxes=[[0, 0, 9, 9]] * 2) if first == "box" else Prompts(text=torch.ones(2, 1, CONFIG.text_dim or 0))
    )
    assert len(list(interactive_rounds(model, model.encode_image(pixels), prompts, truths, 3))) == 3


def test_the_same_generator_gives_the_same_rounds() -> None:
    model = SegAny(CONFIG)
    pixels, truths, prompts = task(2)
    features = model.encode_image(pixels)
    runs = [
        [
            a.total.item()
            for a in interactive_rounds(model, features, prompts, truths, 4, torch.Generator().manual_seed(5))
        ]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_a_small_network_learns() -> None:
    torch.manual_seed(1)
    model = SegAny(CONFIG)
    pixels, truths, prompts = task(4)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        total = sum(loss.total for loss in interactive_rounds(model, model.encode_image(pixels), prompts, truths, 1))
        assert isinstance(total, torch.Tensor)
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.7 * history[0]
