"""A step of segany's training, on a pool of a few scenes."""

from pathlib import Path

import numpy as np
import pytest
import torch

import segany
from recipes.tiny import segany_batches, train_clip, train_segany
from recipes.tiny.pool import open_pool, write_shard
from recipes.tiny.scenes import Recipe
from recipes.tiny.segany_batches import KINDS, make_batch
from recipes.tiny.segany_size import SHIPPED, config_for
from recipes.tiny.train_segany import Lesson, Trainee, compute_loss, load_run, main, tight_boxes
from segany import SegAny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.tiny.pool.SHARD", 6)
        for index in range(2):
            write_shard(folder, "train", index, Recipe())
    return folder


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (segany_batches, train_segany):  # fewer than a step has
        monkeypatch.setattr(module, "KINDS", dict.fromkeys(KINDS, 2))
    monkeypatch.setattr(train_segany, "CLICKED", dict.fromkeys(KINDS, 1))


@pytest.mark.parametrize(("frozen", "readings"), [(True, True), (False, False)])
@pytest.mark.slow
def test_every_kind_of_prompt_teaches(folder: Path, few_prompts: None, frozen: bool, readings: bool) -> None:
    torch.manual_seed(0)
    scenes = list(open_pool(folder))
    trainee = Trainee(SegAny(config_for(scenes[0].side)))
    batch = make_batch(scenes, step=1, encoder_steps=0) | {"rounds": 2}
    parts = compute_loss(trainee, train_clip.load_shipped().eval(), batch, Lesson(0.5, frozen, readings))
    assert {f"{kind}{later}" for kind in KINDS for later in ("", " 1")} <= set(parts)
    assert ("foreground" in parts) is (readings and not frozen)
    assert ("naming, text" in parts) is readings
    torch.stack(list(parts.values())).sum().backward()
    model = trainee.model
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.mask_decoder.parameters())
    assert all((p.grad is None) is frozen for p in model.image_encoder.parameters())


@pytest.mark.long
def test_a_run_goes_on_at_a_larger_size(
    folder: Path, few_prompts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.tiny.pool.SHARD", 3)
    write_shard(tmp_path / "pool", "train", 0, Recipe(), side=320)
    plain = ["--steps", "1", "--encoder-steps", "0"]
    for arguments in (
        ["--pool", str(folder), "--out", str(tmp_path / "one"), "--from-shipped", *plain],
        ["--pool", str(tmp_path / "pool"), "--out", str(tmp_path / "two"), "--from-run", str(tmp_path / "one"), *plain],
        ["--out", str(tmp_path / "two"), "--export", "--mix", "0.5", "--weights", str(tmp_path / "tiny.safetensors")],
    ):
        main(arguments, standalone_mode=False)
    assert [load_run(tmp_path / name).model.config.image_size for name in ("one", "two")] == [256, 320]
    assert segany.load(tmp_path / "tiny.safetensors").config == SHIPPED


def test_boxes_end_behind_the_last_pixel() -> None:
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[0, 3:8, 10:29] = True
    assert tight_boxes(masks).tolist() == [[10, 3, 29, 8]]


def test_parts_of_a_pool_in_memory_hold_what_the_pool_holds(folder: Path) -> None:
    parts = [list(open_pool(folder, in_memory=("framed", "masks"), part=(index, 2))) for index in range(2)]
    whole = list(open_pool(folder))
    assert len(whole) == 12 and [len(part) for part in parts] == [6, 6]
    for one, other in zip(whole, parts[0] + parts[1], strict=True):
        assert np.array_equal(one.framed, other.framed) and one.objects == other.objects
        assert not isinstance(other.shard.framed, np.memmap) and isinstance(other.shard.square, np.memmap)
        for thing in one.objects:
            assert np.array_equal(one.mask(thing), other.mask(thing))
