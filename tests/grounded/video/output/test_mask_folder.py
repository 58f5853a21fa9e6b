import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import OutputError
from grounded.utils import files
from grounded.video.output.mask_folder import davis_palette, mask_folder
from grounded.video.output.write import write_outputs
from grounded.video.prompts import read_masks
from segany.utils.rle import decode_rle
from tests.grounded.video.clips import crossing, square, tracked, visible

IMAGE = Image.new("RGB", (64, 48))


def test_reads_back(tmp_path: Path):
    frames = crossing()
    list(write_outputs(frames, [mask_folder(tmp_path / "masks")]))
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [*(f"{n:05d}.png" for n in range(6)), "labels.json"]
    masks, labels = read_masks(tmp_path / "masks", (48, 64))
    assert labels == {1: "a dog", 2: "a cat"} and sorted(masks) == list(range(6))
    for frame, _ in frames:
        expected = visible(frame)
        assert masks[frame.number].keys() == expected.keys()
        for track, mask in expected.items():
            np.testing.assert_array_equal(decode_rle([masks[frame.number][track]])[0].numpy(), mask)


def test_indexed_in_the_colours_of_davis(tmp_path: Path):
    list(write_outputs([(tracked(0, {1: square(0), 254: square(10)}), IMAGE)], [mask_folder(tmp_path / "masks")]))
    with Image.open(tmp_path / "masks" / "00000.png") as image:
        assert image.mode == "P"
        assert np.unique(np.asarray(image)).tolist() == [0, 1, 254]
        assert image.convert("RGB").getpixel((2, 7)) == (128, 0, 0)
    # As published with PASCAL VOC.
    assert davis_palette()[[0, 1, 2, 3, 4, 8, 16, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [64, 0, 0], [0, 64, 0], [224, 224, 192],
    ]  # fmt: skip


def test_too_many_tracks(tmp_path: Path):
    frames = [(tracked(0, {1: square(0)}), IMAGE), (tracked(1, {255: square(1)}), IMAGE)]
    with pytest.raises(OutputError, match="can hold up to 254 tracks, whose ids are its pixels: use another format"):
        list(write_outputs(frames, [mask_folder(tmp_path / "masks")]))
    assert not list(tmp_path.iterdir())


def test_an_earlier_folder_is_replaced_and_another_one_is_not(tmp_path: Path):
    folder = tmp_path / "masks"
    list(write_outputs(crossing(6), [mask_folder(folder)]))
    list(write_outputs(crossing(2), [mask_folder(folder)]))
    assert len(list(folder.glob("*.png"))) == 2
    (folder / "labels.json").unlink()
    with pytest.raises(OutputError, match=r"must be new, empty, or have labels.json in it"):
        list(write_outputs(crossing(2), [mask_folder(folder)]))
    assert len(list(folder.glob("*.png"))) == 2


def test_disk_is_full_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "masks"
    list(write_outputs(crossing(2), [mask_folder(folder)]))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    opened = Path.open

    def open_on_full_disk(path: Path, *args, **options):
        if path.name == "00003.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *args, **options)

    monkeypatch.setattr(files.Path, "open", open_on_full_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        list(write_outputs(crossing(6), [mask_folder(folder)]))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert json.loads(before["labels.json"]) == {"1": "a dog"}
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]
