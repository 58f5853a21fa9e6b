import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounded.data.phrases import listed, parse, shortened
from grounded.errors import PromptError
from tests.data import ROOT, unchecked

CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")


def documented() -> list[tuple[str, tuple[str, ...], tuple[str, ...] | None]]:
    """The rows of the tables in docs/phrases.md: a text, its phrases, and those of a list with the text."""
    rows = []
    for line in (ROOT / "docs" / "phrases.md").read_text(encoding="utf-8").splitlines():
        cells = [[code.strip() for _, code in CODE.findall(cell)] for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0]:
            (text,) = (code.replace(r"\|", "|").replace(r"\n", "\n").replace(r"\t", "\t") for code in cells[0])
            rows.append((text, tuple(cells[1]), tuple(cells[2]) if len(cells) > 2 else None))
    return rows


@pytest.mark.parametrize(("text", "phrases", "as_entry"), documented(), ids=lambda value: ascii(value)[:40])
def test_the_documentation_tells_what_a_text_becomes(
    text: str, phrases: tuple[str, ...], as_entry: tuple[str, ...] | None
):
    assert parse(text) == phrases
    assert as_entry is None or parse([text]) == as_entry


def test_the_documentation_has_tables():
    assert len(documented()) > 50


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        pytest.param("dog", ("dog",), id="one"),
        pytest.param("a cat. the red mug", ("a cat", "the red mug"), id="full stop"),
        pytest.param("a cat.the red mug.", ("a cat", "the red mug"), id="no space, final stop"),
        pytest.param("cat, dog; bird", ("cat", "dog", "bird"), id="comma and semicolon"),
        pytest.param("cat\ndog\r\nbird\u2028fish", ("cat", "dog", "bird", "fish"), id="line ends"),
        pytest.param("  a   red  mug ", ("a red mug",), id="white space"),
        pytest.param("\ta red\t mug\t", ("a red", "mug"), id="tabs"),
        pytest.param(["a red\t mug"], ("a red mug",), id="a tab in a sequence"),
        pytest.param('“a dog" and ‘a cat’', ('“a dog" and ‘a cat’',), id="quotes within"),
        pytest.param("'\"**(a dog)**\"'!", ("a dog",), id="wrapped again and again"),
        pytest.param("(a dog. small) cat", ("a dog", "small) cat"), id="bracket without partner"),
        pytest.param("(a < b) c", ("(a < b) c",), id="brackets of two kinds"),
        pytest.param("«dog» and «cat»", ("«dog» and «cat»",), id="two in quotation marks"),
        pytest.param('a pipe of 6". a 6" pipe', ('a pipe of 6"', 'a 6" pipe'), id="inches"),
        pytest.param("the dogs' bowl. the dogs'", ("the dogs' bowl", "the dogs"), id="plural"),
        pytest.param("col·lecció · gos", ("col·lecció", "gos"), id="middle dot"),
        pytest.param("a <b class='x'>red</b> dog<br/>cat", ("a red dog", "cat"), id="tags within"),
        pytest.param("a < b > c", ("a < b > c",), id="no tag"),
        pytest.param("salt &amp pepper", ("salt &amp pepper",), id="entity without tags"),
        pytest.param("<b>&#" + "9" * 5000 + "</b>", ("&#" + "9" * 5000,), id="entity of 5,000 digits"),
        pytest.param("[a dog](https://a.b/c) here", ("[a dog] here",), id="link within"),
        pytest.param("5*3 grid. __init__ file. a ~~red~~ dog", ("5*3 grid", "init file", "a red dog"), id="emphasis"),
        pytest.param(
            "🇩🇪 flag. ❤️ heart. 👍🏽 hand. 🏴󠁧󠁢󠁥󠁮󠁧󠁿 flag of England", ("flag", "heart", "hand", "flag of England"), id="emoji"
        ),
        pytest.param("❤️. 5️⃣. 🇩🇪", ("❤️", "5️⃣", "🇩🇪"), id="emoji alone"),
        pytest.param("dog🐶cat", ("dog cat",), id="emoji between words"),
        pytest.param("> a dog -. -5° sign. #5 jersey. #dog", ("a dog", "-5° sign", "#5 jersey", "dog"), id="markers"),
        pytest.param(
            ["Washington D.C.", "a dog.", "a cat..."], ("Washington D.C.", "a dog", "a cat"), id="final stops"
        ),
        pytest.param(
            ["dog | cat", "dog / cat", "• dog"], ("dog | cat", "dog / cat", "dog"), id="separators in a sequence"
        ),
        pytest.param("AC/DC/. N/A. a/b", ("AC/DC/", "N/A", "a/b"), id="slashes"),
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


# What the reading looks at, and what it uncovers by removing something else.
PIECES = st.sampled_from(
    [
        *"ab1é狗 \n\t.,;:?!'\"“”‘«»()[]{}<>/|\\*_`~#-–&•·「」®，🐶😀\x00\ufe0f\u200d\u200e\u20e3\ud800",
        *("<b>", "</b>", "<br>", "<a ", "&amp;", "&lt;", "&lrm;", "](#)", "1.", "1)", "[x]", "D.C.", "'s", "🇩🇪", "❤️"),
    ]
)
TEXTS = st.lists(PIECES | st.characters(), max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(TEXTS | st.lists(TEXTS, max_size=3))
def test_what_came_out_goes_in_again(text: str | list[str]):
    try:
        phrases = parse(text)
    except PromptError:
        return
    assert parse(phrases) == phrases
    assert parse(list(phrases)[:1]) == phrases[:1]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("(" * 10_000 + "dog" + ")" * 10_000, id="brackets"),
        pytest.param("([{<\"'" * 2_000 + "x", id="brackets and quotes without partner"),
        pytest.param("\"'" * 5_000 + "a", id="quotes"),
        pytest.param("*" * 10_000 + " x" + "_" * 10_000, id="emphasis"),
        pytest.param("<b " * 5_000 + "x", id="tags"),
        pytest.param("<a " + "=" * 10_000, id="attributes"),
        pytest.param("[" * 3_000 + "a" + "](#)" * 3_000, id="links"),
        pytest.param("!" * 10_000 + "x", id="marks"),
        pytest.param("<b>x" + "&amp;" * 5_000, id="entities"),
        pytest.param("🐶" * 10_000 + "x", id="emoji"),
        pytest.param(["-" * 10_000 + "x" + " - ?" * 3_000], id="dashes"),
        pytest.param(["(" * 5_000 + "a." + "b" * 10_000 + "."], id="stop"),
    ],
)
def test_time_is_linear(text: str | list[str]):
    start = time.perf_counter()
    parse(text)
    assert time.perf_counter() - start < 2  # a hundredth of it on an idle machine; quadratic would be a minute


def test_listed():
    assert listed(["a dog", "b" * 100]) == f"“a dog”, “{'b' * 59}…”"
    assert listed(["a", "b", "c"], limit=1) == "“a” and 2 more"


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
