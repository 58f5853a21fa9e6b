from collections.abc import Sequence

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.clips import ClipInMemory, FirstMasks, FrameObjects
from grounded.evaluation.video.evaluate import Protocol, evaluate_clips
from grounded.evaluation.video.report import to_dict, to_text
from grounded.evaluation.video.sources import ClipPair, pair_clips
from grounded.labelling.formats.annotations import Notes
from tests.grounded.evaluation.video.made import clip, pair

LEFT, NONE = {1: "left"}, {}
BOTH = {1: "left", 2: "right"}


def test_means_are_over_objects():
    pairs = [pair([BOTH] * 4, [BOTH] * 4, "a"), pair([LEFT] * 4, [NONE] * 4, "b")]
    seen = []
    evaluation = evaluate_clips(pairs, "davis", on_frame=lambda: seen.append(1))
    assert [[one.id for one in clip.objects] for clip in evaluation.clips] == [[1, 2], [1]]
    assert evaluation.mean == pytest.approx(2 / 3), "three objects, of two clips"
    assert evaluation.region == evaluation.boundary == pytest.approx((2 / 3, 2 / 3, 0))
    assert evaluation.tracks is None
    assert len(seen) == 4, "of two frames each: the first and the last are not measured"


def test_ids_are_matched_where_asked():
    swapped = pair([BOTH] * 3, [{1: "right", 8: "left"}] * 3)
    with pytest.raises(ResultError, match=r"clip a: .* got \[8\]; --match-ids finds out which is which"):
        evaluate_clips([swapped], "davis")
    evaluation = evaluate_clips([swapped], "davis", match_ids=True)
    assert evaluation.mean == 1
    assert [(one.id, one.prediction, one.frames) for one in evaluation.clips[0].objects] == [(1, 8, 3), (2, 1, 3)]


def test_tracks():
    pytest.importorskip("trackeval")
    pairs = [pair([LEFT] * 2, [LEFT, {2: "left"}], "a"), pair([LEFT] * 2, [LEFT] * 2, "b")]
    evaluation = evaluate_clips(pairs, "tracks")
    assert [clip.tracks.switches for clip in evaluation.clips if clip.tracks] == [1, 0]
    assert evaluation.tracks is not None and evaluation.tracks.switches_per_object == 0.5
    assert evaluation.mean is None and evaluation.clips[0].objects == ()


def test_objects_that_cannot_be_measured_are_noted():
    pytest.importorskip("trackeval")
    late = [LEFT, LEFT, LEFT, BOTH]
    evaluation = evaluate_clips([pair(late, late)])
    assert evaluation.notes == ("a: objects that are first seen in the last two frames are not measured: [2]",)
    assert evaluation.mean == 1


@pytest.mark.parametrize("protocol", ["davis", "all"])
def test_boxes_have_no_j(protocol: Protocol):
    pytest.importorskip("trackeval")
    frames = {number: FrameObjects((1,), np.array([[0.0, 0, 4, 4]])) for number in range(4)}
    boxes = ClipInMemory("a", frames)
    both = ClipPair(boxes, boxes, boxes.numbers)
    if protocol == "davis":
        with pytest.raises(ResultError, match="clip a: J and F need masks, got boxes"):
            evaluate_clips([both], protocol)
        return
    evaluation = evaluate_clips([both], protocol)
    assert evaluation.tracks is not None and evaluation.tracks.hota == pytest.approx(1)
    assert evaluation.mean is None and evaluation.notes == ("a: J and F are not measured, of boxes",)


@pytest.mark.parametrize(
    "truth", [pytest.param([NONE] * 4, id="no object"), pytest.param([LEFT] * 2, id="no frame between")]
)
def test_nothing_to_measure(truth: Sequence):
    with pytest.raises(ResultError, match="there is no object to measure J and F of"):
        evaluate_clips([pair(truth, truth)], "davis")


def test_a_failing_frame_ends_it():
    class Damaged(ClipInMemory):
        def read(self, number: int) -> FrameObjects:
            raise ResultError(f"frame {number} is damaged")

    truth = clip([LEFT] * 30)
    with pytest.raises(ResultError, match="frame 1 is damaged"):
        evaluate_clips([ClipPair(truth, Damaged("b", truth.frames), truth.numbers)], "davis")


def test_first_masks():
    truth = clip([LEFT, BOTH, {2: "below"}, NONE, BOTH])
    copy = FirstMasks.of(truth)
    assert [copy.read(number).ids for number in copy.numbers] == [(1,), (1, 2), (1, 2), (1, 2), (1, 2)]
    evaluation = evaluate_clips(pair_clips([truth], [copy], Notes()), "davis")
    # Object 1 is in its place in frame 1 of 1, 2 and 3; object 2 in none of 2 and 3.
    assert [one.region.mean for one in evaluation.clips[0].objects] == pytest.approx([1 / 3, 0])
    with pytest.raises(ResultError, match="clip a: the first masks of objects need a truth of masks"):
        FirstMasks.of(ClipInMemory("a", {0: FrameObjects((), np.zeros((0, 4)))}))


def test_reports():
    pytest.importorskip("trackeval")
    evaluation = evaluate_clips([pair([BOTH] * 4, [BOTH, LEFT, BOTH, BOTH], "a clip")])
    assert to_text(evaluation).splitlines() == [
        "clip    object  track  frames    J&F      J  J recall  J decay      F  F recall  F decay",
        "a clip       1      1       2  100.0  100.0     100.0      0.0  100.0     100.0      0.0",
        "a clip       2      2       2   50.0   50.0      50.0   -100.0   50.0      50.0   -100.0",
        "mean                            75.0   75.0      75.0    -50.0   75.0      75.0    -50.0",
        "",
        "clip    objects  HOTA  DetA  AssA   LocA  IDF1  MOTA  switches  found again",
        "a clip        2  88.4  87.5  89.3  100.0  93.3  87.5         0          0/0",
        "all           2  88.4  87.5  89.3  100.0  93.3  87.5         0          0/0",
    ]
    data = to_dict(evaluation, ["a note"])
    assert data["j_and_f"] == 0.75 and data["notes"] == ["a note"]
    assert data["clips"][0]["objects"][1]["j"] == {"mean": 0.5, "recall": 0.5, "decay": -1.0}
    assert data["tracks"]["found_again"] is None and data["tracks"]["switches_per_object"] == 0
