from pathlib import Path

import pytest

from grounded.errors import ResultError
from grounded.labelling.review import log
from grounded.labelling.review.clicks import Redrawing
from grounded.labelling.review.index import UnknownPictureError
from grounded.labelling.review.session import Desk
from grounded.labelling.review.shown import outline
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.grounded.labelling.reviewed import said, write_run


@pytest.mark.parametrize(
    ("actions", "states"),
    [
        pytest.param([], {"unreviewed"}, id="nothing"),
        pytest.param([("accept", 0)], {"partly"}, id="one of five"),
        pytest.param([("accept", i) for i in range(5)], {"done"}, id="all"),
        pytest.param([("accept", 0), ("reject", 1)], {"partly", "reject"}, id="rejected"),
        pytest.param([("reject", 1), ("undo", 1)], {"unreviewed"}, id="taken back"),
        pytest.param([("reject", 1), ("accept", 1)], {"partly"}, id="changed one's mind"),
    ],
)
def test_states(actions: list[tuple[str, int]], states: set[str], desk: Desk):
    for action, instance in actions:
        desk.say(said(action, instance, "shelf.png"))
    assert desk.states("shelf.png") == states
    assert desk.listed("shelf.png", None) and all(desk.listed("shelf.png", state) for state in states)


def test_another_start_knows_what_was_said(desk: Desk, run: Path, redrawing: Redrawing):
    desk.say(said("relabel", 0, "shelf.png", phrase="an alarm"), said("accept", 1, "picnic.png"))
    again = Desk(run, None, redrawing)
    assert again.agreement() == desk.agreement()
    assert again.given("an alarm") == ["shelf.png"] and again.states("picnic.png") == {"partly"}


def test_reviews_from_elsewhere_count(desk: Desk, run: Path):
    log.append(run, said("reject", 0, "shelf.png", source="labelme"), said("accept", 0, "of another run"))
    desk.refresh()
    assert desk.agreement().rejected == 1
    desk.say(said("accept", 0, "shelf.png"))
    assert desk.agreement().rejected == 0 and len(desk.reviews("shelf.png")) == 2
    # The run was begun anew meanwhile, and what was said put aside.
    (run / "reviews.jsonl").unlink()
    desk.refresh()
    assert desk.agreement().reviewed == 0 and desk.states("shelf.png") == {"unreviewed"}


def test_pictures_that_are_labelled_meanwhile(desk: Desk, run: Path):
    shard = next((run / "records").iterdir())
    line = next(line for line in shard.read_bytes().splitlines(keepends=True) if b'"shelf.png"' in line)
    with shard.open("ab") as file:
        file.write(line.replace(b"shelf.png", b"later.png"))
    desk.say(said("accept", 0, "later.png"))
    assert desk.states("later.png") == {"partly"} and len(desk.catalogue) == 5


def test_what_does_not_fit_is_not_written(desk: Desk, run: Path):
    nothing = encode_rle(disk(480, 640, -99, -99, 1)[None])[0]
    for review in (said("accept", 7, "shelf.png"), said("redraw", 0, "shelf.png", mask=nothing)):
        with pytest.raises(ResultError):
            desk.say(said("accept", 0, "shelf.png"), review)
    with pytest.raises(UnknownPictureError):
        desk.say(said("accept", 0, "none.png"))
    assert log.read(run) == []


def test_an_empty_run(tmp_path: Path, redrawing: Redrawing):
    desk = Desk(write_run(tmp_path), None, redrawing)
    assert desk.phrases() == [] and desk.agreement().reviewed == 0


def test_outlines():
    ring = disk(40, 60, 30, 20, 15) & ~disk(40, 60, 30, 20, 6)
    ring[0, 0] = True
    path = outline(encode_rle(ring[None])[0])
    assert path.count("M") == path.count("Z") == 3  # a pixel, a ring and its hole
    assert outline(encode_rle(disk(40, 60, -9, -9, 1)[None])[0]) == ""
