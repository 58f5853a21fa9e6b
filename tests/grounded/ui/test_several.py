import contextlib
import gc
import io
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from grounded.errors import OutputError, PromptError
from grounded.output.draw import draw
from grounded.output.write import mask_name
from grounded.pipeline import Pipeline
from grounded.ui.limits import Limits
from grounded.ui.several import ARCHIVE, Progress, label_pictures
from grounded.ui.studio import Studio
from tests.data import PICNIC
from tests.grounded.conftest import picture
from tests.grounded.failures import fill_disk

TEXT = "a dog. pizza"
LIMITS = Limits()


@pytest.fixture(scope="module")
def pipeline(random_pipelines: dict[str, Pipeline]) -> Pipeline:
    """Quick, and finds something everywhere."""
    return random_pipelines["box"]


def saved(folder: Path, *names: str) -> list[Path]:
    """Different pictures under these names, each of them in a folder of its own."""
    paths = [folder / str(seed) / name for seed, name in enumerate(names)]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        picture(40, 50 + seed, seed).save(path, format="PNG")
    return paths


def broken(folder: Path, name: str) -> Path:
    path = folder / "broken" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICNIC.read_bytes()[:5000])
    return path


def labelled(
    pipeline: Pipeline, paths: Sequence[Path], folder: Path, limits: Limits = LIMITS, **settings: Any
) -> tuple[list[Progress], dict[str, bytes]]:
    """What was yielded, and the files in the ZIP by name."""
    generator = label_pictures(pipeline, paths, TEXT, folder, limits, **settings)
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


def test_the_bundled_models_label_the_example(studio: Studio, tmp_path: Path):
    threshold = studio.defaults.box_threshold
    paths = [PICNIC, broken(tmp_path, "picnic.png"), Path(shutil.copy(PICNIC, tmp_path / "picnic.png"))]
    steps, files = labelled(studio.pipeline, paths, tmp_path / "out", box_threshold=threshold)
    found = studio.pipeline.segment(PICNIC, TEXT, box_threshold=threshold)
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


def test_one_data_set_of_all_pictures(pipeline: Pipeline, tmp_path: Path):
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


def test_pictures_without_an_instance_are_in_it(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png"), tmp_path / "out", box_threshold=1.0)
    assert [(step.error, step.instances) for step in steps] == [(None, 0)]
    assert sorted(files) == ["annotations.json", "overlays/a.png"]
    data = json.loads(files["annotations.json"])
    assert ([image["file_name"] for image in data["images"]], data["annotations"]) == (["a.png"], [])


def test_a_picture_that_is_scaled_down_has_a_note(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png"), tmp_path / "out", Limits(max_side=25))
    assert steps[0].notes == ("scaled down from 50 x 40 to 25 x 20 pixels",)
    (image,) = json.loads(files["annotations.json"])["images"]
    assert image == {"id": 1, "width": 25, "height": 20, "file_name": "a.png", "notes": [steps[0].notes[0]]}
    assert Image.open(io.BytesIO(files["overlays/a.png"])).size == (25, 20)


def test_pictures_fail_when_the_time_is_up(pipeline: Pipeline, tmp_path: Path):
    steps, files = labelled(pipeline, saved(tmp_path, "a.png", "b.png"), tmp_path / "out", Limits(seconds=0.0))
    assert all(step.error and "time limit" in step.error for step in steps)
    assert len(files["failures.txt"].splitlines()) == 2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_closed_early_it_leaves_no_zip(steps: int, pipeline: Pipeline, tmp_path: Path):
    folder = tmp_path / "out"
    generator = label_pictures(pipeline, saved(tmp_path, "a.png", "b.png"), TEXT, folder, LIMITS)
    overlays = [next(generator).overlay for _ in range(steps)]
    assert not (folder / ARCHIVE).exists()
    generator.close()
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(path for path in overlays if path)
    assert not folder.exists() or os.listdir(folder) == ["overlays"]


def test_pictures_are_not_held(pipeline: Pipeline, tmp_path: Path):
    paths = saved(tmp_path, *(f"{number}.png" for number in range(6)))
    held = []
    for _ in label_pictures(pipeline, paths, TEXT, tmp_path / "out", LIMITS):
        gc.collect()
        held.append(sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects()))
    assert len(set(held[1:])) == 1


def test_a_full_disk_ends_it(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill_disk(monkeypatch, "b.png")
    generator = label_pictures(pipeline, saved(tmp_path, "a.png", "b.png"), TEXT, tmp_path / "out", LIMITS)
    next(generator)
    with pytest.raises(OutputError, match=r"b\.png: the disk is full$"):
        next(generator)
    assert os.listdir(tmp_path / "out") == ["overlays"]


@pytest.mark.parametrize(
    ("count", "text", "limits", "message"),
    [
        pytest.param(0, TEXT, LIMITS, "choose from 1 to 100 pictures, got 0", id="no picture"),
        pytest.param(3, TEXT, Limits(max_pictures=2), "choose from 1 to 2 pictures, got 3", id="too many"),
        pytest.param(1, " . ", LIMITS, "phrase", id="no phrase"),
    ],
)
def test_wrong_questions(count: int, text: str, limits: Limits, message: str, pipeline: Pipeline, tmp_path: Path):
    paths = saved(tmp_path, *["a.png"] * count)
    with pytest.raises(PromptError, match=message):
        next(label_pictures(pipeline, paths, text, tmp_path / "out", limits))
    assert not (tmp_path / "out").exists()
