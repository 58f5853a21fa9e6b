import copy
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.ui.session import Click, Session, Work
from tests.grounded.conftest import picture

SIZE = (60, 80)


def work(phrase: str) -> Work:
    return Work(Instances.empty((phrase,), SIZE))


def test_without_a_picture():
    with pytest.raises(PromptError, match="there is no picture yet: upload one, or pick an example"):
        _ = Session().opened
    assert len(Session().instances) == 0


def test_with_a_picture():
    source = SourceImage(picture())
    session = Session(picture=source)
    assert session.opened is source
    assert len(session.instances) == 0
    assert session.instances.image_size == SIZE
    assert session.to(work("a dog")).instances.phrases == ("a dog",)


def test_a_step_leaves_the_session_as_it_was():
    session = Session(picture=SourceImage(picture()))
    first, second = work("a dog"), work("pizza")
    after = session.to(first).to(second)
    assert (session.work, session.history) == (None, ())
    assert after.work is second
    assert after.history == (None, first)
    assert after.kept is session.cache
    with pytest.raises(FrozenInstanceError):
        after.work = first


def test_the_latest_steps_can_be_undone():
    session, steps = Session(), [work(str(i)) for i in range(40)]
    for step in steps:
        session = session.to(step)
    assert session.history == tuple(steps[-31:-1])


def test_times_are_of_the_last_event_and_stages_of_all():
    before = Session()
    first = before.timed({"detect": 1.0, "encode": 2.0})
    second = first.timed({"decode": 0.5})
    assert before.seconds == {}
    assert first.seconds == {"detect": 1.0, "encode": 2.0}
    assert second.seconds == {"decode": 0.5}
    assert second.ran == {"detect", "encode", "decode"}


def test_times_are_copied():
    seconds = {"detect": 1.0}
    session = Session().timed(seconds)
    seconds["encode"] = 2.0
    assert session.seconds == {"detect": 1.0}


def test_a_copy_is_the_session_itself():
    session = Session(picture=SourceImage(picture())).to(
        Work(Instances.empty((), SIZE), clicks=(Click(1.0, 2.0, True),))
    )
    assert copy.deepcopy(session) is session
    assert copy.deepcopy([session, {"of": session}]) == [session, {"of": session}]


def test_every_session_keeps_its_own():
    one, other = Session(), Session()
    one.kept.answer("encode", None, lambda: np.zeros(1))
    assert other.kept.answer("encode", None, lambda: None) is None
    assert one.seconds is not other.seconds
