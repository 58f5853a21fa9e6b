from pathlib import Path

import pytest

from grounded.labelling.review import log
from grounded.labelling.review.agreement import Agreement, agreement, agreement_of
from grounded.labelling.review.log import Review
from tests.data import disk
from tests.grounded.labelling.reviewed import NEW, mask, record, said, write_run


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    first, second = (disk(40, 60, x, 20, radius) for x, radius in (a, b))
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param([], Agreement(), id="nothing said"),
        pytest.param([said("accept", 0)], Agreement(1, reviewed=1, ious=(1.0,)), id="accepted as it is"),
        pytest.param([said("reject", 0)], Agreement(1, reviewed=1, rejected=1), id="rejected"),
        pytest.param(
            [said("relabel", 0, phrase="dog")], Agreement(1, reviewed=1, relabelled=1), id="says nothing of the mask"
        ),
        pytest.param([said("relabel", 0, phrase="cat")], Agreement(1, reviewed=1), id="relabelled as it was"),
        pytest.param(
            [said("redraw", 0, mask=mask(12))],
            Agreement(1, reviewed=1, ious=(iou((10, 8), (12, 8)),)),
            id="redrawn",
        ),
        pytest.param(
            [said("redraw", 0, mask=NEW), said("reject", 0)], Agreement(1, reviewed=1, rejected=1), id="redrawn in vain"
        ),
        pytest.param([said("add", "x", phrase="hen", mask=NEW)], Agreement(1, added=1), id="added"),
        pytest.param([said("accept", 0, config="old")], Agreement(outdated=1), id="of a run before"),
        pytest.param([said("accept", 0), said("undo", 0)], Agreement(), id="taken back"),
        pytest.param(
            [said("accept", 0), said("relabel", 0, phrase="hen"), said("reject", 1)],
            Agreement(1, reviewed=2, rejected=1, relabelled=1, ious=(1.0,)),
            id="several",
        ),
    ],
)
def test_of_one_picture(made: list[Review], expected: Agreement):
    assert agreement_of(record(), made) == expected


def test_of_a_run(tmp_path: Path):
    folder = write_run(tmp_path, record("a.png"), record("b.png"))
    assert agreement(folder) == Agreement()
    far = mask(40)  # over the third of 8 pixels at 40: the same
    log.append(folder, said("accept", 0), said("redraw", 2, "b.png", mask=far), said("redraw", 1, mask=NEW))
    log.append(folder, said("reject", 0, "b.png"), said("accept", 0, "gone.png"))
    found = agreement(folder)
    assert (found.pictures, found.reviewed, found.rejected) == (2, 4, 1)
    assert found.ious == (1.0, 0.0, 1.0)
    assert found.share_above(0.9) == pytest.approx(2 / 3) and found.mean_iou == pytest.approx(2 / 3)
    data = found.to_dict()
    assert data["rejected_share"] == 0.25 and data["compared"] == 3 and data["above_0.75"] == pytest.approx(2 / 3)
    assert str(found).startswith("4 instances reviewed in 2 pictures, 1 rejected")


def test_nothing_has_no_shares():
    data = Agreement().to_dict()
    assert [data[name] for name in ("mean_iou", "above_0.9", "rejected_share")] == [None] * 3
    assert str(Agreement()) == "0 instances reviewed in 0 pictures, 0 rejected, 0 relabelled, 0 added"
