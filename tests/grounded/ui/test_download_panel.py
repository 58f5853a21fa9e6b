import json
import zipfile
from pathlib import Path

import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from grounded.errors import PromptError
from grounded.ui.download_panel import KINDS, written
from grounded.ui.page import Page
from grounded.ui.studio import Studio
from tests.data import PICNIC


@pytest.fixture(scope="module")
def page(studio: Studio) -> Page:
    return Page(studio.segment(studio.open(PICNIC), "a dog. pizza"))


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return Path(get_upload_folder())


def phrases(path: str, kind: str) -> set[str]:
    """What a file is about."""
    if kind in ("cutouts", "masks"):
        with zipfile.ZipFile(path) as archive:
            return {Path(name).stem.split("-", 1)[1] for name in archive.namelist()}
    if kind == "coco":
        data = json.loads(Path(path).read_text())
        names = {category["id"]: category["name"] for category in data["categories"]}
        return {names[one["category_id"]].replace(" ", "-") for one in data["annotations"]}
    if kind == "labelme":
        return {shape["label"].replace(" ", "-") for shape in json.loads(Path(path).read_text())["shapes"]}
    with Image.open(path) as picture:
        assert picture.size == (640, 480)
    return set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_what_is_shown(page: Page, uploads: Path, kind: str):
    path = written(page, kind)
    assert uploads in Path(path).parents and Path(path).name.startswith("picnic")
    assert phrases(path, kind) == (set() if kind == "overlay" else {"a-dog", "pizza"})
    hidden = Page(page.session, hidden=frozenset({"pizza"}))
    assert phrases(written(hidden, kind), kind) == (set() if kind == "overlay" else {"a-dog"})
    assert written(page, kind) != path  # two users may have pictures of one name


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_take_away(page: Page, kind: str):
    for empty in (Page(), Page(page.session, hidden=frozenset({"a dog", "pizza"}))):
        with pytest.raises(PromptError, match="nothing to download"):
            written(empty, kind)
