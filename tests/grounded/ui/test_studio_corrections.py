"""Corrections of the app on the example: presses, strokes, names, and the way back."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.ui.session import Click, Session
from grounded.ui.studio import TOOLS, Studio
from tests.data import PICNIC, disk, picnic_truth
from tests.grounded.counting import counted

DOG, EDGE, CORNER = (470.0, 270.0), (400.0, 330.0), (2.0, 2.0)
SIZE = (480, 640)
GRID: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


def entries(session: Session) -> list[dict[str, Any]]:
    return session.instances.to_dict()["instances"]


def ious(instances: Instances, mask: np.ndarray) -> list[float]:
    return [float((one & mask).sum() / (one | mask).sum()) for one in instances.masks]


class TestSelect:
    def test_by_a_press(self, studio: Studio, found: Session):
        after = studio.press(found, "select", *DOG)
        assert after.work is not None
        assert after.work.selected == found.instances.labels.tolist().index("dog")
        assert after.instances is found.instances
        assert after.history == found.history  # nothing to undo
        assert studio.press(after, "select", *CORNER).work.selected is None

    @pytest.mark.parametrize("index", [0, 1, None])
    def test_by_its_number(self, studio: Studio, found: Session, index: int | None):
        assert studio.select(found, index).work.selected == index

    @pytest.mark.parametrize("index", [2, -1])
    def test_no_such_instance(self, studio: Studio, found: Session, index: int):
        with pytest.raises(PromptError, match=f"there are 2 instances, got number {index + 1}"):
            studio.select(found, index)

    def test_before_anything_was_asked(self, studio: Studio):
        session = studio.open(PICNIC)
        assert studio.press(session, "select", *DOG) is session
        with pytest.raises(PromptError, match="there are 0 instances"):
            studio.select(session, 0)

    def test_clicks_are_done_with(self, studio: Studio, selected: Session):
        clicked = studio.press(selected, "remove point", *EDGE)
        again = studio.press(clicked, "select", *DOG)
        assert clicked.work.clicks
        assert (again.work.clicks, again.work.strokes, again.work.before) == ((), (None, None), None)


class TestClick:
    def test_the_mask_changes_and_nothing_else(self, studio: Studio, selected: Session):
        with counted(studio.pipeline) as calls:
            after = studio.press(selected, "remove point", *EDGE)
        assert set(calls) == {"decode", "score"}
        assert "encode" not in after.seconds
        index = selected.work.selected
        assert after.work.selected == index
        assert after.work.clicks == (Click(*EDGE, foreground=False),)
        old, new = entries(selected), entries(after)
        assert new[index]["mask"] != old[index]["mask"]
        assert new[index]["phrase"] == "dog"
        assert new[1 - index] == old[1 - index]

    def test_all_clicks_count_together(self, studio: Studio, selected: Session):
        after = studio.press(studio.press(selected, "remove point", *EDGE), "add point", *DOG)
        expected = studio.pipeline.refine(PICNIC, selected.instances, selected.work.selected, [EDGE, DOG], [0, 1])
        assert after.instances.to_dict() == expected.to_dict()
        assert after.work.clicks == (Click(*EDGE, foreground=False), Click(*DOG, foreground=True))

    @pytest.mark.parametrize("tool", ["add point", "remove point"])
    def test_without_a_selection(self, studio: Studio, found: Session, tool: Any):
        with pytest.raises(PromptError, match="no instance is selected"):
            studio.press(found, tool, *DOG)


class TestStroke:
    @pytest.mark.parametrize("painted", [True, False], ids=["brush", "eraser"])
    def test_what_is_painted_holds(self, studio: Studio, selected: Session, painted: bool):
        stroke = disk(*SIZE, *(CORNER if painted else DOG), 40)
        core = disk(*SIZE, *(CORNER if painted else DOG), 30)
        with counted(studio.pipeline) as calls:
            after = studio.stroke(selected, *((stroke, None) if painted else (None, stroke)))
        assert "encode" not in calls
        index = selected.work.selected
        assert after.work.selected == index
        mask = after.instances.masks[index]
        assert mask[core].all() if painted else not mask[core].any()
        assert entries(after)[1 - index] == entries(selected)[1 - index]

    def test_it_counts_together_with_clicks(self, studio: Studio, selected: Session):
        stroke, core = disk(*SIZE, *CORNER, 40), disk(*SIZE, *CORNER, 30)
        index = selected.work.selected
        first = studio.stroke(studio.press(selected, "remove point", *EDGE), stroke, None)
        after = studio.press(first, "add point", *DOG)
        expected = studio.pipeline.refine(PICNIC, selected.instances, index, [EDGE, DOG], [0, 1], brush=stroke)
        assert after.instances.to_dict() == expected.to_dict()
        assert after.instances.masks[index][core].all()
        assert len(after.work.clicks) == 2

    def test_the_later_stroke_counts(self, studio: Studio, selected: Session):
        index, wide, inner = selected.work.selected, disk(*SIZE, *DOG, 60), disk(*SIZE, *DOG, 40)
        erased = studio.stroke(selected, None, wide)
        painted = studio.stroke(erased, inner, None)
        ring = disk(*SIZE, *DOG, 55) & ~disk(*SIZE, *DOG, 45)
        assert not erased.instances.masks[index][wide & disk(*SIZE, *DOG, 55)].any()
        assert painted.instances.masks[index][disk(*SIZE, *DOG, 35)].all()
        assert not painted.instances.masks[index][ring].any()
        again = studio.stroke(painted, inner, inner)  # both at once
        assert not again.instances.masks[index][disk(*SIZE, *DOG, 55)].any()

    @pytest.mark.parametrize("stroke", [None, np.zeros(SIZE, bool)], ids=["none", "blank"])
    def test_nothing_painted(self, studio: Studio, selected: Session, stroke: np.ndarray | None):
        with pytest.raises(PromptError, match="nothing was painted"):
            studio.stroke(selected, stroke, stroke)

    def test_wrong_size(self, studio: Studio, selected: Session):
        with pytest.raises(PromptError, match=r"brush must be \(480, 640\), got \(3, 3\)"):
            studio.stroke(selected, np.ones((3, 3), bool), None)

    def test_without_a_selection(self, studio: Studio, found: Session):
        with pytest.raises(PromptError, match="no instance is selected"):
            studio.stroke(found, np.ones(SIZE, bool), None)


class TestNew:
    def test_by_a_click(self, studio: Studio, found: Session):
        with counted(studio.pipeline) as calls:
            after = studio.press(found, "new by click", *DOG, phrase="hound")
        assert set(calls) == {"decode"}
        assert after.instances.phrases == ("dog", "pizza", "hound")
        assert after.instances.labels.tolist() == [*found.instances.labels.tolist(), "hound"]
        assert after.work.selected == 2
        assert after.instances.sources.tolist()[-1] == "point"
        assert len(after.work.alternatives) == 3
        assert max(ious(after.work.alternatives, picnic_truth()["dog"][0])) > 0.6
        assert entries(after)[2]["mask"] == after.work.alternatives.rles[0]

    def test_by_a_box(self, studio: Studio, found: Session):
        half = studio.press(found, "new by box", 575.0, 350.0, phrase="hound")
        assert half.work.corner == (575.0, 350.0)
        assert half.instances is found.instances
        after = studio.press(half, "new by box", 380.0, 190.0, phrase="Dog")
        assert after.work.corner is None
        assert after.instances.phrases == ("dog", "pizza")
        assert after.instances.labels.tolist()[-1] == "dog"
        assert after.instances.sources.tolist()[-1] == "box"
        assert after.work.alternatives is None
        assert ious(after.instances[2], picnic_truth()["dog"][0])[0] > 0.6

    def test_as_the_first_thing(self, studio: Studio):
        session = studio.open(PICNIC)
        clicked = studio.press(session, "new by click", *DOG, phrase="hound")
        assert clicked.instances.labels.tolist() == ["hound"]
        assert "encode" in clicked.seconds
        assert studio.undo(clicked).work is None
        half = studio.press(session, "new by box", 380.0, 190.0)
        boxed = studio.press(half, "new by box", 575.0, 350.0, phrase="hound")
        assert boxed.instances.labels.tolist() == ["hound"]
        assert len(studio.undo(boxed).instances) == 0

    @pytest.mark.parametrize("tool", ["new by click", "new by box"])
    def test_a_phrase_is_needed(self, studio: Studio, found: Session, tool: Any):
        session = studio.press(found, tool, 380.0, 190.0) if tool == "new by box" else found
        with pytest.raises(PromptError, match="holds no phrase"):
            studio.press(session, tool, 575.0, 350.0)

    def test_a_box_without_area(self, studio: Studio, found: Session):
        half = studio.press(found, "new by box", *DOG)
        with pytest.raises(PromptError, match="x0 < x1"):
            studio.press(half, "new by box", *DOG, phrase="hound")
        assert len(studio.press(half, "new by box", *EDGE, phrase="hound").instances) == 3  # the corner still counts

    def test_half_a_box_is_undone(self, studio: Studio, found: Session):
        half = studio.press(found, "new by box", *DOG)
        back = studio.undo(half)
        assert back.work.corner is None
        assert back.instances is found.instances
        assert back.history == found.history
        assert studio.press(half, "select", *CORNER).work.corner is None


class TestChoose:
    @pytest.fixture
    def shown(self, studio: Studio, found: Session) -> Session:
        return studio.press(found, "new by click", *DOG, phrase="hound")

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_another_mask(self, studio: Studio, shown: Session, number: int):
        after = studio.choose(shown, number)
        assert after.instances.labels.tolist() == shown.instances.labels.tolist()
        assert after.instances.rles == (*shown.instances.rles[:2], shown.work.alternatives.rles[number])
        assert after.work.selected == 2
        assert after.work.alternatives is shown.work.alternatives
        assert studio.choose(after, 0).instances.to_dict() == shown.instances.to_dict()

    @pytest.mark.parametrize("number", [3, -1])
    def test_not_so_many(self, studio: Studio, shown: Session, number: int):
        with pytest.raises(PromptError, match=f"there are 3 alternatives .*, got number {number + 1}"):
            studio.choose(shown, number)

    def test_a_correction_settles_it(self, studio: Studio, shown: Session):
        corrected = studio.press(shown, "add point", *DOG)
        with pytest.raises(PromptError, match="there are 0 alternatives"):
            studio.choose(corrected, 0)

    def test_without_a_selection(self, studio: Studio, found: Session):
        with pytest.raises(PromptError, match="no instance is selected"):
            studio.choose(found, 0)


class TestRelabelMergeDelete:
    def test_relabel(self, studio: Studio, selected: Session):
        after = studio.relabel(selected, "hound")
        expected = ["hound" if label == "dog" else label for label in selected.instances.labels.tolist()]
        assert after.instances.labels.tolist() == expected
        assert after.work.selected == selected.work.selected

    @pytest.mark.parametrize("first", [0, 1])
    def test_merge(self, studio: Studio, found: Session, first: int):
        after = studio.merge(studio.select(found, first), 1 - first)
        assert after.instances.labels.tolist() == [found.instances.labels.tolist()[first]]
        assert after.work.selected == 0
        np.testing.assert_array_equal(after.instances.masks[0], found.instances.masks.any(axis=0))

    @pytest.mark.parametrize(("first", "other", "place"), [(0, 2, 0), (2, 0, 1), (1, 2, 1), (2, 1, 1)])
    def test_the_merged_one_stays_selected(self, studio: Studio, found: Session, first: int, other: int, place: int):
        three = studio.press(found, "new by click", *EDGE, phrase="hound")
        after = studio.merge(studio.select(three, first), other)
        assert after.work.selected == place
        assert after.instances.labels.tolist()[place] == three.instances.labels.tolist()[first]
        assert len(after.instances) == 2

    @pytest.mark.parametrize("other", ["itself", 2, -1])
    def test_nothing_to_merge_with(self, studio: Studio, selected: Session, other: int | str):
        with pytest.raises(PromptError, match="choose an instance other than the selected one"):
            studio.merge(selected, selected.work.selected if other == "itself" else other)

    def test_delete(self, studio: Studio, selected: Session):
        after = studio.delete(selected)
        assert after.instances.labels.tolist() == ["pizza"]
        assert after.instances.phrases == ("dog", "pizza")
        assert after.work.selected is None
        last = studio.delete(studio.select(after, 0))
        assert len(last.instances) == 0
        assert last.instances.image_size == SIZE

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(lambda studio, session: studio.relabel(session, "hound"), id="relabel"),
            pytest.param(lambda studio, session: studio.merge(session, 1), id="merge"),
            pytest.param(lambda studio, session: studio.delete(session), id="delete"),
        ],
    )
    def test_without_a_selection(self, studio: Studio, found: Session, event: Callable):
        with pytest.raises(PromptError, match="no instance is selected"):
            event(studio, found)

    def test_relabel_without_a_phrase(self, studio: Studio, selected: Session):
        with pytest.raises(PromptError, match="holds no phrase"):
            studio.relabel(selected, " ")


class TestUndo:
    def test_goes_back_through_every_kind_of_step(self, studio: Studio):
        steps: list[Callable[[Session], Session]] = [
            lambda session: studio.segment(session, "dog. pizza"),
            lambda session: studio.press(studio.select(session, 0), "remove point", *EDGE),
            lambda session: studio.press(session, "add point", *DOG),
            lambda session: studio.stroke(session, None, disk(*SIZE, *EDGE, 20)),
            lambda session: studio.press(session, "new by click", *DOG, phrase="hound"),
            lambda session: studio.choose(session, 1),
            lambda session: studio.relabel(session, "whelp"),
            lambda session: studio.merge(session, 1),
            lambda session: studio.delete(session),
            lambda session: studio.everything(session, **GRID),
        ]
        sessions = [studio.open(PICNIC)]
        for step in steps:
            sessions.append(step(sessions[-1]))
        states = [session.instances.to_dict() for session in sessions]
        assert all(one != other for one, other in pairwise(states))
        back = sessions[-1]
        for session, state in zip(reversed(sessions[1:-1]), reversed(states[1:-1]), strict=True):
            back = studio.undo(back)
            assert back.instances.to_dict() == state == session.instances.to_dict()
            if session is not sessions[1]:  # there the instance was selected after the step
                assert back.work is session.work
        back = studio.undo(back)
        assert (back.work, back.history) == (None, ())
        assert studio.undo(back) is back

    def test_a_step_can_be_taken_again(self, studio: Studio, selected: Session):
        clicked = studio.press(selected, "remove point", *EDGE)
        again = studio.press(studio.undo(clicked), "remove point", *EDGE)
        assert again.instances.to_dict() == clicked.instances.to_dict()
        assert again.work.clicks == clicked.work.clicks


class TestPress:
    @pytest.mark.parametrize("tool", TOOLS)
    def test_without_a_picture(self, studio: Studio, tool: Any):
        session = Session()
        with pytest.raises(PromptError, match="there is no picture yet"):
            studio.press(session, tool, 1.0, 1.0, "dog")

    @pytest.mark.parametrize("tool", TOOLS)
    @pytest.mark.parametrize("place", [(-1.0, 5.0), (641.0, 5.0), (5.0, 481.0)], ids=str)
    def test_outside_the_picture(self, studio: Studio, selected: Session, tool: Any, place: tuple[float, float]):
        with pytest.raises(PromptError, match="must lie in the picture of 640 x 480 pixels"):
            studio.press(selected, tool, *place, phrase="dog")

    @pytest.mark.parametrize("tool", TOOLS)
    def test_at_the_far_corner(self, studio: Studio, selected: Session, tool: Any):
        after = studio.press(selected, tool, 640.0, 480.0, phrase="dog")
        if tool.endswith("point"):
            assert [(click.x, click.y) for click in after.work.clicks] == [(640.0, 480.0)]
        elif tool == "new by box":
            assert after.work.corner == (640.0, 480.0)
        else:
            assert after.work.selected in (None, len(selected.instances))  # nothing is there, or now there is

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(lambda studio, session: studio.segment(session, "dog"), id="segment"),
            pytest.param(lambda studio, session: studio.everything(session), id="everything"),
        ],
    )
    def test_other_events_without_a_picture(self, studio: Studio, event: Callable):
        session = Session()
        with pytest.raises(PromptError, match="there is no picture yet"):
            event(studio, session)
        assert session.cache._answers == {}  # an initial session may be common to all users
