from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from grounded.errors import OutputError
from grounded.video.output.mot import mot_file, mots_file
from grounded.video.output.write import write_outputs
from tests.grounded.failures import fill_disk
from tests.grounded.video.clips import crossing, square, tracked, visible


def read_mots(path: Path) -> dict[tuple[int, int], tuple[int, np.ndarray]]:
    """The class and the mask of each (frame, id)."""
    entries = {}
    for line in path.read_text().splitlines():
        frame, name, kind, height, width, counts = line.split(" ")
        mask = coco_mask.decode({"size": [int(height), int(width)], "counts": counts})
        entries[int(frame), int(name)] = int(kind), mask.astype(bool)
    return entries


def test_mot(tmp_path: Path):
    list(write_outputs(crossing(), [mot_file(tmp_path / "a.txt")]))
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines[0] == "1,1,1,6,10,10,0.9,1,-1"
    assert lines[1] == "2,1,3,6,10,10,0.9,1,-1"
    assert lines[3] == "3,2,1,11,64,10,0.9,2,-1"
    assert len(lines) == 6 + 2  # the band is in sight on two frames, and has an empty mask after


def test_mot_as_motmetrics_reads_it(tmp_path: Path):
    motmetrics = pytest.importorskip("motmetrics")
    list(write_outputs(crossing(), [mot_file(tmp_path / "a.txt")]))
    table = motmetrics.io.loadtxt(str(tmp_path / "a.txt"), fmt="mot15-2D")
    row = table.loc[(3, 2)]
    assert row[["X", "Y", "Width", "Height"]].tolist() == [0, 10, 64, 10]
    assert row["Confidence"] == pytest.approx(0.9)


def test_mots_reads_back_without_overlaps(tmp_path: Path):
    frames = crossing()
    list(write_outputs(frames, [mots_file(tmp_path / "a.txt")]))
    read = read_mots(tmp_path / "a.txt")
    expected = {(f.number + 1, name): mask for f, _ in frames for name, mask in visible(f).items()}
    assert read.keys() == expected.keys()
    for key, (kind, mask) in read.items():
        assert kind == key[1]  # a dog is class 1 and has the odd id
        np.testing.assert_array_equal(mask, expected[key])
    assert not (read[3, 1][1] & read[3, 2][1]).any()


@pytest.mark.parametrize("output", [mot_file, mots_file])
def test_no_object(output, tmp_path: Path):
    _, image = crossing(1)[0]
    list(
        write_outputs([(tracked(0, {}), image), (tracked(1, {1: square(0) & False}), image)], [output(tmp_path / "a")])
    )
    assert (tmp_path / "a").read_text() == ""


@pytest.mark.parametrize("output", [mot_file, mots_file])
def test_disk_is_full(output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill_disk(monkeypatch, "a.txt")
    with pytest.raises(OutputError, match=r"cannot write .*a.txt: the disk is full"):
        list(write_outputs(crossing(), [output(tmp_path / "new" / "a.txt")]))
    assert not list(tmp_path.iterdir())
