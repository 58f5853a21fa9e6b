"""Figures of rounds, as a table and a plot."""

import math
from dataclasses import replace

import numpy as np
import pytest

from grounded.engine.report import RoundFigures, best_ious, draw_report, to_table, write_report
from grounded.engine.rounds import Engine
from segany.utils.rle import encode_rle
from tests.data import disk

FIGURES = RoundFigures(
    number=1,
    stage="assisted",
    images=2,
    shown_per_image=0.0,
    masks=5,
    masks_per_image=2.5,
    seconds_per_mask=14.0,
    clicks_per_mask=2.0,
    compared=5,
    automatic_iou=0.8,
    automatic_above_90=0.4,
    truth_iou=math.nan,
    accepted_truth_iou=math.nan,
    trained_on=5,
    before=0.7,
    after=0.75,
)


def test_a_table_leaves_out_what_is_unknown():
    later = replace(FIGURES, number=2, stage="auto", clicks_per_mask=math.nan, seconds_per_mask=0.5)
    lines = to_table([FIGURES, later]).splitlines()
    assert len(lines) == 4 and "true" not in lines[0]
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells[:7] == ["2", "auto", "2", "0.0", "2.5", "0.5", ""]


def test_a_report_is_written(engine: Engine):
    figures = [replace(FIGURES, number=number, seconds_per_mask=14.0 / number) for number in (1, 2, 3)]
    write_report(engine, figures)
    assert {path.name for path in engine.folder.glob("report.*")} == {"report.json", "report.md", "report.png"}
    assert "NaN" not in (engine.folder / "report.json").read_text()
    assert draw_report(figures[:1]).size == draw_report(figures).size
    assert np.asarray(draw_report(figures)).std() > 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_best_ious(count: int):
    mask, other = disk(20, 30, 10, 10, 6), disk(20, 30, 22, 10, 5)
    others = encode_rle(np.stack([other, mask]))[:count]
    assert best_ious(encode_rle(mask[None]), others) == [float(count == 2)]
    assert best_ious([], others) == []
