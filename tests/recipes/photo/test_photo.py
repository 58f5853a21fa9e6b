"""The recipe of `photo` on drawn data: what it reads, what it shows the networks, and what the losses say."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from grounded.models.detectors.one_stage_head import OneStageConfig, OneStageHead
from recipes.photo import augment
from recipes.photo.augment import Batch, draw_batch, object_areas
from recipes.photo.data import Photographs, read_photographs
from recipes.photo.dense_losses import dense_losses, object_boxes
from recipes.photo.models import PhotoModel
from recipes.photo.prompt_losses import KINDS, ask_objects, prompt_losses
from recipes.photo.train import PhotoSettings, PhotoTraining, compute_losses, may_be_absent, run
from segany.utils.boxes import generalised_iou

SIDE, WORDS = 64, 384


@pytest.fixture
def data(folder: Path) -> Photographs:
    return read_photographs(folder, "train", SIDE, hints=folder / "taught.json")


def test_photographs_lie_in_the_corner_of_squares(data: Photographs):
    assert data.vocabulary == ("dog", "person", "skirt") and data.source_names == ("ccp", "voc")
    assert data.images.shape == (2, 3, SIDE, SIDE) and data.sizes.tolist() == [[48, 56]] * 2
    assert not data.images[:, :, 48:].any() and not data.images[:, :, :, 56:].any()
    person, dog = 1, 2  # the larger one first, and below
    assert data.labels[0, 30, 30] == dog and data.labels[0, 10, 10] == person and data.labels[0, 2, 2] == 0
    assert data.names[0, :4].tolist() == [-1, 1, 0, -1]
    assert data.hints[1, :3, 4].tolist() == [0, 1, -1] and data.hints[1, 0, :4].tolist() == [30, 10, 50, 40]


def test_large_photographs_are_reduced(folder: Path):
    small = read_photographs(folder, "train", 28, hints=folder / "taught.json")
    assert small.sizes[0].tolist() == [24, 28] and small.labels[0, 15, 15] == 2
    assert small.hints[1, 0, :4].tolist() == [15, 5, 25, 20]


def test_what_may_be_told_to_be_absent(data: Photographs, folder: Path):
    """Garments are everywhere, and one source alone annotates them: elsewhere a skirt is never absent."""
    assert may_be_absent(data).tolist() == [[True] * 3, [True, True, False]]
    untaught = read_photographs(folder, "train", SIDE)
    assert may_be_absent(untaught).tolist() == [[False, False, True], [True, True, False]]


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that show the whole photograph, without pasting."""
    monkeypatch.setattr(augment, "ZOOM", (1.0, 1.0))
    monkeypatch.setattr(augment, "STRETCH", 0.0)
    monkeypatch.setattr(augment, "PASTE_SHARE", 0.0)


def test_boxes_of_the_teacher_move_with_the_pixels(data: Photographs, monkeypatch: pytest.MonkeyPatch):
    whole(monkeypatch)
    for seed in range(4):  # flipped and not
        batch = draw_batch(data, torch.tensor([1, 1]), 112, torch.Generator().manual_seed(seed))
        for labels, hints in zip(batch.labels, batch.hints, strict=True):
            scale = 112 / 56
            ys, xs = torch.nonzero(labels == 1, as_tuple=True)
            x0, y0, x1, y1 = hints[0, :4].tolist()
            assert (x1 - x0, y1 - y0) == pytest.approx((20 * scale, 30 * scale), abs=0.6)
            # The skirt is 22 pixels to the left of the teacher's dog, or to the right where the image is flipped.
            distance = abs((x0 + x1) / 2 - (float(xs.float().mean()) + 0.5))
            assert distance == pytest.approx(24 * scale, abs=0.6) and len(ys) == pytest.approx(1024, abs=70)


def test_objects_are_pasted_with_their_names(data: Photographs, monkeypatch: pytest.MonkeyPatch):
    whole(monkeypatch)
    monkeypatch.setattr(augment, "PASTE_SHARE", 1.0)
    batch = draw_batch(data, torch.tensor([0, 1]), 112, torch.Generator().manual_seed(0))
    assert (batch.labels == 255).flatten(1).any(1).all()
    assert batch.names[0, 255] == 2 and batch.names[1, 255] in (0, 1)
    assert batch.images.abs().max() < 1.1


def batch_of(labels: torch.Tensor, names: list[int]) -> Batch:
    table = torch.full((len(labels), 256), -1)
    table[:, 1 : 1 + len(names)] = torch.tensor(names)
    hints = torch.zeros(len(labels), 2, 6)
    hints[..., 4] = -1
    return Batch(
        torch.zeros(len(labels), 3, SIDE, SIDE), labels, table, torch.zeros(len(labels), dtype=torch.long), hints
    )


def square(x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    labels = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
    labels[0, y0:y1, x0:x1] = 1
    return labels


def test_boxes_and_areas_of_objects():
    labels = square(8, 16, 24, 48)
    torch.testing.assert_close(object_boxes(labels)[0, 1], torch.tensor([8, 16, 24, 48]) / SIDE)
    assert object_areas(labels)[0, :3].tolist() == [0, 512, 0]


@pytest.mark.parametrize("points", [0, 3])
def test_the_head_learns_one_object(points: int):
    """The losses fall, and in the end the cells in the object say its name and its box."""
    torch.manual_seed(0)
    labels = square(8, 16, 40, 48)
    words = F.normalize(torch.randn(3, 16), dim=1)
    batch, absent = batch_of(labels, [1]), torch.ones(1, 3, dtype=torch.bool)
    head = OneStageHead(OneStageConfig(dim=32, width=24, text_dim=16, points=points))
    features = torch.randn(1, 32, 8, 8)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    first = last = None
    for _ in range(80):
        loss = torch.stack(list(dense_losses(head, features, batch, words, absent).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
        first = first or last
    assert first is not None and last is not None and last < 0.4 * first
    cells = head.eval()(features)
    cells = head.refine(features, cells, torch.arange(64)[None])[-1]
    scores = head.logits(cells.embeddings[0], words).sigmoid()
    inside = (labels[0, 4::8, 4::8] > 0).flatten()
    assert (scores[inside].argmax(1) == 1).all() and scores[inside, 1].min() > scores[~inside].max()
    truth = torch.tensor([8, 16, 40, 48]) / SIDE
    assert generalised_iou(cells.boxes[0][inside], truth)[0].min() > 0.6


def test_prompts_of_every_kind():
    labels = square(8, 8, 40, 40)
    batch, words = batch_of(labels, [2]), F.normalize(torch.randn(3, WORDS), dim=1)
    asked = ask_objects(batch, words, 50, 32, torch.Generator().manual_seed(0))
    shares = torch.bincount(asked.kind, minlength=len(KINDS)) / 50
    assert shares.tolist() == pytest.approx(list(KINDS.values()), abs=0.021)
    assert (asked.use_point | asked.use_box | asked.use_text).all()
    assert asked.use_text.equal(asked.kind >= 2) and asked.use_box.equal((asked.kind == 1) | (asked.kind == 4))
    assert asked.truth.sum().item() == pytest.approx(50 * 16 * 16) and asked.text[0].equal(words[2])
    x, y = asked.points.round().long().unbind(1)
    assert asked.whole[torch.arange(50), y, x].all()


def test_a_name_alone_is_asked_of_single_objects():
    labels = square(8, 8, 24, 24)
    labels[0, 32:48, 32:48] = 2
    words = F.normalize(torch.randn(3, WORDS), dim=1)
    twins = ask_objects(batch_of(labels, [1, 1]), words, 100, 32, torch.Generator().manual_seed(0))
    alone = twins.kind == 2
    assert not twins.use_text[alone].any() and (twins.use_box | twins.use_point)[alone].all()
    assert twins.use_text[twins.kind > 2].all()


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_stopped(data: Photographs, tmp_path: Path):
    torch.manual_seed(0)
    settings = PhotoSettings(side=64, batch=2, prompts=6)
    words = F.normalize(torch.randn(3, WORDS), dim=1)
    both = PhotoModel()
    both.set_side(64)
    both.freeze(settings.frozen)
    still = both.encoder.backbone.conv_stem.weight.clone()
    training = PhotoTraining.begin(both, settings)
    generator, weights = torch.Generator().manual_seed(0), torch.ones(2)
    absent = may_be_absent(data)
    parts = compute_losses(both, data, words, absent, weights, settings, generator)
    detector = ("word", "sides", "quality")
    refined = (f"refined {name}" for name in detector)
    assert {*KINDS, *detector, *refined, "fore", "edge", "iou", "click"} == parts.keys()
    assert all(bool(value.isfinite()) for value in parts.values())
    run(training, data, words, settings, tmp_path, seconds=2)
    assert training.step > 0 and both.encoder.backbone.conv_stem.weight.equal(still)
    other = PhotoModel()
    other.freeze(settings.frozen)
    again = PhotoTraining.begin(other, settings)
    again.restore(tmp_path / "state.pt")
    assert again.step == training.step
    for key, value in both.state_dict().items():
        assert again.both.state_dict()[key].equal(value), key
    loaded = PhotoModel()
    loaded.load_weights(tmp_path / "averaged.pt")


def test_losses_reach_the_encoder():
    torch.manual_seed(0)
    both = PhotoModel()
    both.set_side(64)
    batch, words = batch_of(square(8, 8, 40, 40), [2]), F.normalize(torch.randn(3, WORDS), dim=1)
    generator = torch.Generator().manual_seed(0)
    asked = ask_objects(batch, words, 5, 32, generator)
    features = both.encoder(batch.images)
    assert features.shape == (1, 128, 8, 8)
    sum(prompt_losses(both.model, features, asked, generator).values()).backward()
    assert both.encoder.up16.weight.grad.abs().sum() > 0 and both.encoder.position.grad.abs().sum() > 0
