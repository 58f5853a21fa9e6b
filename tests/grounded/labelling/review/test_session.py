import json
from pathlib import Path

import pytest

from grounded.errors import ResultError
from grounded.labelling.frame_images import RunImages
from grounded.labelling.review import log
from grounded.labelling.review.clicks import ClickSegmenter
from grounded.labelling.review.index import UnknownImageError
from grounded.labelling.review.session import ReviewSession, svg_path
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.grounded.labelling.reviewed import make_review, write_run
from tests.grounded.labelling.standin import write_clip_folder
from tests.grounded.labelling.test_tracking import label, open_clips


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
def test_states(actions: list[tuple[str, int]], states: set[str], session: ReviewSession):
    for action, instance in actions:
        session.add_reviews(make_review(action, instance, "shelf.png"))
    assert session.states("shelf.png") == states


def test_frames_of_clips_are_shown_and_not_corrected(tmp_path: Path, segmenter: ClickSegmenter):
    write_clip_folder(tmp_path / "in" / "shots", 3)
    label(open_clips(tmp_path / "in"), tmp_path / "out")
    session = ReviewSession(tmp_path / "out", RunImages(open_clips(tmp_path / "in")), segmenter)
    session.index.wait()
    shown = session.image_to_dict("shots/1.png")
    assert shown["missing"] is None and [one["phrase"] for one in shown["instances"]] == ["bright"]
    with pytest.raises(ResultError, match=r"is a frame of a clip, .* use grounded track with --prompts"):
        session.add_reviews(make_review("accept", 0, "shots/1.png"))
    assert session.reviews("shots/1.png") == []


def test_another_start_knows_the_reviews(session: ReviewSession, run: Path, segmenter: ClickSegmenter):
    session.add_reviews(
        make_review("relabel", 0, "shelf.png", phrase="an alarm"), make_review("accept", 1, "picnic.png")
    )
    again = ReviewSession(run, None, segmenter)
    assert again.agreement() == session.agreement()
    assert again.files_relabelled_as("an alarm") == ["shelf.png"] and again.states("picnic.png") == {"partly"}


def test_reviews_from_elsewhere_count(session: ReviewSession, run: Path):
    log.append_reviews(
        run, make_review("reject", 0, "shelf.png", source="labelme"), make_review("accept", 0, "of another run")
    )
    session.refresh()
    assert session.agreement().rejected == 1
    session.add_reviews(make_review("accept", 0, "shelf.png"))
    assert session.agreement().rejected == 0 and len(session.reviews("shelf.png")) == 2
    # The run was begun anew meanwhile, and its reviews moved aside.
    (run / "reviews.jsonl").unlink()
    session.refresh()
    assert session.agreement().reviewed == 0 and session.states("shelf.png") == {"unreviewed"}


def test_images_that_are_labelled_meanwhile(session: ReviewSession, run: Path):
    shard = next((run / "records").iterdir())
    line = next(line for line in shard.read_bytes().splitlines(keepends=True) if b'"shelf.png"' in line)
    with shard.open("ab") as file:
        file.write(line.replace(b"shelf.png", b"later.png"))
    session.add_reviews(make_review("accept", 0, "later.png"))
    assert session.states("later.png") == {"partly"} and len(session.index) == 5


def test_what_does_not_fit_is_not_written(session: ReviewSession, run: Path):
    nothing = encode_rle(disk(480, 640, -99, -99, 1)[None])[0]
    for review in (make_review("accept", 7, "shelf.png"), make_review("redraw", 0, "shelf.png", mask=nothing)):
        with pytest.raises(ResultError):
            session.add_reviews(make_review("accept", 0, "shelf.png"), review)
    with pytest.raises(UnknownImageError):
        session.add_reviews(make_review("accept", 0, "none.png"))
    assert log.read_reviews(run) == []


def test_an_empty_run(tmp_path: Path, segmenter: ClickSegmenter):
    session = ReviewSession(write_run(tmp_path), None, segmenter)
    assert session.phrases() == [] and session.agreement().reviewed == 0


def test_svg_path():
    ring = disk(40, 60, 30, 20, 15) & ~disk(40, 60, 30, 20, 6)
    ring[0, 0] = True
    path = svg_path(encode_rle(ring[None])[0])
    assert path.count("M") == path.count("Z") == 3  # a pixel, a ring and its hole
    assert svg_path(encode_rle(disk(40, 60, -9, -9, 1)[None])[0]) == ""


BAD_MASKS = {"run lengths": {"size": [480, 640], "counts": "51"}, "size": {"size": [3, 4], "counts": "156"}}


@pytest.mark.parametrize("mask", BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_bad_mask_in_the_log_costs_nothing_else(mask: dict, run: Path, segmenter: ClickSegmenter):
    """As a program that did not check masks may have written one."""
    good = log.Review(file="picnic.png", action="accept", instance=1).to_line()
    bad = {"file": "picnic.png", "action": "redraw", "instance": 0, "mask": mask}
    (run / "reviews.jsonl").write_bytes(good + json.dumps(bad).encode() + b"\n" + good)
    session = ReviewSession(run, None, segmenter)
    assert [review.action for review in session.reviews("picnic.png")] == ["accept", "accept"]
    assert session.states("picnic.png") == {"partly"}
    assert session.error is not None and session.error.startswith("1 reviews cannot be used, and do not count: ")
    session.add_reviews(log.Review(file="picnic.png", action="reject", instance=0))
    assert "reject" in session.states("picnic.png")


def test_a_damaged_record_costs_nothing_else(run: Path, segmenter: ClickSegmenter):
    (shard,) = (run / "records").glob("*.jsonl")
    first, *others = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([first[:100] + b"\n", *others]))
    session = ReviewSession(run, None, segmenter)
    session.index.wait()
    assert session.index.entries_read == 3
    assert session.error is not None and session.error.startswith("1 records cannot be read, and are left out: ")
