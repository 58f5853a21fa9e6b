"""Measuring and writing the networks of `photo`: what is asked, how answers are ranked, and what is exported."""

from pathlib import Path

import numpy as np
import pytest
import torch

import segany
from grounded.models.detectors.one_stage_head import load_head
from recipes.photo.calibrate import Answers, Found
from recipes.photo.evaluate import table
from recipes.photo.export import export
from recipes.photo.measure_chain import Ranking
from recipes.photo.measure_prompts import measure_prompts
from recipes.photo.models import PhotoModel
from recipes.photo.validation import Validation, rare_names


def test_photographs_are_asked_for_what_they_show_and_for_what_not(folder: Path):
    first, second = Validation(folder, "train")
    assert first.present == ("dog", "person") and first.absent == ("skirt",)
    assert second.present == ("skirt",) and set(second.absent) == {"dog", "person"}
    assert first.masks("dog").shape == (1, 48, 56) and first.masks("dog")[0, 30, 30]
    assert first.boxes("dog").tolist() == [[20, 20, 36, 40]] and first.boxes("skirt").shape == (0, 4)
    assert [one.present for one in Validation(folder, "train", names=["dog"])] == [("dog",)]
    assert [one.file for one in Validation(folder, "train", limit=1)] == ["1.png"]
    assert rare_names(folder, "train") == ["dog", "person", "skirt"]


@pytest.mark.parametrize(
    ("scores", "ious", "ap50", "recall"),
    [
        pytest.param([0.9, 0.8], [[0.9, 0.0], [0.0, 0.7]], 1.0, 1.0, id="both right"),
        pytest.param([0.9, 0.8], [[0.9, 0.0], [0.8, 0.0]], 51 / 101, 0.5, id="one object found twice"),
        pytest.param([0.5, 0.9], [[0.9, 0.0], [0.1, 0.2]], 0.5 * 51 / 101, 0.5, id="a wrong one first"),
        pytest.param([], np.zeros((0, 2)), 0.0, 0.0, id="nothing found"),
    ],
)
def test_ranking(scores, ious, ap50: float, recall: float):
    ranking = Ranking()
    ranking.add(np.array(scores), np.array(ious))
    assert ranking.ap50 == pytest.approx(ap50) and ranking.recall == recall


def test_a_mask_of_an_absent_phrase_costs():
    ranking = Ranking()
    ranking.add(np.array([0.5]), np.array([[0.9]]))
    ranking.add(np.array([0.9]), np.zeros((1, 0)))
    assert ranking.ap50 == pytest.approx(0.5) and ranking.recall == 1.0


def test_thresholds_on_what_was_found():
    found = (Found(0, 0.9, 0.8, 0), Found(0, 0.3, 0.9, 1), Found(1, 0.5, 0.2, -1))
    answers = Answers(found, frozenset({1}), objects=2)
    assert answers.at(0.0, 0.0) == (1.0, pytest.approx(2 / 3), 1.0)
    assert answers.at(0.4, 0.5) == (0.5, 1.0, 0.0)
    others = Answers((Found(0, np.nan, 0.9, 1), Found(1, np.nan, 0.6, -1)), frozenset({1}), objects=2)
    assert answers.at(0.4, 0.5, (others, 0.5)) == (0.5, 0.5, 1.0)  # the first question has an answer already
    assert answers.at(0.95, 0.5, (others, 0.8)) == (0.5, 1.0, 0.0)


class NamesAreNumbers:
    """A text encoder whose embeddings are random but fixed."""

    dim = 384

    def encode(self, phrases):
        return torch.stack([torch.randn(384, generator=torch.Generator().manual_seed(len(p))) for p in phrases])


@pytest.mark.slow
def test_exported_weights_are_read_and_measured(folder: Path, tmp_path: Path):
    torch.manual_seed(0)
    both = PhotoModel()
    parts = {name: {k: v.half() for k, v in getattr(both, name).state_dict().items()} for name in ("model", "head")}
    torch.save(parts, tmp_path / "averaged.pt")
    vocabulary = {"names": ["dog", "never shown"], "embeddings": torch.randn(2, 384), "count": [3, 0]}
    torch.save(vocabulary, tmp_path / "vocabulary.pt")
    written = tmp_path / "photo.safetensors", tmp_path / "detector"
    assert export(tmp_path / "averaged.pt", tmp_path / "vocabulary.pt", *written, side=96) == 1
    head, names, embeddings = load_head(written[1])
    assert names == ("dog",) and embeddings.norm().item() == pytest.approx(1, abs=1e-3)
    assert torch.equal(head.word.bias, both.head.word.bias.half().float())
    assert torch.equal(head.word.weight, both.head.word.weight.half().bfloat16().float())
    predictor = segany.Predictor(segany.load(written[0]))
    assert predictor.model.config.image_size == 96
    figures = measure_prompts(predictor, NamesAreNumbers(), Validation(folder, "train"))
    assert set(figures) >= {"box", "one point, best of three", "text"}
    assert all(0 <= value <= 1 for value in figures.values())


def test_table_says_what_was_reached():
    lines = table({"voc-val": {"prompts": {"box": 0.71, "text and box": 0.8}}}).splitlines()
    assert lines[2] == "| voc-val | prompts: box | 0.710 | ≥ 0.7 | yes |"
    assert lines[3] == "| voc-val | prompts: text and box | 0.800 |  |  |"


def test_another_preset_has_a_column_beside():
    results = {"voc-val": {"prompts": {"box": 0.71, "text": 0.5}, "clip": {"top-1": 0.8}}}
    lines = table(results, {"tiny": {"voc-val": {"prompts": {"box": 0.2}}}}).splitlines()
    assert lines[0] == "| photographs | measure | value | bar |  | tiny |"
    assert [line.split(" | ")[-1] for line in lines[2:]] == ["0.200 |", " |", " |"]
