import pytest

from grounded.errors import ImageError, describe_error, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(ImageError("too\n  large"), "too large", id="raised on purpose"),
        pytest.param(ValueError("odd\n"), "ValueError: odd", id="unexpected"),
        pytest.param(MemoryError(), "MemoryError", id="without a message"),
        pytest.param(ValueError(" \n"), "ValueError", id="with an empty message"),
    ],
)
def test_errors_as_one_line(error: Exception, line: str):
    assert describe_error(error) == line


def test_messages_as_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError("a long\nmessage"), 6) == "a long"
    assert one_line(OSError(), 6) == "OSError"
    assert one_line(OSError("b\udcff.mp4 is no video")) == r"b\udcff.mp4 is no video"  # a name that is not UTF-8
