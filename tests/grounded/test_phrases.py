import pytest

from grounded.errors import PromptError
from grounded.phrases import parse
from tests.data import unchecked


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        pytest.param("dog", ("dog",), id="one"),
        pytest.param("a cat. the red mug", ("a cat", "the red mug"), id="full stop"),
        pytest.param("a cat.the red mug.", ("a cat", "the red mug"), id="no space, final stop"),
        pytest.param("cat, dog; bird", ("cat", "dog", "bird"), id="comma and semicolon"),
        pytest.param("cat\ndog\r\nbird\u2028fish", ("cat", "dog", "bird", "fish"), id="line ends"),
        pytest.param("  a   red\t mug ", ("a red mug",), id="white space"),
        pytest.param("a 3.5 inch disk. 1,000 coins", ("a 3.5 inch disk", "1,000 coins"), id="between digits"),
        pytest.param("size 5. 3 dogs", ("size 5", "3 dogs"), id="digits around a stop and a space"),
        pytest.param("type 2.dog", ("type 2", "dog"), id="a digit on one side"),
        pytest.param("dog, cat, dog", ("dog", "cat"), id="duplicates"),
        pytest.param("Dog. dog. DOG", ("Dog",), id="duplicates but for case"),
        pytest.param("dog.. , ;cat", ("dog", "cat"), id="empty ones"),
        pytest.param("dog. ?! . - ", ("dog",), id="punctuation only"),
        pytest.param("the dog's ball, hot-dog", ("the dog's ball", "hot-dog"), id="punctuation inside a phrase"),
        pytest.param("猫. Straße", ("猫", "Straße"), id="other scripts"),
        pytest.param(
            ["a cat. with a hat", "dog, small"], ("a cat. with a hat", "dog, small"), id="sequence is not split"
        ),
        pytest.param((" a \n cat ", "", "dog"), ("a cat", "dog"), id="sequence is cleaned"),
        pytest.param(["cat", "cat"], ("cat",), id="duplicates in a sequence"),
    ],
)
def test_parse(text: str | list[str], phrases: tuple[str, ...]):
    assert parse(text) == phrases
    assert parse(phrases) == phrases  # what came out goes in again


@pytest.mark.parametrize("text", ["", " \n", ".,;", "?", [], [""], [" ", "."]], ids=repr)
def test_nothing_left(text: str | list[str]):
    with pytest.raises(PromptError, match="holds no phrase"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "got NoneType", id="none"),
        pytest.param(b"dog", "got bytes", id="bytes"),
        pytest.param({"dog": 1}, "got dict", id="mapping"),
        pytest.param(["dog", 3], "got int at position 1", id="number in a sequence"),
    ],
)
def test_wrong_type(text: object, message: str):
    with pytest.raises(PromptError, match=message):
        unchecked(parse)(text)
