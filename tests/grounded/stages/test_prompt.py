import numpy as np
import pytest
import torch

from grounded.data.clicks import Clicks
from grounded.data.detections import Detections
from grounded.data.protocols import DensePrompts
from grounded.errors import PromptError
from grounded.stages.prompt import assign_points, prompt_boxes, prompt_phrases, prompt_stray_clicks

SIZE = (60, 70)
CORNERS = np.array([[0, 0, 9, 9], [1, 2, 3, 4], [5, 5, 8, 7]], np.float32)
DETECTIONS = Detections(CORNERS, np.array([[0.9, 0.1], [0.2, 0.7], [0.5, 0.4]], np.float32), np.array([0, 1, 0]))
TEXT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
# Two phrases with a peak, perhaps a second one, and a trough.
DENSE = DensePrompts(
    points=torch.tensor([[[2.0, 3.0], [6.0, 6.0], [20.0, 20.0]], [[2.0, 3.0], [50.0, 50.0], [2.0, 2.0]]]),
    labels=torch.tensor([[1, 1, 0], [1, -1, 0]]),
    logits=torch.arange(2 * 16.0).reshape(2, 4, 4),
)
NO_CLICKS = Clicks.read(None, None, SIZE)


def clicks(*points: tuple[float, float], labels: list[int] | None = None) -> Clicks:
    return Clicks.read(points, labels, SIZE)


class TestBoxes:
    @pytest.mark.parametrize("multimask_output", [False, True])
    def test_alone(self, multimask_output: bool):
        group = prompt_boxes(DETECTIONS, NO_CLICKS, multimask_output=multimask_output)
        assert torch.equal(group.prompts.boxes, torch.from_numpy(CORNERS))
        assert group.prompts.text is group.prompts.points is group.prompts.masks is group.coarse_masks is None
        assert group.source == "detector" and group.detections is DETECTIONS
        assert group.phrase_ids.tolist() == [0, 1, 0]
        assert group.multimask_output == multimask_output

    def test_with_the_embedding_of_their_phrase(self):
        prompts = prompt_boxes(DETECTIONS, NO_CLICKS, TEXT).prompts
        assert torch.equal(prompts.boxes, torch.from_numpy(CORNERS))
        assert torch.equal(prompts.text, TEXT[[0, 1, 0]][:, None])

    def test_with_the_dense_points_that_agree_with_the_box(self):
        group = prompt_boxes(DETECTIONS, NO_CLICKS, DENSE)
        assert torch.equal(group.prompts.points, DENSE.points[[0, 1, 0]])
        # Box 1 holds the peak and the trough of its phrase, box 2 only the second peak of its own.
        assert group.prompts.point_labels.tolist() == [[1, 1, 0], [1, -1, -1], [-1, 1, 0]]
        assert group.coarse_masks is None and group.prompts.text is None

    def test_with_clicks(self):
        prompts = prompt_boxes(DETECTIONS, clicks((2, 3), (60, 50), labels=[1, 0])).prompts
        assert prompts.point_labels.tolist() == [[-1], [1], [-1]]  # the smallest box has it

    def test_with_clicks_and_dense_points(self):
        prompts = prompt_boxes(DETECTIONS, clicks((2, 3)), DENSE).prompts
        assert prompts.point_labels.tolist() == [[1, 1, 0, -1], [1, -1, -1, 1], [-1, 1, 0, -1]]
        assert prompts.points[1, 3].tolist() == [2, 3]

    @pytest.mark.parametrize("text", [None, TEXT, DENSE], ids=["boxes", "adapter", "dense"])
    def test_none(self, text):
        group = prompt_boxes(Detections.empty(2), NO_CLICKS, text)
        assert len(group) == len(group.prompts) == 0

    @pytest.mark.parametrize("text", [TEXT[:1], torch.zeros(3, 3)], ids=["too few", "too many"])
    def test_text_of_other_phrases(self, text: torch.Tensor):
        with pytest.raises(PromptError, match=f"one row per phrase, 2, got {len(text)}"):
            prompt_boxes(DETECTIONS, NO_CLICKS, text)


class TestPhrases:
    def test_embeddings(self):
        group = prompt_phrases(TEXT, [4, 1])
        assert torch.equal(group.prompts.text, TEXT[:, None])
        assert group.prompts.boxes is None
        assert group.source == "text" and group.phrase_ids.tolist() == [4, 1]

    def test_dense(self):
        group = prompt_phrases(DENSE, range(2))
        assert torch.equal(group.prompts.points, DENSE.points)
        assert torch.equal(group.prompts.point_labels, DENSE.labels)
        assert torch.equal(group.coarse_masks, DENSE.logits)
        assert group.prompts.boxes is None and group.prompts.text is None

    @pytest.mark.parametrize("text", [TEXT, DENSE], ids=["adapter", "dense"])
    def test_of_other_phrases(self, text):
        with pytest.raises(PromptError, match="one row per phrase, 3, got 2"):
            prompt_phrases(text, range(3))


class TestStrayClicks:
    @pytest.mark.parametrize("detections", [None, Detections.empty(2), DETECTIONS], ids=["text mode", "empty", "some"])
    def test_each_is_a_prompt(self, detections: Detections | None):
        group = prompt_stray_clicks(detections, clicks((60, 50), (40, 50), (50, 50), labels=[1, 0, 1]), ("a",), False)
        assert group.prompts.points.tolist() == [[[60, 50]], [[50, 50]]]
        assert group.prompts.point_labels.tolist() == [[1], [1]]
        assert group.source == "point" and group.phrase_ids.tolist() == [0, 0] and group.multimask_output

    def test_clicks_in_a_box_are_none(self):
        assert len(prompt_stray_clicks(DETECTIONS, clicks((2, 3)), ("a", "b"), False)) == 0

    def test_of_several_phrases_something_must_choose(self):
        assert len(prompt_stray_clicks(DETECTIONS, clicks((60, 50)), ("a", "b"), True)) == 1
        with pytest.raises(PromptError, match=r"the point \[60.0, 50.0\] lies in no detection and may mean any of 2"):
            prompt_stray_clicks(DETECTIONS, clicks((60, 50)), ("a", "b"), False)


BOXES = np.array([[0, 0, 40, 40], [10, 10, 20, 20], [30, 30, 60, 45]], np.float32)


@pytest.mark.parametrize(
    ("points", "labels", "expected", "stray"),
    [
        ([[15, 15]], [1], [[], [([15, 15], 1)], []], []),
        ([[15, 15]], [0], [[([15, 15], 0)], [([15, 15], 0)], []], []),
        ([[35, 35]], [1], [[], [], [([35, 35], 1)]], []),
        ([[62, 2]], [1], [[], [], []], [0]),
        ([[62, 2]], [0], [[], [], []], []),
        (
            [[62, 2], [2, 2], [50, 40], [5, 5], [35, 32]],
            [1, 1, 1, 0, 0],
            [[([2, 2], 1), ([5, 5], 0), ([35, 32], 0)], [], [([50, 40], 1), ([35, 32], 0)]],
            [0],
        ),
        ([], [], [[], [], []], []),
    ],
    ids=["smallest box", "every box", "overlap", "stray", "background beside all", "several", "none"],
)
def test_assigned_points(points, labels, expected, stray):
    points, labels = np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64)
    shared, kinds, outside = assign_points(BOXES, points, labels)
    assert outside == stray
    most = max(len(own) for own in expected)
    assert shared.shape == (3, most, 2) and kinds.shape == (3, most)
    for row, row_kinds, own in zip(shared, kinds, expected, strict=True):
        assert row_kinds.tolist() == [kind for _, kind in own] + [-1] * (most - len(own))
        assert row[: len(own)].tolist() == [point for point, _ in own]


def test_no_boxes():
    shared, kinds, stray = assign_points(np.zeros((0, 4), np.float32), np.ones((2, 2), np.float32), np.array([1, 0]))
    assert shared.shape == (0, 0, 2) and kinds.shape == (0, 0) and stray == [0]


def test_equal_boxes_share_no_foreground():
    _, kinds, _ = assign_points(BOXES[[1, 1]], np.array([[12, 12]], np.float32), np.array([1]))
    assert kinds.tolist() == [[1], [-1]]
