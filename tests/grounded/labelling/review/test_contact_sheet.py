import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from grounded.errors import OutputError, ResultError
from grounded.labelling.review import log
from grounded.labelling.review.contact_sheet import write_contact_sheet
from grounded.labelling.sources import open_source
from tests.grounded.labelling.reviewed import make_review, record, write_run


def names(page: str) -> list[str]:
    return re.findall(r"<strong>(.*?)</strong>", page)


def images(page: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]


@pytest.mark.parametrize(
    ("limit", "expected", "title"),
    [
        pytest.param(10, ["picnic.png", "street.png", "shelf.png", "more/nothing.png"], "<p>4 images,", id="all"),
        pytest.param(2, ["picnic.png", "street.png"], "<p>2 of 4 images,", id="the worst two"),
    ],
)
def test_a_sheet(limit: int, expected: list[str], title: str, run: Path, tmp_path: Path):
    path = tmp_path / "sheets" / "sheet.html"
    assert write_contact_sheet(run, open_source(run.parent / "images"), path, limit) == len(expected)
    page = path.read_text()
    assert names(page) == expected and title in page
    assert [image.size for image in images(page)] == [(320, 240)] * len(expected)
    assert "<span>1 dog, lowest 0.90</span>" in page
    assert "src=" not in re.sub(r'src="data:image/jpeg;base64,[^"]*"', "", page) and "http" not in page


def test_corrections_are_shown(run: Path, tmp_path: Path):
    log.append_reviews(
        run, make_review("reject", 0, "picnic.png"), make_review("relabel", 1, "picnic.png", phrase="pie & <3")
    )
    write_contact_sheet(run, None, tmp_path / "sheet.html", 1)
    page = re.sub(r'base64,[^"]*', "", (tmp_path / "sheet.html").read_text())  # in which any letters may be
    assert "dog" not in page and "pie &amp; &lt;3" in page and "<3" not in page
    assert "2 instances reviewed in 1 images, 1 rejected" in page


def test_an_empty_run(tmp_path: Path):
    assert write_contact_sheet(write_run(tmp_path / "run"), None, tmp_path / "sheet.html") == 0
    assert "<p>0 images," in (tmp_path / "sheet.html").read_text()


def test_names_are_text(tmp_path: Path):
    folder = write_run(tmp_path / "run", record("<script>alert(1)</script>.png"))
    write_contact_sheet(folder, None, tmp_path / "sheet.html")
    assert "<script" not in (tmp_path / "sheet.html").read_text()


def test_wrong_places(run: Path, tmp_path: Path):
    with pytest.raises(OutputError, match="it is a folder"):
        write_contact_sheet(run, None, tmp_path)
    with pytest.raises(ResultError, match="no such folder"):
        write_contact_sheet(tmp_path / "none", None, tmp_path / "sheet.html")
