from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.review import apply, log
from grounded.labelling.review.log import Review
from segany.utils.rle import RLE
from tests.grounded.labelling.reviewed import NEW, make_review, record, write_run


@pytest.mark.parametrize(
    ("made", "labels", "accepted"),
    [
        pytest.param([], ["cat", "dog", "cat"], [], id="nothing said"),
        pytest.param([make_review("accept", 1)], ["cat", "dog", "cat"], ["dog"], id="accept"),
        pytest.param([make_review("reject", 1)], ["cat", "cat"], [], id="reject"),
        pytest.param(
            [make_review("reject", 1), make_review("accept", 1)], ["cat", "dog", "cat"], ["dog"], id="the later counts"
        ),
        pytest.param(
            [make_review("accept", 1), make_review("reject", 1)], ["cat", "cat"], [], id="the later counts, reject"
        ),
        pytest.param([make_review("relabel", 0, phrase="dog")], ["dog", "dog", "cat"], ["dog"], id="relabel"),
        pytest.param(
            [make_review("relabel", 0, phrase="a hen")], ["a hen", "dog", "cat"], ["a hen"], id="a new phrase"
        ),
        pytest.param(
            [make_review("relabel", 0, phrase="hen"), make_review("accept", 0)],
            ["hen", "dog", "cat"],
            ["hen"],
            id="accept a new label",
        ),
        pytest.param(
            [make_review("relabel", 0, phrase="hen"), make_review("relabel", 0, phrase="dog")],
            ["dog", "dog", "cat"],
            ["dog"],
            id="relabel twice",
        ),
        pytest.param(
            [make_review("add", "x", phrase="hen", mask=NEW)], ["cat", "dog", "cat", "hen"], ["hen"], id="add"
        ),
        pytest.param(
            [make_review("add", "x", phrase="hen", mask=NEW), make_review("relabel", "x", phrase="dog")],
            ["cat", "dog", "cat", "dog"],
            ["dog"],
            id="relabel what was added",
        ),
        pytest.param(
            [make_review("add", "x", phrase="hen", mask=NEW), make_review("reject", "x")],
            ["cat", "dog", "cat"],
            [],
            id="reject added",
        ),
        pytest.param(
            [make_review("add", "x", phrase="hen", mask=NEW), make_review("undo", "x")],
            ["cat", "dog", "cat"],
            [],
            id="undo add",
        ),
        pytest.param([make_review("reject", 1), make_review("undo", 1)], ["cat", "dog", "cat"], [], id="undo"),
        pytest.param(
            [make_review("reject", 1), make_review("accept", 2), make_review("undo", 1)],
            ["cat", "dog", "cat"],
            ["cat"],
            id="undo an earlier one",
        ),
        pytest.param(
            [make_review("relabel", 0, phrase="hen"), make_review("reject", 0), make_review("undo", 0)],
            ["hen", "dog", "cat"],
            ["hen"],
            id="undo the last alone",
        ),
        pytest.param(
            [
                make_review("relabel", 0, phrase="hen"),
                make_review("reject", 0),
                make_review("undo", 0),
                make_review("undo", 0),
            ],
            ["cat", "dog", "cat"],
            [],
            id="undo twice",
        ),
        pytest.param([make_review("undo", 0)], ["cat", "dog", "cat"], [], id="nothing to undo"),
        pytest.param([make_review("reject", 1, config="abc")], ["cat", "cat"], [], id="of this run"),
        pytest.param([make_review("reject", 9, config="old")], ["cat", "dog", "cat"], [], id="of a run before"),
        pytest.param([make_review("reject", 0, file="b.png")], ["cat", "dog", "cat"], [], id="another image"),
    ],
)
def test_apply(made: list[Review], labels: list[str], accepted: list[str]):
    assert apply.apply_reviews(record(), made).instances.labels.tolist() == labels
    assert apply.apply_reviews(record(), made, accepted_only=True).instances.labels.tolist() == accepted


def test_a_redrawn_mask_has_its_own_box_and_no_old_scores():
    before = record()
    before = replace(before, instances=replace(before.instances, clip_scores=np.full(3, 0.5, np.float32)))
    after = apply.apply_reviews(before, [make_review("redraw", 1, mask=NEW)])
    assert after.instances.rles == (before.instances.rles[0], NEW, before.instances.rles[2])
    assert after.instances.boxes[1].tolist() == [46, 16, 55, 25]
    assert np.isnan(after.instances.clip_scores).tolist() == [False, True, False]
    assert np.isnan(after.instances.predicted_iou).tolist() == [False, True, False]
    assert after.instances.scores.tolist() == before.instances.scores.tolist()
    assert (after.image, after.config) == (before.image, before.config)
    assert before.instances.rles[1] != NEW


def test_an_added_instance_has_no_scores():
    after = apply.apply_reviews(record(count=0), [make_review("add", "x", phrase="Dog", mask=NEW)]).instances
    assert after.phrases == ("cat", "dog") and after.labels.tolist() == ["dog"]
    assert after.sources.tolist() == ["person"] and np.isnan(after.scores).all()
    assert after.boxes[0].tolist() == [46, 16, 55, 25]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param(make_review("accept", 3), "of instance 3, the record has 3", id="no such row"),
        pytest.param(make_review("accept"), "accepts it as empty, the record has 3", id="not empty"),
        pytest.param(
            make_review("redraw", 0, mask=RLE(size=[4, 4], counts="0")),
            r"size \[4, 4\], the image is \[40, 60\]",
            id="size",
        ),
    ],
)
def test_reviews_that_do_not_fit(made: Review, message: str):
    with pytest.raises(ResultError, match=message):
        apply.apply_reviews(record(), [made])


@pytest.mark.parametrize(
    ("count", "made", "expected"),
    [
        pytest.param(0, [], False, id="not looked at"),
        pytest.param(0, [make_review("accept")], True, id="nothing is there"),
        pytest.param(0, [make_review("accept"), make_review("undo")], False, id="taken back"),
        pytest.param(0, [make_review("accept", config="old")], False, id="of a run before"),
        pytest.param(0, [make_review("add", "x", phrase="hen", mask=NEW)], False, id="something was missing"),
        pytest.param(2, [make_review("reject", 0)], False, id="one of two rejected"),
        pytest.param(2, [make_review("reject", 0), make_review("reject", 1)], True, id="all rejected"),
        pytest.param(
            2,
            [make_review("reject", 0), make_review("reject", 1), make_review("accept", 1)],
            False,
            id="rejected in vain",
        ),
    ],
)
def test_is_empty(count: int, made: list[Review], expected: bool):
    assert apply.is_confirmed_empty(record(count=count), made) is expected


def test_corrected(tmp_path: Path):
    folder = write_run(tmp_path, record("a.png"), record("b.png"), record("c.png", count=0), record("d.png", count=1))
    log.append_reviews(
        folder,
        make_review("accept", 1),
        make_review("reject", 0),
        make_review("reject", 0, "d.png"),
        make_review("accept", 0, "gone.png"),
    )
    counts = {one.image.file: len(one.instances) for one in apply.corrected_records(folder)}
    assert counts == {"a.png": 2, "b.png": 3, "c.png": 0, "d.png": 0}
    # An image in which everything was rejected has been looked at: nothing is there.
    seen = {one.image.file: len(one.instances) for one in apply.corrected_records(folder, accepted_only=True)}
    assert seen == {"a.png": 1, "d.png": 0}
    log.append_reviews(folder, make_review("accept", file="c.png"))
    seen = {one.image.file: len(one.instances) for one in apply.corrected_records(folder, accepted_only=True)}
    assert seen == {"a.png": 1, "c.png": 0, "d.png": 0}
    assert list(apply.corrected_records(write_run(tmp_path / "empty"))) == []
