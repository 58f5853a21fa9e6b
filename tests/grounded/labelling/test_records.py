import json
import math

import pytest

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.records import ImageInfo, Record
from tests.grounded.labelling.standin import record

NAMES = ("a.png", 'folder/with "quotes".png', "žluťoučký 犬.png", "\\xff.png", "line\nfeed.png")


@pytest.mark.parametrize("name", NAMES)
def test_a_line_reads_back(name: str):
    written = record(name)
    line = written.to_line()
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert line.startswith(b'{"image":{"file":')
    read = Record.from_line(line)
    assert read.image == written.image
    assert read.to_dict() == written.to_dict()
    assert math.isnan(read.instances.clip_scores[0])


def test_an_empty_answer_reads_back():
    info = ImageInfo(file="a.png", width=4, height=3, orientation=6, notes=("animated",))
    read = Record.from_line(Record(image=info, instances=Instances.empty(("x",), (3, 4))).to_line())
    assert read.image == info
    assert len(read.instances) == 0 and read.instances.image_size == (3, 4)


def test_without_phrase_scores():
    line = record("a.png").to_line(phrase_scores=False)
    assert "phrase_scores" not in json.loads(line)["instances"][0]
    assert all(math.isnan(score) for score in Record.from_line(line).instances.phrase_scores[0])


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"image": {}}', b"not json", record("a.png").to_line()[:-30]])
def test_what_is_no_record_is_refused(damage: bytes):
    with pytest.raises(ResultError):
        Record.from_line(damage)


@pytest.mark.parametrize("key", ["file", "width", "height"])
def test_a_missing_key_is_named(key: str):
    data = record("a.png").to_dict()
    del data["image"][key]
    with pytest.raises(ResultError, match=key):
        Record.from_dict(data)
