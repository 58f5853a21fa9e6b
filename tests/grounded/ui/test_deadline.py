import time

import pytest

from grounded.errors import GroundedError
from grounded.ui.deadline import Deadline, TimeLimitError


def test_no_stage_begins_after_the_end():
    watch = Deadline(0.3)
    with watch.stage("first"):
        time.sleep(0.4)  # one that has begun is let finish
    with pytest.raises(TimeLimitError, match=r"the time limit of 0\.3 s is reached"), watch.stage("second"):
        pytest.fail("the stage has begun")
    assert list(watch.seconds) == ["first"]


def test_laps_end_together_and_count_apart():
    watch = Deadline(60.0)
    with watch.stage("first"):
        pass
    lap = watch.lap()
    assert lap.seconds == {}
    with lap.stage("second"):
        pass
    assert list(watch.seconds) == ["first"] and list(lap.seconds) == ["second"]
    with pytest.raises(TimeLimitError):
        Deadline(0.0).lap().check()


def test_the_error_is_of_both_kinds():
    assert issubclass(TimeLimitError, GroundedError) and issubclass(TimeLimitError, TimeoutError)
