"""Means with intervals, groups, tables and curves of masks from clicks."""

from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.points import (
    ClickedMask,
    click_means,
    draw_click_curves,
    group_means,
    mean_with_interval,
    read_groups,
    to_dict,
    to_text,
)


def mask(id: str, *ious: float) -> ClickedMask:
    return ClickedMask(id, "dog", {"centre": list(ious)}, {"centre": [min(1.0, iou + 0.1) for iou in ious]})


MASKS = [mask("1", 0.5, 0.6, 0.7), mask("2", 0.7, 0.8, 0.9), mask("3", 0.2, 0.2, 0.2)]


def test_interval_of_a_mean():
    mean = mean_with_interval([0.2, 0.4, 0.6, 0.8])
    margin = 1.959964 * np.std([0.2, 0.4, 0.6, 0.8], ddof=1) / 2
    assert mean.value == pytest.approx(0.5) and mean.interval == pytest.approx((0.5 - margin, 0.5 + margin))
    assert mean_with_interval([0.3]).interval is None
    with pytest.raises(ValueError, match="at least one value"):
        mean_with_interval([])


def test_means_by_click_and_group():
    assert [mean.value for mean in click_means(MASKS)["centre"]] == pytest.approx([1.4 / 3, 1.6 / 3, 0.6])
    groups = group_means(MASKS, {"1": "old", "2": "old", "3": "young", "9": "nobody"})
    assert {group: {n: round(mean.value, 3) for n, mean in found.items()} for group, found in groups.items()} == {
        "old": {1: 0.6, 3: 0.8},
        "young": {1: 0.2, 3: 0.2},
    }
    assert groups["old"][1].count == 2


def test_table_and_data():
    groups = {"1": "old", "2": "old", "3": "young"}
    assert to_text(MASKS, groups).splitlines() == [
        "                    1      2      3",
        "centre           46.7   53.3   60.0",
        "centre, oracle   56.7   63.3   70.0",
        "mean IoU in percent after so many clicks, over 3 masks",
        "",
        "group  masks  1 point      3 points",
        "old    2      60.0 ± 19.6  80.0 ± 19.6",
        "young  1      20.0         20.0",
    ]
    data = to_dict({"clicks": 3}, MASKS, groups, ["a note"])
    assert data["mean_iou"]["centre"][0]["mean"] == pytest.approx(1.4 / 3)
    assert data["groups"]["young"]["1"] == {"mean": pytest.approx(0.2), "interval_95": None, "masks": 1}
    assert draw_click_curves(MASKS).width > 300


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("annotation_id,group\n1,old\n2, young \n", {"1": "old", "2": "young"}, id="two columns"),
        pytest.param("\ufeffgroup,note,annotation_id\nold,x,1\n", {"1": "old"}, id="any order, and others"),
        pytest.param("annotation_id,group\n1,\n", {}, id="no group"),
    ],
)
def test_groups(tmp_path: Path, content: str, expected: dict):
    (tmp_path / "groups.csv").write_text(content, encoding="utf-8")
    assert read_groups(tmp_path / "groups.csv") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"id,group\n1,old\n", "must have the columns annotation_id and group", id="another column"),
        pytest.param(b"", "must have the columns", id="empty"),
        pytest.param(b"annotation_id,group\n1,old\n1,young\n", "annotation 1 must have one group", id="two groups"),
        pytest.param(b"annotation_id,group\n\xff,old\n", "cannot read", id="another encoding"),
    ],
)
def test_groups_that_are_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "groups.csv").write_bytes(content)
    with pytest.raises(ResultError, match=message):
        read_groups(tmp_path / "groups.csv")
