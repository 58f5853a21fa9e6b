"""Ground truth out of .mat and PNG files, and files as they should not be."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from grounded.errors import ResultError
from grounded.evaluation.boundaries.annotations import find_annotations, read_annotations
from grounded.evaluation.boundaries.edge_map_files import edge_map_bytes, read_edge_map
from tests.fuzzing import FUZZ_COUNTS, fuzz

SIZE = (6, 9)


def boundaries(row: int) -> np.ndarray:
    found = np.zeros(SIZE, np.uint8)
    found[row] = 1
    return found


def mat(*maps: np.ndarray, name: str = "groundTruth", field: str = "Boundaries", compressed: bool = True) -> bytes:
    cells = np.empty((1, len(maps)), object)
    for number, one in enumerate(maps):
        cells[0, number] = {field: one, "Segmentation": one.astype(np.uint16)}
    file = io.BytesIO()
    savemat(file, {name: cells}, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
def test_mat_files_hold_all_annotators(tmp_path: Path, compressed: bool):
    (tmp_path / "a.mat").write_bytes(mat(boundaries(1), boundaries(4), compressed=compressed))
    found = read_annotations(find_annotations(tmp_path)["a"])
    np.testing.assert_array_equal(found, [boundaries(1) > 0, boundaries(4) > 0])


def test_png_maps_alone_or_in_folders(tmp_path: Path):
    Image.fromarray(boundaries(1) * 255).save(tmp_path / "a.png")
    (tmp_path / "b").mkdir()
    for number in range(2):
        Image.fromarray(boundaries(number)).save(tmp_path / "b" / f"{number}.png")
    (tmp_path / "notes.txt").write_text("of no use")
    truths = find_annotations(tmp_path)
    assert {name: len(read_annotations(path)) for name, path in truths.items()} == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "not a MAT file of level 5", id="empty"),
        pytest.param(mat(boundaries(1), name="other"), "must hold groundTruth", id="another variable"),
        pytest.param(mat(boundaries(1), field="Edges"), "annotator 1 must have Boundaries", id="another field"),
        pytest.param(mat(), "must hold", id="no annotator"),
        pytest.param(mat(boundaries(1), np.ones((3, 3), np.uint8)), "boundaries of one size", id="two sizes"),
    ],
)
def test_mat_files_that_are_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ResultError, match=message):
        read_annotations(tmp_path / "a.mat")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grounded.evaluation.boundaries.annotations._MAX_BYTES", 10_000)
    (tmp_path / "a.mat").write_bytes(mat(np.zeros((300, 300), np.uint8)))
    with pytest.raises(ResultError, match="must unpack to at most"):
        read_annotations(tmp_path / "a.mat")


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(tmp_path: Path, count: int):
    def read(content: bytes) -> None:
        (tmp_path / "a.mat").write_bytes(content)
        read_annotations(tmp_path / "a.mat")

    fuzz([mat(boundaries(1)), mat(boundaries(1), boundaries(2), compressed=False)], read, count)


def test_edge_maps_of_8_and_16_bits(tmp_path: Path):
    strengths = np.linspace(0, 1, 256).reshape(16, 16)
    (tmp_path / "deep.png").write_bytes(edge_map_bytes(strengths))
    Image.fromarray(np.rint(strengths * 255).astype(np.uint8)).save(tmp_path / "a.png")
    for name in ("deep.png", "a.png"):
        np.testing.assert_allclose(read_edge_map(tmp_path / name), strengths, atol=1e-5)
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(ResultError, match="must be grey with 8 or 16 bits, got an image of mode RGB"):
        read_edge_map(tmp_path / "colour.png")
