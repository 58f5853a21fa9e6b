"""Labelling a batch of images, the events of its tab, and how the tab is built and wired."""

import contextlib
import gc
import io
import json
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from grounded.errors import ConfigError, ImageError, OutputError, PromptError
from grounded.output.draw import draw
from grounded.output.write import mask_name
from grounded.pipeline import Pipeline
from grounded.ui.actions import Actions
from grounded.ui.batch_tab import (
    ARCHIVE,
    BatchOutputs,
    BatchStep,
    batch_tab,
    cancel_message,
    label_images,
    notice_lines,
    remove_folder,
    run_batch,
    upload_paths,
)
from grounded.ui.components import CONTROLS
from grounded.ui.serving import MODELS
from grounded.ui.state import Limits
from tests.data import PICNIC
from tests.grounded.conftest import random_image
from tests.grounded.failures import fill_disk

TEXT = "a dog. pizza"
LIMITS = Limits()


@pytest.fixture(scope="module")
def pipeline(random_pipelines: dict[str, Pipeline]) -> Pipeline:
    """Quick, and finds something everywhere."""
    return random_pipelines["box"]


def saved(folder: Path, *names: str) -> list[Path]:
    """Different images under these names, each of them in a folder of its own."""
    paths = [folder / str(seed) / name for seed, name in enumerate(names)]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        random_image(40, 50 + seed, seed).save(path, format="PNG")
    return paths


def broken(folder: Path, name: str) -> Path:
    path = folder / "broken" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICNIC.read_bytes()[:5000])
    return path


def labelled(
    pipeline: Pipeline, paths: Sequence[Path], folder: Path, limits: Limits = LIMITS, **settings: Any
) -> tuple[list[BatchStep], dict[str, bytes]]:
    """What was yielded, and the files in the ZIP by name."""
    generator = label_images(pipeline, paths, TEXT, folder, limits, **settings)
    steps = []
    while True:
        try:
            steps.append(next(generator))
        except StopIteration as end:
            assert end.value == folder / ARCHIVE
            break
    with zipfile.ZipFile(folder / ARCHIVE) as archive:
        assert archive.testzip() is None
        assert all((i.compress_type == zipfile.ZIP_STORED) == i.filename.endswith(".png") for i in archive.infolist())
        assert len(set(archive.namelist())) == len(archive.namelist())
        return steps, {name: archive.read(name) for name in archive.namelist()}


def as_coco(data: bytes, folder: Path) -> COCO:
    (folder / "annotations.json").write_bytes(data)
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations.json"))


@pytest.mark.slow
def test_the_bundled_models_label_the_example(actions: Actions, tmp_path: Path):
    threshold = actions.defaults.box_threshold
    paths = [PICNIC, broken(tmp_path, "picnic.png"), Path(shutil.copy(PICNIC, tmp_path / "picnic.png"))]
    steps, files = labelled(actions.pipeline, paths, tmp_path / "out", box_threshold=threshold)
    found = actions.pipeline.segment(PICNIC, TEXT, box_threshold=threshold)
    assert len(found) >= 2
    assert [(step.done, step.total, step.name, step.instances) for step in steps] == [
        (1, 3, "picnic.png", len(found)),
        (2, 3, "picnic.png", 0),
        (3, 3, "picnic.png", len(found)),
    ]
    coco = as_coco(files["annotations.json"], tmp_path)
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["picnic.png", "picnic-2.png"]
    for image_id, stem in ((1, "picnic"), (2, "picnic-2")):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert [coco.cats[a["category_id"]]["name"] for a in annotations] == found.labels.tolist()
        for rank, (annotation, mask) in enumerate(zip(annotations, found.masks, strict=True)):
            np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
            png = files[f"masks/{stem}/{mask_name(rank, str(found.labels[rank]))}"]
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), mask * np.uint8(255))
        overlay = np.asarray(Image.open(io.BytesIO(files[f"overlays/{stem}.png"])))
        np.testing.assert_array_equal(overlay, np.asarray(draw(PICNIC, found)))


def test_one_data_set_of_all_images(pipeline: Pipeline, tmp_path: Path):
    paths = saved(tmp_path, "a.png", "b.png", "c.png")
    steps, files = labelled(pipeline, paths, tmp_path / "out")
    data = json.loads(files["annotations.json"])
    assert list(data) == ["images", "annotations", "categories"]
    assert data["categories"] == [{"id": 1, "name": "a dog"}, {"id": 2, "name": "pizza"}]
    told = [(image["id"], image["file_name"], image["width"], image["height"]) for image in data["images"]]
    assert told == [(1, "a.png", 50, 40), (2, "b.png", 51, 40), (3, "c.png", 52, 40)]
    assert [annotation["id"] for annotation in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
    counts = Counter(annotation["image_id"] for annotation in data["annotations"])
    assert [counts[image_id] for image_id in (1, 2, 3)] == [step.instances for step in steps]
    assert all(step.instances > 0 for step in steps)
    for image_id, path in enumerate(paths, start=1):  # what each alone is given
        alone = pipeline.segment(path, TEXT).to_coco()["annotations"]
        together = [annotation for annotation in data["annotations"] if annotation["image_id"] == image_id]
        strip = [{k: v for k, v in a.items() if k not in ("id", "image_id")} for a in alone]
        assert [{k: v for k, v in a.items() if k not in ("id", "image_id")} for a in together] == strip


def test_overlays_lie_beside_the_zip(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png", "b.png"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [ARCHIVE, "overlays"]
    assert [step.overlay for step in steps] == [tmp_path / "out" / "overlays" / name for name in ("a.png", "b.png")]
    for step in steps:
        assert step.overlay is not None
        assert step.overlay.read_bytes() == files[f"overlays/{step.overlay.name}"]


@pytest.mark.parametrize(
    ("names", "file_names", "stems"),
    [
        pytest.param(["a.png"], ["a.png"], ["a"], id="one"),
        pytest.param(["a.png", "a.png", "a.png"], ["a.png", "a-2.png", "a-3.png"], ["a", "a-2", "a-3"], id="equal"),
        pytest.param(["a.png", "a-2.png", "a.png"], ["a.png", "a-2.png", "a-3.png"], ["a", "a-2", "a-3"], id="taken"),
        pytest.param(["a.png", "a.jpg"], ["a.png", "a.jpg"], ["a", "a-2"], id="equal but for the ending"),
        pytest.param(["a.png", "A.png"], ["a.png", "A-2.png"], ["a", "A-2"], id="equal but for case"),
        pytest.param(["a:b.png", "a?b.png"], ["a:b.png", "a?b.png"], ["a-b", "a-b-2"], id="equal in a harmless form"),
        pytest.param(["猫.png", "no ending"], ["猫.png", "no ending"], ["猫", "no ending"], id="any letters"),
    ],
)
def test_names_are_unique(
    names: list[str], file_names: list[str], stems: list[str], pipeline: Pipeline, tmp_path: Path
):
    steps, files = labelled(pipeline, saved(tmp_path, *names), tmp_path / "out")
    assert [step.name for step in steps] == names
    assert [image["file_name"] for image in json.loads(files["annotations.json"])["images"]] == file_names
    assert sorted(name for name in files if name.startswith("overlays/")) == sorted(f"overlays/{s}.png" for s in stems)
    assert {name.split("/")[1] for name in files if name.startswith("masks/")} == set(stems)


def test_failures_are_told_and_stop_nothing(pipeline: Pipeline, tmp_path: Path):
    first, last = saved(tmp_path, "a.png", "b.png")
    wrong = [broken(tmp_path, "line\nend.png"), tmp_path / "missing.png"]
    steps, files = labelled(pipeline, [wrong[0], first, wrong[1], last], tmp_path / "out")
    assert [step.error is None for step in steps] == [False, True, False, True]
    assert [step.overlay is None for step in steps] == [True, False, True, False]
    lines = files["failures.txt"].decode().splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["line end.png", "missing.png"]
    for line, step in zip(lines, (steps[0], steps[2]), strict=True):
        assert step.error and line.endswith(step.error)
    assert [image["id"] for image in json.loads(files["annotations.json"])["images"]] == [1, 2]


def test_nothing_but_failures(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, [broken(tmp_path, "a.png")], tmp_path / "out")
    assert steps[0].error
    assert sorted(files) == ["annotations.json", "failures.txt"]
    data = json.loads(files["annotations.json"])
    assert (data["images"], data["annotations"]) == ([], [])
    assert [category["name"] for category in data["categories"]] == ["a dog", "pizza"]


def test_images_without_an_instance_are_in_it(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png"), tmp_path / "out", box_threshold=1.0)
    assert [(step.error, step.instances) for step in steps] == [(None, 0)]
    assert sorted(files) == ["annotations.json", "overlays/a.png"]
    data = json.loads(files["annotations.json"])
    assert ([image["file_name"] for image in data["images"]], data["annotations"]) == (["a.png"], [])


def test_an_image_that_is_scaled_down_has_a_note(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png"), tmp_path / "out", Limits(max_side=25))
    assert steps[0].notes == ("scaled down from 50 x 40 to 25 x 20 pixels",)
    (image,) = json.loads(files["annotations.json"])["images"]
    assert image == {"id": 1, "width": 25, "height": 20, "file_name": "a.png", "notes": [steps[0].notes[0]]}
    assert Image.open(io.BytesIO(files["overlays/a.png"])).size == (25, 20)


def test_images_fail_when_the_time_is_up(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png", "b.png"), tmp_path / "out", Limits(seconds=0.0))
    assert all(step.error and "time limit" in step.error for step in steps)
    assert len(files["failures.txt"].splitlines()) == 2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_closed_early_it_leaves_no_zip(steps: int, pipeline: Pipeline, tmp_path: Path):
    folder = tmp_path / "out"
    generator = label_images(pipeline, saved(tmp_path, "a.png", "b.png"), TEXT, folder, LIMITS)
    overlays = [next(generator).overlay for _ in range(steps)]
    assert not (folder / ARCHIVE).exists()
    generator.close()
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(path for path in overlays if path)
    assert not folder.exists() or os.listdir(folder) == ["overlays"]


@pytest.mark.slow
def test_images_are_not_held(pipeline: Pipeline, tmp_path: Path):
    paths = saved(tmp_path, *(f"{number}.png" for number in range(6)))
    held = []
    for _ in label_images(pipeline, paths, TEXT, tmp_path / "out", LIMITS):
        gc.collect()
        held.append(sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects()))
    assert len(set(held[1:])) == 1


def test_a_full_disk_ends_it(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill_disk(monkeypatch, "b.png")
    generator = label_images(pipeline, saved(tmp_path, "a.png", "b.png"), TEXT, tmp_path / "out", LIMITS)
    next(generator)
    with pytest.raises(OutputError, match=r"b\.png: the disk is full$"):
        next(generator)
    assert os.listdir(tmp_path / "out") == ["overlays"]


@pytest.mark.parametrize(
    ("count", "text", "limits", "message"),
    [
        pytest.param(0, TEXT, LIMITS, "choose from 1 to 100 images, got 0", id="no image"),
        pytest.param(3, TEXT, Limits(max_images=2), "choose from 1 to 2 images, got 3", id="too many"),
        pytest.param(1, " . ", LIMITS, "phrase", id="no phrase"),
    ],
)
def test_wrong_questions(count: int, text: str, limits: Limits, message: str, pipeline: Pipeline, tmp_path: Path):
    paths = saved(tmp_path, *["a.png"] * count)
    with pytest.raises(PromptError, match=message):
        next(label_images(pipeline, paths, text, tmp_path / "out", limits))
    assert not (tmp_path / "out").exists()


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the server empties."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, Any]]:
    """An image, a broken one, and one that is larger than the limit."""
    paths = [tmp_path / name for name in ("picnic.png", "<b>broken.png", "large.jpg")]
    paths[0].write_bytes(PICNIC.read_bytes())
    paths[1].write_bytes(PICNIC.read_bytes()[:3000])
    random_image(30, 1400).save(paths[2])
    return [{"path": str(path)} for path in paths]


@pytest.fixture
def small(actions: Actions) -> Actions:
    """The same models, for images of up to 1300 pixels."""
    return replace(actions, limits=replace(actions.limits, max_side=1300))


def settings(actions: Actions, **changes: Any) -> tuple[Any, ...]:
    return tuple(getattr(replace(actions.defaults, **changes), name) for name in CONTROLS)


def text(html: str) -> str:
    return re.sub("<[^>]+>", "", html)


def given(steps: Iterator[BatchOutputs] | list[BatchOutputs], name: str) -> list[Any]:
    """The values of one component, without steps that leave it as it is."""
    values = [getattr(step, name) for step in steps]
    return [value for value in values if value != gr.skip()]


def test_a_run_shows_more_and_more_and_ends_with_a_zip(small: Actions, files: list[dict[str, Any]], uploads: Path):
    steps = list(run_batch(small, "", files, TEXT, *settings(small)))
    assert [text(step.progress).partition(",")[0] for step in steps] == [
        "0 of 3 images",
        "1 of 3 images",
        "2 of 3 images",
        "Packing the ZIP",
        "Done: 2 of 3 images labelled. Phrases: “a dog”",
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


def test_the_button_is_disabled_while_a_run_is_going_on(actions: Actions, files: list[dict[str, Any]]):
    steps = run_batch(actions, "", files[:1], TEXT, *settings(actions))
    assert [update["interactive"] for update in given(steps, "run")] == [False, True]


def test_failures_and_notes_are_told_as_text(small: Actions, files: list[dict[str, Any]]):
    told = given(run_batch(small, "", files, TEXT, *settings(small)), "notices")
    assert told[:2] == ["", ""]
    assert "<b>" not in told[-1] and "&lt;b&gt;broken.png" in told[-1]
    assert "failed: cannot read" in text(told[-1])
    assert "large.jpg scaled down from 1400 x 30 to 1300 x 28 pixels" in text(told[-1])


def test_the_gallery_has_small_copies_and_only_the_zip_has_the_overlays(
    small: Actions, files: list[dict[str, Any]], tmp_path: Path
):
    steps = list(run_batch(small, "", files, TEXT, *settings(small)))
    (path, _), (large, _) = given(steps, "gallery")[-1]
    with Image.open(path) as shown, Image.open(large) as other:
        assert (shown.size, other.size, shown.format) == ((640, 480), (1024, 22), "JPEG")
    (folder,) = map(Path, given(steps, "folder"))
    assert not list((folder / "overlays").iterdir())


@pytest.mark.slow
def test_another_run_removes_what_the_one_before_left(actions: Actions, files: list[dict[str, Any]], uploads: Path):
    before = given(run_batch(actions, "", files[:1], TEXT, *settings(actions)), "folder")[0]
    after = given(run_batch(actions, before, files[:1], TEXT, *settings(actions)), "folder")[0]
    assert [path for path in uploads.iterdir() if path.name.startswith("batch-")] == [Path(after)]


def test_the_folder_goes_with_the_session(actions: Actions, files: list[dict[str, Any]], uploads: Path):
    steps = list(run_batch(actions, "", files[:1], TEXT, *settings(actions)))
    remove_folder(given(steps, "folder")[0])
    assert not list(uploads.iterdir())
    remove_folder("")  # a user who never ran anything


def test_a_run_that_is_closed_leaves_what_is_shown_and_no_zip(
    actions: Actions, files: list[dict[str, Any]], uploads: Path
):
    steps = run_batch(actions, "", [files[0]] * 4, TEXT, *settings(actions))
    seen = [next(steps), next(steps)]
    steps.close()  # type: ignore[attr-defined]
    assert next(steps, None) is None
    left = [path for path in Path(given(seen, "folder")[0]).rglob("*") if path.is_file()]
    assert left == [Path(given(seen, "gallery")[-1][0][0])]
    assert "Cancelled" in cancel_message()


@pytest.mark.parametrize(
    "count, words, changes, error, message",
    [
        pytest.param(0, TEXT, {}, PromptError, "no images yet", id="no image"),
        pytest.param(1, " . ", {}, PromptError, "phrase", id="no phrase"),
        pytest.param(101, TEXT, {}, PromptError, "at most 100 images at once, got 101", id="too many"),
        pytest.param(1, TEXT, {"clip_threshold": 1.5}, ConfigError, "clip_threshold", id="setting out of range"),
    ],
)
def test_a_wrong_query_leaves_the_last_result(
    actions: Actions,
    files: list[dict[str, Any]],
    tmp_path: Path,
    count: int,
    words: str,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
):
    last = tmp_path / "batch-last"
    last.mkdir()
    with pytest.raises(error, match=message):
        next(iter(run_batch(actions, str(last), [files[0]] * count, words, *settings(actions, **changes))))
    assert last.exists()


def test_settings_are_followed(actions: Actions, files: list[dict[str, Any]]):
    strict = settings(actions, box_threshold=0.95, fallback="none")
    gallery = given(run_batch(actions, "", files[:1], TEXT, *strict), "gallery")
    assert [caption for _, caption in gallery[-1]] == ["0 in picnic.png"]


def test_when_the_time_is_up_the_rest_fails(actions: Actions, files: list[dict[str, Any]]):
    hurried = replace(actions, limits=replace(actions.limits, seconds=0.0))
    steps = list(run_batch(hurried, "", files[:1], TEXT, *settings(actions)))
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
    assert upload_paths(upload, 2) == paths


@pytest.mark.parametrize("upload", [[{"path": ""}], [{}]], ids=["empty path", "no path"])
def test_what_is_no_upload_is_refused(upload: Any):
    with pytest.raises(ImageError, match="uploaded files"):
        upload_paths(upload, 2)


def test_no_notice_on_an_image_that_went_well():
    assert notice_lines(BatchStep(1, 2, "a.png", Path("a.png"), instances=2)) == []


@pytest.fixture(scope="module")
def demo(actions: Actions) -> gr.Blocks:
    with gr.Blocks() as demo:
        batch_tab(actions)
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
    folder = tmp_path / "batch-1"
    folder.mkdir()
    state.delete_callback(str(folder))
    assert not folder.exists()
