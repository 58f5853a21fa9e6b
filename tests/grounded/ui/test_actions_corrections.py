"""Corrections of the app on the example: presses, strokes, names, and the way back."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.ui.actions import TOOLS, Actions
from grounded.ui.state import AppState, Click
from tests.data import PICNIC, disk, picnic_truth
from tests.grounded.counting import counted

DOG, EDGE, CORNER = (470.0, 270.0), (400.0, 330.0), (2.0, 2.0)
SIZE = (480, 640)
GRID: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


def entries(state: AppState) -> list[dict[str, Any]]:
    return state.instances.to_dict()["instances"]


def ious(instances: Instances, mask: np.ndarray) -> list[float]:
    return [float((one & mask).sum() / (one | mask).sum()) for one in instances.masks]


class TestSelect:
    def test_by_a_press(self, actions: Actions, found: AppState):
        after = actions.press(found, "select", *DOG)
        assert after.edits is not None
        assert after.edits.selected == found.instances.labels.tolist().index("dog")
        assert after.instances is found.instances
        assert after.history == found.history  # nothing to undo
        assert actions.press(after, "select", *CORNER).edits.selected is None

    @pytest.mark.parametrize("index", [0, 1, None])
    def test_by_its_number(self, actions: Actions, found: AppState, index: int | None):
        assert actions.select(found, index).edits.selected == index

    @pytest.mark.parametrize("index", [2, -1])
    def test_no_such_instance(self, actions: Actions, found: AppState, index: int):
        with pytest.raises(PromptError, match=f"there are 2 instances, got number {index + 1}"):
            actions.select(found, index)

    def test_before_anything_was_asked(self, actions: Actions):
        state = actions.open(PICNIC)
        assert actions.press(state, "select", *DOG) is state
        with pytest.raises(PromptError, match="there are 0 instances"):
            actions.select(state, 0)

    def test_clicks_are_done_with(self, actions: Actions, selected: AppState):
        clicked = actions.press(selected, "remove point", *EDGE)
        again = actions.press(clicked, "select", *DOG)
        assert clicked.edits.clicks
        assert (again.edits.clicks, again.edits.strokes, again.edits.uncorrected) == ((), (None, None), None)


class TestClick:
    def test_the_mask_changes_and_nothing_else(self, actions: Actions, selected: AppState):
        with counted(actions.pipeline) as calls:
            after = actions.press(selected, "remove point", *EDGE)
        assert set(calls) == {"decode", "score"}
        assert "encode" not in after.seconds
        index = selected.edits.selected
        assert after.edits.selected == index
        assert after.edits.clicks == (Click(*EDGE, foreground=False),)
        old, new = entries(selected), entries(after)
        assert new[index]["mask"] != old[index]["mask"]
        assert new[index]["phrase"] == "dog"
        assert new[1 - index] == old[1 - index]

    def test_all_clicks_count_together(self, actions: Actions, selected: AppState):
        after = actions.press(actions.press(selected, "remove point", *EDGE), "add point", *DOG)
        expected = actions.pipeline.refine(PICNIC, selected.instances, selected.edits.selected, [EDGE, DOG], [0, 1])
        assert after.instances.to_dict() == expected.to_dict()
        assert after.edits.clicks == (Click(*EDGE, foreground=False), Click(*DOG, foreground=True))

    @pytest.mark.parametrize("tool", ["add point", "remove point"])
    def test_without_a_selection(self, actions: Actions, found: AppState, tool: Any):
        with pytest.raises(PromptError, match="no instance is selected"):
            actions.press(found, tool, *DOG)


class TestStroke:
    @pytest.mark.parametrize("painted", [True, False], ids=["brush", "eraser"])
    def test_what_is_painted_holds(self, actions: Actions, selected: AppState, painted: bool):
        stroke = disk(*SIZE, *(CORNER if painted else DOG), 40)
        core = disk(*SIZE, *(CORNER if painted else DOG), 30)
        with counted(actions.pipeline) as calls:
            after = actions.stroke(selected, *((stroke, None) if painted else (None, stroke)))
        assert "encode" not in calls
        index = selected.edits.selected
        assert after.edits.selected == index
        mask = after.instances.masks[index]
        assert mask[core].all() if painted else not mask[core].any()
        assert entries(after)[1 - index] == entries(selected)[1 - index]

    def test_it_counts_together_with_clicks(self, actions: Actions, selected: AppState):
        stroke, core = disk(*SIZE, *CORNER, 40), disk(*SIZE, *CORNER, 30)
        index = selected.edits.selected
        first = actions.stroke(actions.press(selected, "remove point", *EDGE), stroke, None)
        after = actions.press(first, "add point", *DOG)
        expected = actions.pipeline.refine(PICNIC, selected.instances, index, [EDGE, DOG], [0, 1], brush=stroke)
        assert after.instances.to_dict() == expected.to_dict()
        assert after.instances.masks[index][core].all()
        assert len(after.edits.clicks) == 2

    def test_the_later_stroke_counts(self, actions: Actions, selected: AppState):
        index, wide, inner = selected.edits.selected, disk(*SIZE, *DOG, 60), disk(*SIZE, *DOG, 40)
        erased = actions.stroke(selected, None, wide)
        painted = actions.stroke(erased, inner, None)
        ring = disk(*SIZE, *DOG, 55) & ~disk(*SIZE, *DOG, 45)
        assert not erased.instances.masks[index][wide & disk(*SIZE, *DOG, 55)].any()
        assert painted.instances.masks[index][disk(*SIZE, *DOG, 35)].all()
        assert not painted.instances.masks[index][ring].any()
        again = actions.stroke(painted, inner, inner)  # both at once
        assert not again.instances.masks[index][disk(*SIZE, *DOG, 55)].any()

    @pytest.mark.parametrize("stroke", [None, np.zeros(SIZE, bool)], ids=["none", "blank"])
    def test_nothing_painted(self, actions: Actions, selected: AppState, stroke: np.ndarray | None):
        with pytest.raises(PromptError, match="nothing was painted"):
            actions.stroke(selected, stroke, stroke)

    def test_wrong_size(self, actions: Actions, selected: AppState):
        with pytest.raises(PromptError, match=r"brush must be \(480, 640\), got \(3, 3\)"):
            actions.stroke(selected, np.ones((3, 3), bool), None)

    def test_without_a_selection(self, actions: Actions, found: AppState):
        with pytest.raises(PromptError, match="no instance is selected"):
            actions.stroke(found, np.ones(SIZE, bool), None)


class TestNew:
    def test_by_a_click(self, actions: Actions, found: AppState):
        with counted(actions.pipeline) as calls:
            after = actions.press(found, "new by click", *DOG, phrase="hound")
        assert set(calls) == {"decode"}
        assert after.instances.phrases == ("dog", "pizza", "hound")
        assert after.instances.labels.tolist() == [*found.instances.labels.tolist(), "hound"]
        assert after.edits.selected == 2
        assert after.instances.sources.tolist()[-1] == "point"
        assert len(after.edits.alternatives) == 3
        assert max(ious(after.edits.alternatives, picnic_truth()["dog"][0])) > 0.6
        assert entries(after)[2]["mask"] == after.edits.alternatives.rles[0]

    def test_by_a_box(self, actions: Actions, found: AppState):
        half = actions.press(found, "new by box", 575.0, 350.0, phrase="hound")
        assert half.edits.corner == (575.0, 350.0)
        assert half.instances is found.instances
        after = actions.press(half, "new by box", 380.0, 190.0, phrase="Dog")
        assert after.edits.corner is None
        assert after.instances.phrases == ("dog", "pizza")
        assert after.instances.labels.tolist()[-1] == "dog"
        assert after.instances.sources.tolist()[-1] == "box"
        assert after.edits.alternatives is None
        assert ious(after.instances[2], picnic_truth()["dog"][0])[0] > 0.6

    def test_as_the_first_thing(self, actions: Actions):
        state = actions.open(PICNIC)
        clicked = actions.press(state, "new by click", *DOG, phrase="hound")
        assert clicked.instances.labels.tolist() == ["hound"]
        assert "encode" in clicked.seconds
        assert actions.undo(clicked).edits is None
        half = actions.press(state, "new by box", 380.0, 190.0)
        boxed = actions.press(half, "new by box", 575.0, 350.0, phrase="hound")
        assert boxed.instances.labels.tolist() == ["hound"]
        assert len(actions.undo(boxed).instances) == 0

    @pytest.mark.parametrize("tool", ["new by click", "new by box"])
    def test_a_phrase_is_needed(self, actions: Actions, found: AppState, tool: Any):
        state = actions.press(found, tool, 380.0, 190.0) if tool == "new by box" else found
        with pytest.raises(PromptError, match="holds no phrase"):
            actions.press(state, tool, 575.0, 350.0)

    def test_a_box_without_area(self, actions: Actions, found: AppState):
        half = actions.press(found, "new by box", *DOG)
        with pytest.raises(PromptError, match="x0 < x1"):
            actions.press(half, "new by box", *DOG, phrase="hound")
        assert len(actions.press(half, "new by box", *EDGE, phrase="hound").instances) == 3  # the corner still counts

    def test_half_a_box_is_undone(self, actions: Actions, found: AppState):
        half = actions.press(found, "new by box", *DOG)
        back = actions.undo(half)
        assert back.edits.corner is None
        assert back.instances is found.instances
        assert back.history == found.history
        assert actions.press(half, "select", *CORNER).edits.corner is None


class TestChoose:
    @pytest.fixture
    def shown(self, actions: Actions, found: AppState) -> AppState:
        return actions.press(found, "new by click", *DOG, phrase="hound")

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_another_mask(self, actions: Actions, shown: AppState, number: int):
        after = actions.choose(shown, number)
        assert after.instances.labels.tolist() == shown.instances.labels.tolist()
        assert after.instances.rles == (*shown.instances.rles[:2], shown.edits.alternatives.rles[number])
        assert after.edits.selected == 2
        assert after.edits.alternatives is shown.edits.alternatives
        assert actions.choose(after, 0).instances.to_dict() == shown.instances.to_dict()

    @pytest.mark.parametrize("number", [3, -1])
    def test_not_so_many(self, actions: Actions, shown: AppState, number: int):
        with pytest.raises(PromptError, match=f"there are 3 alternatives .*, got number {number + 1}"):
            actions.choose(shown, number)

    def test_a_correction_settles_it(self, actions: Actions, shown: AppState):
        corrected = actions.press(shown, "add point", *DOG)
        with pytest.raises(PromptError, match="there are 0 alternatives"):
            actions.choose(corrected, 0)

    def test_without_a_selection(self, actions: Actions, found: AppState):
        with pytest.raises(PromptError, match="no instance is selected"):
            actions.choose(found, 0)


class TestRelabelMergeDelete:
    def test_relabel(self, actions: Actions, selected: AppState):
        after = actions.relabel(selected, "hound")
        expected = ["hound" if label == "dog" else label for label in selected.instances.labels.tolist()]
        assert after.instances.labels.tolist() == expected
        assert after.edits.selected == selected.edits.selected

    @pytest.mark.parametrize("first", [0, 1])
    def test_merge(self, actions: Actions, found: AppState, first: int):
        after = actions.merge(actions.select(found, first), 1 - first)
        assert after.instances.labels.tolist() == [found.instances.labels.tolist()[first]]
        assert after.edits.selected == 0
        np.testing.assert_array_equal(after.instances.masks[0], found.instances.masks.any(axis=0))

    @pytest.mark.parametrize(("first", "other", "place"), [(0, 2, 0), (2, 0, 1), (1, 2, 1), (2, 1, 1)])
    def test_the_merged_one_stays_selected(self, actions: Actions, found: AppState, first: int, other: int, place: int):
        three = actions.press(found, "new by click", *EDGE, phrase="hound")
        after = actions.merge(actions.select(three, first), other)
        assert after.edits.selected == place
        assert after.instances.labels.tolist()[place] == three.instances.labels.tolist()[first]
        assert len(after.instances) == 2

    @pytest.mark.parametrize("other", ["itself", 2, -1])
    def test_nothing_to_merge_with(self, actions: Actions, selected: AppState, other: int | str):
        with pytest.raises(PromptError, match="choose an instance other than the selected one"):
            actions.merge(selected, selected.edits.selected if other == "itself" else other)

    def test_delete(self, actions: Actions, selected: AppState):
        after = actions.delete(selected)
        assert after.instances.labels.tolist() == ["pizza"]
        assert after.instances.phrases == ("dog", "pizza")
        assert after.edits.selected is None
        last = actions.delete(actions.select(after, 0))
        assert len(last.instances) == 0
        assert last.instances.image_size == SIZE

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(lambda actions, state: actions.relabel(state, "hound"), id="relabel"),
            pytest.param(lambda actions, state: actions.merge(state, 1), id="merge"),
            pytest.param(lambda actions, state: actions.delete(state), id="delete"),
        ],
    )
    def test_without_a_selection(self, actions: Actions, found: AppState, event: Callable):
        with pytest.raises(PromptError, match="no instance is selected"):
            event(actions, found)

    def test_relabel_without_a_phrase(self, actions: Actions, selected: AppState):
        with pytest.raises(PromptError, match="holds no phrase"):
            actions.relabel(selected, " ")


class TestUndo:
    def test_goes_back_through_every_kind_of_step(self, actions: Actions):
        steps: list[Callable[[AppState], AppState]] = [
            lambda state: actions.segment(state, "dog. pizza"),
            lambda state: actions.press(actions.select(state, 0), "remove point", *EDGE),
            lambda state: actions.press(state, "add point", *DOG),
            lambda state: actions.stroke(state, None, disk(*SIZE, *EDGE, 20)),
            lambda state: actions.press(state, "new by click", *DOG, phrase="hound"),
            lambda state: actions.choose(state, 1),
            lambda state: actions.relabel(state, "whelp"),
            lambda state: actions.merge(state, 1),
            lambda state: actions.delete(state),
            lambda state: actions.everything(state, **GRID),
        ]
        states = [actions.open(PICNIC)]
        for step in steps:
            states.append(step(states[-1]))
        contents = [state.instances.to_dict() for state in states]
        assert all(one != other for one, other in pairwise(contents))
        back = states[-1]
        for state, content in zip(reversed(states[1:-1]), reversed(contents[1:-1]), strict=True):
            back = actions.undo(back)
            assert back.instances.to_dict() == content == state.instances.to_dict()
            if state is not states[1]:  # there the instance was selected after the step
                assert back.edits is state.edits
        back = actions.undo(back)
        assert (back.edits, back.history) == (None, ())
        assert actions.undo(back) is back

    def test_a_step_can_be_taken_again(self, actions: Actions, selected: AppState):
        clicked = actions.press(selected, "remove point", *EDGE)
        again = actions.press(actions.undo(clicked), "remove point", *EDGE)
        assert again.instances.to_dict() == clicked.instances.to_dict()
        assert again.edits.clicks == clicked.edits.clicks


class TestPress:
    @pytest.mark.parametrize("tool", TOOLS)
    def test_without_an_image(self, actions: Actions, tool: Any):
        state = AppState()
        with pytest.raises(PromptError, match="there is no image yet"):
            actions.press(state, tool, 1.0, 1.0, "dog")

    @pytest.mark.parametrize("tool", TOOLS)
    @pytest.mark.parametrize("place", [(-1.0, 5.0), (641.0, 5.0), (5.0, 481.0)], ids=str)
    def test_outside_the_image(self, actions: Actions, selected: AppState, tool: Any, place: tuple[float, float]):
        with pytest.raises(PromptError, match=r"must lie in the .* of 640 x 480 pixels"):
            actions.press(selected, tool, *place, phrase="dog")

    @pytest.mark.parametrize("tool", TOOLS)
    def test_at_the_far_corner(self, actions: Actions, selected: AppState, tool: Any):
        after = actions.press(selected, tool, 640.0, 480.0, phrase="dog")
        if tool.endswith("point"):
            assert [(click.x, click.y) for click in after.edits.clicks] == [(640.0, 480.0)]
        elif tool == "new by box":
            assert after.edits.corner == (640.0, 480.0)
        else:
            assert after.edits.selected in (None, len(selected.instances))  # nothing is there, or now there is

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(lambda actions, state: actions.segment(state, "dog"), id="segment"),
            pytest.param(lambda actions, state: actions.everything(state), id="everything"),
        ],
    )
    def test_other_actions_without_an_image(self, actions: Actions, event: Callable):
        state = AppState()
        with pytest.raises(PromptError, match="there is no image yet"):
            event(actions, state)
        assert state.cache is None  # an initial state may be common to all users
