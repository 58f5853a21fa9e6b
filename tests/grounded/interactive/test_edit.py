"""Changes of instances without a model: the masks are exact, and what was given stays as it was."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.interactive import edit
from segany.utils.rle import encode_rle
from tests.data import disk

SIZE = (40, 60)
PHRASES = ("a dog", "pizza")
MASKS = np.stack([disk(*SIZE, 15, 15, 9), disk(*SIZE, 24, 18, 8), disk(*SIZE, 45, 30, 7)])
NAN = float("nan")


def instances(phrases: Sequence[str] = PHRASES, ids: Sequence[int] = (0, 1, 0)) -> Instances:
    """Three disks, the first two of which overlap, with all scores different."""
    n = len(ids)
    return Instances(
        phrases=tuple(phrases),
        image_size=SIZE,
        phrase_ids=np.array(ids, np.int64),
        boxes=np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        rles=tuple(encode_rle(MASKS[:n])),
        scores=np.linspace(0.9, 0.7, n, dtype=np.float32),
        detector_scores=np.linspace(0.6, 0.5, n, dtype=np.float32),
        clip_scores=np.linspace(0.4, 0.3, n, dtype=np.float32),
        predicted_iou=np.linspace(0.99, 0.95, n, dtype=np.float32),
        phrase_scores=np.arange(n * len(phrases), dtype=np.float32).reshape(n, len(phrases)) / 10,
        sources=np.array(["detector", "text", "point"][:n], np.str_),
    )


def entries(found: Instances) -> list[dict[str, Any]]:
    return found.to_dict()["instances"]


class TestRelabel:
    @pytest.mark.parametrize("index", [1, -2])
    @pytest.mark.parametrize(
        ("phrase", "phrases", "phrase_id"),
        [
            pytest.param("hound", (*PHRASES, "hound"), 2, id="new"),
            pytest.param("  a\n hound ", (*PHRASES, "a hound"), 2, id="white space"),
            pytest.param("a hound. brown, old", (*PHRASES, "a hound. brown, old"), 2, id="one phrase, not split"),
            pytest.param("a dog", PHRASES, 0, id="known"),
            pytest.param("A Dog", PHRASES, 0, id="known in another case"),
        ],
    )
    def test_another_phrase(self, index: int, phrase: str, phrases: tuple[str, ...], phrase_id: int):
        before = instances()
        after = edit.relabel(before, index, phrase)
        assert after.phrases == phrases
        assert after.phrase_ids.tolist() == [0, phrase_id, 0]
        old, new = entries(before), entries(after)
        unknown = [None] * (len(phrases) - len(PHRASES))
        for row in range(3):
            scores = {"phrase_scores": old[row]["phrase_scores"] + unknown}
            if row == 1:
                scores |= {"detector_score": None, "clip_score": None}
                scores |= {"phrase": phrases[phrase_id], "phrase_id": phrase_id}
            assert new[row] == {**old[row], **scores}

    @pytest.mark.parametrize("phrase", ["pizza", " PIZZA "])
    def test_the_same_phrase(self, phrase: str):
        assert edit.relabel(instances(), 1, phrase).to_dict() == instances().to_dict()

    def test_phrases_that_parse_takes_for_one(self):
        composed, apart = "caf\u00e9", "cafe\u0301"
        assert edit.relabel(instances((composed, "pizza")), 1, apart).phrase_ids.tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        ("index", "phrase", "error", "message"),
        [
            pytest.param(3, "hound", IndexError, "3", id="no such instance"),
            pytest.param(-4, "hound", IndexError, "-4", id="no such instance from the end"),
            pytest.param(0, " . ", PromptError, "holds no phrase", id="no phrase"),
            pytest.param(0, "", PromptError, "holds no phrase", id="empty"),
        ],
    )
    def test_wrong(self, index: int, phrase: str, error: type[Exception], message: str):
        with pytest.raises(error, match=message):
            edit.relabel(instances(), index, phrase)

    def test_among_none(self):
        with pytest.raises(IndexError):
            edit.relabel(instances()[:0], 0, "hound")


class TestMerge:
    @pytest.mark.parametrize(
        ("rows", "kept"),
        [
            pytest.param([0, 1], [0, 2], id="neighbours"),
            pytest.param([1, 0], [1, 2], id="the other way"),
            pytest.param([2, 0], [1, 2], id="apart"),
            pytest.param([1, 0, 2], [1], id="all"),
            pytest.param([-1, 0], [1, 2], id="from the end"),
            pytest.param([0, 0, 1, 1], [0, 2], id="repeated"),
        ],
    )
    def test_union(self, rows: list[int], kept: list[int]):
        before = instances()
        after = edit.merge(before, rows)
        assert after.phrases == PHRASES
        first = np.arange(3)[rows[0]]
        union = MASKS[rows].any(axis=0)
        y, x = np.nonzero(union)
        old, new = entries(before), entries(after)
        assert len(new) == len(kept)
        for position, row in enumerate(kept):
            if row == first:
                np.testing.assert_array_equal(after.masks[position], union)
                changed = {"box": [x.min(), y.min(), x.max() + 1, y.max() + 1]}
                changed |= {"clip_score": None, "predicted_iou": None}
                assert new[position] == {**old[row], **changed, "mask": new[position]["mask"]}
            else:
                assert new[position] == old[row]
        assert Instances.from_dict(after.to_dict()).to_dict() == after.to_dict()  # its mask is fit for JSON

    @pytest.mark.parametrize("rows", [[], [1], [1, 1], [2, -1]], ids=str)
    def test_too_few(self, rows: list[int]):
        with pytest.raises(ValueError, match="two different instances or more, got"):
            edit.merge(instances(), rows)

    def test_no_such_instance(self):
        with pytest.raises(IndexError):
            edit.merge(instances(), [0, 3])


class TestAdd:
    def test_phrases_are_united(self):
        others = instances(("Pizza", "cup"), (1, 0))
        after = edit.add(instances(), others)
        assert after.phrases == ("a dog", "pizza", "cup")
        assert after.labels.tolist() == ["a dog", "pizza", "a dog", "cup", "pizza"]
        expected = [[0, 0.1, NAN], [0.2, 0.3, NAN], [0.4, 0.5, NAN], [NAN, 0, 0.1], [NAN, 0.2, 0.3]]
        np.testing.assert_array_equal(after.phrase_scores, np.array(expected, np.float32))
        np.testing.assert_array_equal(after.masks, np.concatenate([MASKS, MASKS[:2]]))
        own = ("box", "score", "detector_score", "clip_score", "predicted_iou", "source", "mask")
        for new, old in zip(entries(after), entries(instances()) + entries(others), strict=True):
            assert {key: new[key] for key in own} == {key: old[key] for key in own}

    @pytest.mark.parametrize(
        ("these", "others", "phrases"),
        [
            pytest.param(instances()[:0], instances(), PHRASES, id="to none"),
            pytest.param(Instances.empty((), SIZE), instances(), PHRASES, id="to none of nothing"),
            pytest.param(instances(), instances(("cup",), ()), (*PHRASES, "cup"), id="none"),
            pytest.param(instances(), Instances.empty((), SIZE), PHRASES, id="none of nothing"),
            pytest.param(Instances.empty((), SIZE), Instances.empty((), SIZE), (), id="none to none"),
        ],
    )
    def test_empty(self, these: Instances, others: Instances, phrases: tuple[str, ...]):
        after = edit.add(these, others)
        assert after.phrases == phrases
        assert after.labels.tolist() == these.labels.tolist() + others.labels.tolist()
        assert after.phrase_scores.shape == (len(these) + len(others), len(phrases))

    def test_another_image(self):
        with pytest.raises(ValueError, match="same phrases and image size"):
            edit.add(instances(), Instances.empty(PHRASES, (40, 61)))


class TestWithPhrases:
    @pytest.mark.parametrize(
        ("more", "phrases"),
        [
            pytest.param([], PHRASES, id="none"),
            pytest.param(["A DOG"], PHRASES, id="known"),
            pytest.param(["cup", "pizza", "tree"], (*PHRASES, "cup", "tree"), id="some known"),
            pytest.param(["Cup", "cup"], (*PHRASES, "Cup"), id="one twice"),
        ],
    )
    @pytest.mark.parametrize("count", [0, 3])
    def test_more_phrases(self, more: list[str], phrases: tuple[str, ...], count: int):
        before = instances()[:count]
        after = edit.with_phrases(before, more)
        assert after.phrases == phrases
        np.testing.assert_array_equal(after.phrase_scores[:, :2], before.phrase_scores)
        assert np.isnan(after.phrase_scores[:, 2:]).all()
        assert after.labels.tolist() == before.labels.tolist()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda these: edit.relabel(these, 0, "hound"), id="relabel"),
        pytest.param(lambda these: edit.merge(these, [0, 1]), id="merge"),
        pytest.param(lambda these: edit.add(these, these), id="add"),
        pytest.param(lambda these: edit.with_phrases(these, ["hound"]), id="with_phrases"),
    ],
)
def test_what_was_given_stays(change: Any):
    these = instances()
    changed = change(these)
    for name in ("boxes", "scores", "detector_scores", "clip_scores", "predicted_iou", "phrase_scores", "phrase_ids"):
        array = getattr(changed, name)
        assert array.dtype == getattr(these, name).dtype
    assert these.to_dict() == instances().to_dict()
