from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from grounded.errors import ResultError
from grounded.labelling.formats.xml import read_elements, xml_element


def save(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_elements_are_whole_and_come_one_by_one(tmp_path: Path):
    path = save(tmp_path, '<r v="1"><x><a n="1">t &lt;<b>u</b> </a></x><a n="2"/><c><a n="3"><a n="4"/></a></c></r>')
    root, first, second, third = read_elements(path, ("a",))
    assert (root.tag, root.get("v"), len(root)) == ("r", "1", 0)
    assert (first.get("n"), first.text, first.findtext("b")) == ("1", "t <", "u")
    assert second.get("n") == "2" and [child.get("n") for child in third] == ["4"]


def test_a_file_larger_than_what_is_read_at_once(tmp_path: Path):
    elements = "".join(xml_element("a", "ü" * 1000, n=number) for number in range(200))
    found = list(read_elements(save(tmp_path, f"<r>{elements}</r>"), ("a",)))[1:]
    assert [element.get("n") for element in found] == [str(number) for number in range(200)]
    assert {element.text for element in found} == {"ü" * 1000}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1252"])
def test_encodings(encoding: str, tmp_path: Path):
    name = encoding.removesuffix("-sig")
    path = save(tmp_path, f'<?xml version="1.0" encoding="{name}"?><a>ü</a>'.encode(encoding))
    (root,) = read_elements(path, ("a",))
    assert root.text == "ü"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "a document type", id="entity"),
        pytest.param('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "a document type", id="file"),
        pytest.param("<a>&b;</a>", "is not XML: undefined entity", id="unknown entity"),
        pytest.param("<a>" * 51, "more than 50 elements in one another", id="deep"),
        pytest.param("<a><b></a>", "is not XML: mismatched tag", id="mismatched"),
        pytest.param("<a>\0</a>", "is not XML", id="zero byte"),
        pytest.param(b"<a>\xff</a>", "is not XML", id="no UTF-8"),
        pytest.param('<?xml version="1.0" encoding="nonsense"?><a/>', "cannot read|is not XML", id="encoding"),
        pytest.param("", "is not XML: no element found", id="empty"),
    ],
)
def test_what_is_refused(content: str | bytes, message: str, tmp_path: Path):
    with pytest.raises(ResultError, match=message):
        list(read_elements(save(tmp_path, content), ("a",)))
    with pytest.raises(ResultError, match="cannot read"):
        list(read_elements(tmp_path / "none.xml", ("a",)))


def test_what_is_written_is_read(tmp_path: Path):
    text = xml_element("a", xml_element("b", n='<"猫" & \x07>'), m="'")
    (root,) = read_elements(save(tmp_path, text), ("a",))
    assert ET.tostring(root) == ET.tostring(ET.fromstring(text))
