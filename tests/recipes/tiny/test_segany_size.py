"""The shipped size: what does not depend on it stays, positions keep their meaning."""

import pytest
import torch

import segany
from recipes.tiny.segany_size import SHIPPED, config_for, mixed, resized
from segany import SegAny

CONFIG = config_for(256)


@pytest.fixture(scope="module")
def model() -> SegAny:
    torch.manual_seed(0)
    model = SegAny(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_the_size_it_has_changes_nothing(model: SegAny) -> None:
    assert resized(model, CONFIG.image_size).fingerprint() == model.fingerprint()


def test_only_positions_change(model: SegAny) -> None:
    larger = resized(model, SHIPPED.image_size)
    assert larger.config == SHIPPED and not larger.training
    before, after = model.state_dict(), larger.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "pos_embed" in name} | {
        f"image_encoder.blocks.{index}.attn.rel_pos_{axis}" for index in CONFIG.global_blocks for axis in "hw"
    }


def test_positions_stay_where_they_were_in_the_image(model: SegAny) -> None:
    with torch.no_grad():
        ramp = torch.linspace(-1, 1, CONFIG.grid_size)
        model.image_encoder.pos_embed.copy_(ramp[None, None, :, None].expand_as(model.image_encoder.pos_embed))
        relative = model.image_encoder.blocks[CONFIG.global_blocks[0]].attn.rel_pos_h
        relative.copy_(torch.linspace(-1, 1, len(relative))[:, None].expand_as(relative))
    larger = resized(model, SHIPPED.image_size).image_encoder
    position = larger.pos_embed[0, 5, :, 0]
    assert torch.allclose(position, -position.flip(0), atol=1e-5) and (position.diff() > 0).all()
    assert position[-1].item() == pytest.approx(1, abs=0.05)
    offset = larger.blocks[CONFIG.global_blocks[0]].attn.rel_pos_h[:, 3]
    assert torch.allclose(offset, torch.linspace(-1, 1, 2 * SHIPPED.grid_size - 1), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mix_lies_between(model: SegAny, share: float) -> None:
    other = SegAny(CONFIG).eval()
    before, after, mean = (one.state_dict() for one in (model, other, mixed(model, other, share)))
    for name, value in mean.items():
        assert torch.allclose(value, (1 - share) * before[name] + share * after[name], atol=1e-6), name


def test_what_ships_has_the_shipped_size() -> None:
    assert segany.load("tiny").config == SHIPPED
