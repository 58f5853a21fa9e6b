import pytest

from grounded.data.phrases import parse, shortened
from grounded.errors import PromptError
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
        pytest.param(["cat", "", "dog"], ("cat", "dog"), id="blank entry in a sequence"),
        pytest.param("caf\u00e9. cafe\u0301", ("caf\u00e9",), id="duplicates but for composition"),
        pytest.param("红杯子。猫，狗；鸟、鱼．｡", ("红杯子", "猫", "狗", "鸟", "鱼"), id="Chinese and Japanese stops"),
        pytest.param("قطة، كلب؛ طائر۔", ("قطة", "كلب", "طائر"), id="Arabic stops"),
        pytest.param("बिल्ली। कुत्ता", ("बिल्ली", "कुत्ता"), id="danda"),
        pytest.param("１．５リットルの瓶、猫", ("１．５リットルの瓶", "猫"), id="between full-width digits"),
        pytest.param("red\u3000mug", ("red mug",), id="ideographic space"),
        pytest.param("a\0dog\x07\x1b[0m. cat\x7f", ("a dog [0m", "cat"), id="control characters"),
        pytest.param("\ufeffa d\u00adog", ("a dog",), id="byte order mark and soft hyphen"),
        pytest.param("\u200fכלב\u200e. \u2067קול\u2069", ("כלב", "קול"), id="direction marks"),
        pytest.param("red\u200bmug", ("red mug",), id="zero-width space"),
        pytest.param("👩\u200d🚀. 🐶", ("👩\u200d🚀", "🐶"), id="emoji"),
        pytest.param("dog\udcff. \ud800", ("dog",), id="halves of surrogate pairs"),
        pytest.param("a" * 10_000, ("a" * 10_000,), id="10,000 characters"),
        pytest.param(". ".join(f"dog {i}" for i in range(2000)), tuple(f"dog {i}" for i in range(2000)), id="2,000"),
        pytest.param([f"dog {i}" for i in range(2000)] * 2, tuple(f"dog {i}" for i in range(2000)), id="twice 2,000"),
    ],
)
def test_parse(text: str | list[str], phrases: tuple[str, ...]):
    assert parse(text) == phrases
    assert parse(phrases) == phrases  # what came out goes in again


@pytest.mark.parametrize(
    "text", ["", " \n", ".,;", "?", "。、", "\0\0", "\u200f", "\u0301", "\ud800", [], [""], [" ", "."]], ids=ascii
)
def test_nothing_left(text: str | list[str]):
    with pytest.raises(PromptError, match="holds no phrase"):
        parse(text)


def test_a_long_text_is_shortened_in_messages():
    with pytest.raises(PromptError, match="holds no phrase") as caught:
        parse("." * 10_000)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("a" * 8, "a" * 8), ("a" * 9, "aaaaaaa…"), ("aaaaaa bbb", "aaaaaa…")],
    ids=["empty", "fits", "cut", "cut at a space"],
)
def test_shortened(text: str, expected: str):
    assert shortened(text, 8) == expected


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
