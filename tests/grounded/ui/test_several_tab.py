import re
import zipfile
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from grounded.errors import ConfigError, ImageError, PromptError
from grounded.ui.serving import MODELS
from grounded.ui.several import Progress
from grounded.ui.several_tab import Shown, checked, notices, remove, run, several_tab, stopped
from grounded.ui.studio import Studio
from tests.data import PICNIC
from tests.grounded.conftest import picture

TEXT = "a dog. pizza"


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the server empties."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, Any]]:
    """A picture, a broken one, and one that is larger than the limit."""
    paths = [tmp_path / name for name in ("picnic.png", "<b>broken.png", "large.jpg")]
    paths[0].write_bytes(PICNIC.read_bytes())
    paths[1].write_bytes(PICNIC.read_bytes()[:3000])
    picture(30, 1400).save(paths[2])
    return [{"path": str(path)} for path in paths]


@pytest.fixture
def small(studio: Studio) -> Studio:
    """The same models, for pictures of up to 1300 pixels."""
    return replace(studio, limits=replace(studio.limits, max_side=1300))


def settings(studio: Studio, **changes: Any) -> tuple[Any, ...]:
    return astuple(studio.defaults.changed(**changes))


def text(html: str) -> str:
    return re.sub("<[^>]+>", "", html)


def given(steps: Iterator[Shown] | list[Shown], name: str) -> list[Any]:
    """What was told of one component, without steps that leave it."""
    values = [getattr(step, name) for step in steps]
    return [value for value in values if value != gr.skip()]


def test_a_run_shows_more_and_more_and_ends_with_a_zip(small: Studio, files: list[dict[str, Any]], uploads: Path):
    steps = list(run(small, "", files, TEXT, *settings(small)))
    assert [text(step.progress).partition(",")[0] for step in steps] == [
        "0 of 3 pictures",
        "1 of 3 pictures",
        "2 of 3 pictures",
        "Packing the ZIP",
        "Done: 2 of 3 pictures labelled.",
    ]
    gallery = given(steps, "gallery")
    assert [len(shown) for shown in gallery] == [0, 1, 1, 2]
    assert [caption for _, caption in gallery[-1]] == ["2 in picnic.png", "0 in large.jpg"]
    (folder,) = given(steps, "folder")
    assert Path(folder).parent == uploads
    hidden, shown = given(steps, "archive")
    assert (hidden["visible"], shown["visible"]) == (False, True)
    with zipfile.ZipFile(shown["value"]) as archive:
        assert {"annotations.json", "failures.txt", "overlays/picnic.png"} <= set(archive.namelist())
        assert "masks/picnic/000-a-dog.png" in archive.namelist()


def test_the_button_rests_while_a_run_goes_on(studio: Studio, files: list[dict[str, Any]]):
    steps = run(studio, "", files[:1], TEXT, *settings(studio))
    assert [update["interactive"] for update in given(steps, "start")] == [False, True]


def test_failures_and_notes_are_told_as_text(small: Studio, files: list[dict[str, Any]]):
    told = given(run(small, "", files, TEXT, *settings(small)), "notices")
    assert told[:2] == ["", ""]
    assert "<b>" not in told[-1] and "&lt;b&gt;broken.png" in told[-1]
    assert "failed: cannot read" in text(told[-1])
    assert "large.jpg scaled down from 1400 x 30 to 1300 x 28 pixels" in text(told[-1])


def test_the_gallery_has_small_copies_and_only_the_zip_has_the_overlays(
    small: Studio, files: list[dict[str, Any]], tmp_path: Path
):
    steps = list(run(small, "", files, TEXT, *settings(small)))
    (path, _), (large, _) = given(steps, "gallery")[-1]
    with Image.open(path) as shown, Image.open(large) as other:
        assert (shown.size, other.size, shown.format) == ((640, 480), (1024, 22), "JPEG")
    (folder,) = map(Path, given(steps, "folder"))
    assert not list((folder / "overlays").iterdir())


def test_another_run_removes_what_the_one_before_left(studio: Studio, files: list[dict[str, Any]], uploads: Path):
    before = given(run(studio, "", files[:1], TEXT, *settings(studio)), "folder")[0]
    after = given(run(studio, before, files[:1], TEXT, *settings(studio)), "folder")[0]
    assert [path for path in uploads.iterdir() if path.name.startswith("several-")] == [Path(after)]


def test_the_folder_goes_with_the_session(studio: Studio, files: list[dict[str, Any]], uploads: Path):
    steps = list(run(studio, "", files[:1], TEXT, *settings(studio)))
    remove(given(steps, "folder")[0])
    assert not list(uploads.iterdir())
    remove("")  # a user who never ran anything


def test_a_run_that_is_closed_leaves_what_is_shown_and_no_zip(
    studio: Studio, files: list[dict[str, Any]], uploads: Path
):
    steps = run(studio, "", [files[0]] * 4, TEXT, *settings(studio))
    seen = [next(steps), next(steps)]
    steps.close()  # type: ignore[attr-defined]
    assert next(steps, None) is None
    left = [path for path in Path(given(seen, "folder")[0]).rglob("*") if path.is_file()]
    assert left == [Path(given(seen, "gallery")[-1][0][0])]
    assert "Cancelled" in stopped()


@pytest.mark.parametrize(
    "count, words, changes, error, message",
    [
        pytest.param(0, TEXT, {}, PromptError, "no pictures yet", id="no picture"),
        pytest.param(1, " . ", {}, PromptError, "phrase", id="no phrase"),
        pytest.param(101, TEXT, {}, PromptError, "at most 100 pictures at once, got 101", id="too many"),
        pytest.param(1, TEXT, {"clip_threshold": 1.5}, ConfigError, "clip_threshold", id="setting out of range"),
    ],
)
def test_what_cannot_be_asked_leaves_the_last_answer(
    studio: Studio,
    files: list[dict[str, Any]],
    tmp_path: Path,
    count: int,
    words: str,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
):
    last = tmp_path / "several-last"
    last.mkdir()
    with pytest.raises(error, match=message):
        next(iter(run(studio, str(last), [files[0]] * count, words, *settings(studio, **changes))))
    assert last.exists()


def test_settings_are_followed(studio: Studio, files: list[dict[str, Any]]):
    strict = settings(studio, box_threshold=0.95, fallback="none")
    gallery = given(run(studio, "", files[:1], TEXT, *strict), "gallery")
    assert [caption for _, caption in gallery[-1]] == ["0 in picnic.png"]


def test_when_the_time_is_up_the_rest_fails(studio: Studio, files: list[dict[str, Any]]):
    hurried = replace(studio, limits=replace(studio.limits, seconds=0.0))
    steps = list(run(hurried, "", files[:1], TEXT, *settings(studio)))
    assert "Done: 0 of 1" in steps[-1].progress
    assert "time limit" in given(steps, "notices")[-1]


@pytest.mark.parametrize(
    "upload, paths",
    [
        pytest.param([{"path": "a.png"}, {"path": "b.png"}], ["a.png", "b.png"], id="several"),
        pytest.param({"path": "a.png"}, ["a.png"], id="one"),
    ],
)
def test_uploads_are_read(upload: Any, paths: list[str]):
    assert checked(upload, 2) == paths


@pytest.mark.parametrize("upload", [[{"path": ""}], [{}]], ids=["empty path", "no path"])
def test_what_is_no_upload_is_refused(upload: Any):
    with pytest.raises(ImageError, match="uploaded files"):
        checked(upload, 2)


def test_nothing_is_told_of_a_picture_that_went_well():
    assert notices(Progress(1, 2, "a.png", Path("a.png"), instances=2)) == []


@pytest.fixture(scope="module")
def demo(studio: Studio) -> gr.Blocks:
    with gr.Blocks() as demo:
        several_tab(studio)
    return demo


def test_the_run_waits_in_line_with_all_that_use_the_models(demo: gr.Blocks):
    (labelling,) = [event for event in demo.fns.values() if event.types_generator]
    assert (labelling.concurrency_id, labelling.concurrency_limit) == (MODELS, 1)
    assert [labelling._id] in [event.cancels for event in demo.fns.values()]


def test_its_events_are_no_endpoints(demo: gr.Blocks):
    assert {event.api_visibility for event in demo.fns.values()} == {"private"}


def test_all_controls_have_labels(demo: gr.Blocks):
    forms = (gr.Slider, gr.Textbox, gr.File, gr.Radio, gr.Checkbox, gr.Gallery)
    labels = [block.label for block in demo.blocks.values() if isinstance(block, forms)]
    assert len(labels) == 10 and all(labels)


def test_the_folder_is_removed_when_gradio_forgets_the_user(demo: gr.Blocks, tmp_path: Path):
    (state,) = [block for block in demo.blocks.values() if isinstance(block, gr.State)]
    folder = tmp_path / "several-1"
    folder.mkdir()
    state.delete_callback(str(folder))
    assert not folder.exists()
