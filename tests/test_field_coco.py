"""COCO files as other tools write them, where ../shared/data/field lies, through every reader, under limits.

One process reads all of them, so that one that hangs, crashes or takes too much memory is seen as that.
"""

import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from tests.data import ROOT

FIELD = ROOT.parent / "shared" / "data" / "field" / "coco"
SECONDS, MEMORY = 240, 6 * 2**30
pytestmark = pytest.mark.slow

CANNOT = "annotations that cannot be read, left out: 1 (picnic.png annotation 1: "
ALL = (2, 0, "")
# masks, boxes, and the beginning of the note
EXPECTED: dict[str, tuple[int, int, str]] = {
    **dict.fromkeys(("ok", "no_bbox", "category_from_0", "supercategory_placeholder", "size_strings"), ALL),
    **dict.fromkeys(("rle_list", "rle_string", "windows_path", "image_ids_strings", "image_ids_mixed"), ALL),
    "category_ids_strings": ALL,
    "nan_polygon": (1, 0, CANNOT + "corners of a polygon must be finite"),
    "polygon_far_outside": (1, 0, CANNOT + "corners of a polygon must be finite and within"),
    **dict.fromkeys(("rle_short", "rle_string_short"), (1, 0, CANNOT + "run lengths must add up to height x width")),
    "rle_string_empty": (1, 0, CANNOT + "run lengths must add up to height x width = 307200, got 0"),
    "rle_string_bytes_repr": (1, 0, CANNOT + "compressed run lengths must be of the characters 0 to o"),
    "rle_crowd": (2, 0, "crowd regions"),
    "ring_of_2_points": (2, 0, "rings of fewer than three corners, left out: 1 (picnic.png annotation 1)"),
    "segmentation_empty": (1, 1, "annotations that are a box without a mask: 1 (picnic.png annotation 1)"),
    "bbox_null": (2, 0, "boxes that cannot be read, taken from the mask: 2 (picnic.png annotation 1, "),
    "area_null": (2, 0, "areas that cannot be read, taken from the mask or the box: 2 (picnic.png annotation 1, "),
    "score_null": (2, 0, "scores that are no number, taken as unknown: 1 (picnic.png annotation 1)"),
    "orphan_annotation": (2, 0, "annotations of images that are not listed, left out: 1 (annotation 9)"),
    "segmentation_flat": (2, 0, "segmentations that are one flat list, read as one ring: 1 (picnic.png annotation 1)"),
    "bbox_only": (0, 2, "annotations that are a box without a mask: 2 (picnic.png annotation 1, picnic.png annot"),
    "cvat_iscrowd": (7, 0, "crowd regions, each of them one instance: 7"),
    "source_ids": (1, 0, ""),
}

SCRIPT = """
import json, sys
from pathlib import Path
from click.testing import CliRunner
from grounded.cli.evaluate import labels
from grounded.cli.import_ import import_
from grounded.errors import GroundedError
from grounded.labelling import store
from grounded.labelling.review import log
from grounded.labelling.sources import open_source
from grounded.ui.api import _read_result

field, out, examples = map(Path, sys.argv[1:])
runner = CliRunner()

def call(command, *arguments):
    result = runner.invoke(command, [*map(str, arguments)], catch_exceptions=False)
    return {"status": result.exit_code, "output": result.output}

def api(entry):
    result = {"image": {"width": 640, "height": 480}, "phrases": ["a"], "instances": [
        {"phrase_id": 0, "box": [0, 0, 1, 1], "score": None, "detector_score": None, "clip_score": None,
         "predicted_iou": None, "source": "person", "mask": entry.get("segmentation")}]}
    try:
        return int(_read_result(json.dumps(result), (480, 640)).masks.sum())
    except GroundedError as error:
        return str(error)

truth = field / "ok.json"
for path in sorted(field.glob("*.json")):
    name, run, into = path.stem, out / path.stem, out / f"{path.stem}-into"
    found = {"out": call(import_, path, "--out", run, "--format", "coco")}
    records = list(store.read_records(run))
    found["masks"] = sum(int(one.instances.masks[i].any()) for one in records for i in range(len(one.instances)))
    found["boxes"] = sum(len(one.instances) for one in records) - found["masks"]
    call(import_, truth, "--out", into, "--images", examples)
    found["into"] = call(import_, path, "--into", into, "--format", "coco")
    found["actions"] = [review.action for review in log.read_reviews(into)]
    found["evaluate"] = call(labels, into, "--truth", path)
    found["crowds"] = call(labels, into, "--truth", path, "--count-crowds")
    found["api"] = [api(entry) for entry in json.loads(path.read_text())["annotations"][:2]]
    try:
        found["images"] = [item.file for item in open_source(path, examples).items()]
    except GroundedError as error:
        found["images"] = str(error)
    print(json.dumps({name: found}), flush=True)
"""


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not FIELD.is_dir():
        pytest.skip(f"needs the files of other tools in {FIELD}")
    out = tmp_path_factory.mktemp("field")
    command = [sys.executable, "-c", SCRIPT, str(FIELD), str(out), str(ROOT / "examples")]
    done = subprocess.run(
        command, cwd=ROOT, preexec_fn=limit, timeout=2 * SECONDS, capture_output=True, text=True, check=False
    )
    results: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        results |= json.loads(line)
    assert done.returncode == 0, f"after {list(results)[-1:]}: {done.stderr[-2000:]}"
    return results


def test_every_file_is_known(found: dict[str, Any]):
    assert set(found) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_import_as_a_run(name: str, found: dict[str, Any]):
    masks, boxes, note = EXPECTED[name]
    one = found[name]
    assert one["out"]["status"] == 0, one["out"]["output"]
    assert (one["masks"], one["boxes"]) == (masks, boxes)
    notes = [line.strip() for line in one["out"]["output"].splitlines() if line.strip().startswith("note: ")]
    assert any(line.startswith(f"note: {note}") for line in notes) if note else notes == []


@pytest.mark.parametrize("name", EXPECTED)
def test_import_into_a_run_rejects_nothing_that_was_not_read(name: str, found: dict[str, Any]):
    masks, _, note = EXPECTED[name]
    actions = found[name]["actions"]
    if name in ("cvat_iscrowd", "source_ids"):  # of other images or instances
        return
    assert found[name]["into"]["status"] == 0
    has_all = masks == 2 and "left out" not in note
    assert "reject" not in actions or (has_all and name in ("rle_crowd", "rle_list", "rle_string"))


@pytest.mark.parametrize("name", EXPECTED)
def test_evaluate(name: str, found: dict[str, Any]):
    masks, boxes, note = EXPECTED[name]
    evaluated = found[name]["evaluate"]
    if name == "cvat_iscrowd":
        assert evaluated["status"] == 1 and "--count-crowds" in evaluated["output"]
        assert found[name]["crowds"]["status"] == 0
        return
    assert evaluated["status"] == 0, evaluated["output"]
    if note and not note.startswith("crowd"):
        assert note in evaluated["output"]
    assert ("mask AP" in evaluated["output"]) == (masks > 0)
    assert "box AP" in evaluated["output"]
    assert boxes == 0 or "without a mask" in evaluated["output"]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_api_refuses_what_is_no_mask(name: str, found: dict[str, Any]):
    for answer in found[name]["api"]:
        if name in ("rle_list", "rle_string", "rle_crowd") and isinstance(answer, int):
            assert answer > 0
        elif isinstance(answer, str):
            assert answer.startswith("the mask of instance 0 cannot be used: ") or "must hold the key" in answer
    if name.startswith("rle_string_") or name == "rle_short":
        assert all(isinstance(answer, str) for answer in found[name]["api"])


@pytest.mark.parametrize("name", EXPECTED)
def test_as_a_list_of_images(name: str, found: dict[str, Any]):
    images = found[name]["images"]
    if name == "windows_path" and isinstance(images, str):
        assert "lists images that do not exist" in images
    else:
        assert "picnic.png" in images
