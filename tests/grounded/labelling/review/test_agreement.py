from pathlib import Path

import pytest

from grounded.labelling.review import log
from grounded.labelling.review.agreement import Agreement, image_agreement, run_agreement
from grounded.labelling.review.log import Review
from tests.data import disk
from tests.grounded.labelling.reviewed import NEW, make_review, mask, record, write_run


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    first, second = (disk(40, 60, x, 20, radius) for x, radius in (a, b))
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param([], Agreement(), id="no reviews"),
        pytest.param([make_review("accept", 0)], Agreement(1, reviewed=1, ious=(1.0,)), id="accepted as it is"),
        pytest.param([make_review("reject", 0)], Agreement(1, reviewed=1, rejected=1), id="rejected"),
        pytest.param(
            [make_review("relabel", 0, phrase="dog")],
            Agreement(1, reviewed=1, relabelled=1),
            id="says nothing of the mask",
        ),
        pytest.param([make_review("relabel", 0, phrase="cat")], Agreement(1, reviewed=1), id="relabelled as it was"),
        pytest.param(
            [make_review("redraw", 0, mask=mask(12))],
            Agreement(1, reviewed=1, ious=(iou((10, 8), (12, 8)),)),
            id="redrawn",
        ),
        pytest.param(
            [make_review("redraw", 0, mask=NEW), make_review("reject", 0)],
            Agreement(1, reviewed=1, rejected=1),
            id="redrawn in vain",
        ),
        pytest.param([make_review("add", "x", phrase="hen", mask=NEW)], Agreement(1, added=1), id="added"),
        pytest.param([make_review("accept", 0, config="old")], Agreement(outdated=1), id="of a run before"),
        pytest.param([make_review("accept", 0), make_review("undo", 0)], Agreement(), id="taken back"),
        pytest.param(
            [make_review("accept", 0), make_review("relabel", 0, phrase="hen"), make_review("reject", 1)],
            Agreement(1, reviewed=2, rejected=1, relabelled=1, ious=(1.0,)),
            id="several",
        ),
    ],
)
def test_of_one_image(made: list[Review], expected: Agreement):
    assert image_agreement(record(), made) == expected


def test_of_a_run(tmp_path: Path):
    folder = write_run(tmp_path, record("a.png"), record("b.png"))
    assert run_agreement(folder) == Agreement()
    far = mask(40)  # over the third of 8 pixels at 40: the same
    log.append_reviews(
        folder,
        make_review("accept", 0),
        make_review("redraw", 2, "b.png", mask=far),
        make_review("redraw", 1, mask=NEW),
    )
    log.append_reviews(folder, make_review("reject", 0, "b.png"), make_review("accept", 0, "gone.png"))
    found = run_agreement(folder)
    assert (found.images, found.reviewed, found.rejected) == (2, 4, 1)
    assert found.ious == (1.0, 0.0, 1.0)
    assert found.share_above(0.9) == pytest.approx(2 / 3) and found.mean_iou == pytest.approx(2 / 3)
    data = found.to_dict()
    assert data["rejected_share"] == 0.25 and data["compared"] == 3 and data["above_0.75"] == pytest.approx(2 / 3)
    assert str(found).startswith("4 instances reviewed in 2 images, 1 rejected")


def test_nothing_has_no_shares():
    data = Agreement().to_dict()
    assert [data[name] for name in ("mean_iou", "above_0.9", "rejected_share")] == [None] * 3
    assert str(Agreement()) == "0 instances reviewed in 0 images, 0 rejected, 0 relabelled, 0 added"
