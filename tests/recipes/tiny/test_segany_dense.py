"""What the dense losses teach is what the scene shows."""

import numpy as np
import pytest
import torch

from recipes.tiny.pool import PoolScene, open_pool, write_shard
from recipes.tiny.scenes import Recipe
from recipes.tiny.segany_dense import STEP, SUB, DenseReadings, _sides, label_maps, stack_maps
from recipes.tiny.segany_size import SHIPPED
from recipes.tiny.vocabulary import COLORS, nouns

GRID = 32
LOW = SUB * GRID


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[PoolScene]:
    folder = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.tiny.pool.SHARD", 8)
        write_shard(folder, "train", 0, Recipe(tint_share=0.8), side=STEP * LOW)
    return [scene for scene in open_pool(folder) if scene.objects]


def test_maps_name_the_objects_under_their_masks(scenes: list[PoolScene]) -> None:
    for scene in scenes:
        numbers, kinds, colors = label_maps(scene, flip=False)
        for number, thing in enumerate(scene.objects, 1):
            inside = scene.mask(thing)[::STEP, ::STEP] & (numbers == number)
            assert inside.any()
            assert set(kinds[inside]) == {nouns().index(thing.noun)}
            assert set(colors[inside]) == {0 if thing.color is None else 1 + COLORS.index(thing.color)}
        nothing = ~np.any([scene.mask(thing) for thing in scene.objects], axis=0)
        assert not numbers[nothing.reshape(LOW, STEP, LOW, STEP).all((1, 3))].any()


def test_a_mirrored_image_has_mirrored_maps(scenes: list[PoolScene]) -> None:
    for scene in scenes:
        width = scene.framed_size[1]
        if width % 2 == 0:  # else a mask pixel straddles the border
            plain, mirrored = (label_maps(scene, flip)[:, :, : width // 2] for flip in (False, True))
            np.testing.assert_array_equal(plain[:, :, ::-1], mirrored)


def test_sides_reach_the_edges_of_the_object() -> None:
    objects = torch.zeros(1, LOW, LOW, dtype=torch.int16)
    objects[0, 8:40, 16:32] = 1  # rows 8..39, columns 16..31
    sides = _sides(objects).reshape(GRID, GRID, 4)
    x, y = 5 * LOW // GRID + 2, 3 * LOW // GRID + 2  # the middle of a cell within
    assert (sides[3, 5] * LOW).tolist() == [x - 16, y - 8, 32 - x, 40 - y]
    assert not sides[20, 20].any()


def test_features_that_hold_the_answer_have_lower_losses(scenes: list[PoolScene]) -> None:
    torch.manual_seed(0)
    maps = stack_maps(scenes[:2], [False, True])
    readings = DenseReadings()
    features = torch.randn(2, SHIPPED.prompt_dim, GRID, GRID, requires_grad=True)
    optimizer = torch.optim.Adam([features, *readings.parameters()], 0.05)
    first = {name: loss.item() for name, loss in readings.losses(features, maps).items()}
    for _ in range(30):
        optimizer.zero_grad()
        torch.stack(list(readings.losses(features, maps).values())).sum().backward()
        optimizer.step()
    last = readings.losses(features, maps)
    assert set(last) == {"foreground", "together", "sides", "noun", "color"}
    assert all(last[name].item() < first[name] for name in last)


def test_a_batch_without_objects_has_a_loss() -> None:
    maps = torch.zeros(1, 3, LOW, LOW, dtype=torch.int16)
    losses = DenseReadings().losses(torch.randn(1, SHIPPED.prompt_dim, GRID, GRID), maps)
    assert list(losses) == ["foreground"] and torch.isfinite(losses["foreground"])
