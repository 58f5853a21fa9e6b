from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.video.clip import ClipInfo
from grounded.video.output.cutouts import cutout_clip, cutout_folder
from grounded.video.output.write import write_outputs
from tests.grounded.video.clips import crossing, moving, square

INFO = ClipInfo("a.mp4", 25.0)


def test_a_folder_for_each_track(tmp_path: Path):
    list(write_outputs(crossing(), [cutout_folder(tmp_path / "cut")]))
    found = sorted(str(path.relative_to(tmp_path / "cut")) for path in (tmp_path / "cut").glob("*/*"))
    assert found == [*(f"001-a-dog/{n:05d}.png" for n in range(6)), "002-a-cat/00002.png", "002-a-cat/00003.png"]
    pixels = np.asarray(Image.open(tmp_path / "cut/001-a-dog/00003.png"))
    np.testing.assert_array_equal(pixels[..., 3] > 0, square(3))
    np.testing.assert_array_equal(pixels[square(3)][:, :3], moving(3)[square(3)])


def test_cropped(tmp_path: Path):
    list(write_outputs(crossing(1), [cutout_folder(tmp_path / "cut", crop=True)]))
    assert Image.open(tmp_path / "cut/001-a-dog/00000.png").size == (10, 10)


@pytest.mark.parametrize(("track_ids", "widest"), [(None, 64), ({1}, 10)])
def test_webm_with_alpha(track_ids: set[int] | None, widest: int, tmp_path: Path):
    av = pytest.importorskip("av")
    list(write_outputs(crossing(), [cutout_clip(tmp_path / "cut.webm", INFO, track_ids)]))
    with av.open(str(tmp_path / "cut.webm")) as container:
        stream = container.streams.video[0]
        assert stream.metadata["ALPHA_MODE"] == "1"
        # FFmpeg's own decoder of VP9 leaves the alpha channel out.
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        images = [
            frame.to_ndarray(format="rgba") for packet in container.demux(stream) for frame in decoder.decode(packet)
        ]
    assert len(images) == 6
    alpha = images[2][..., 3] > 127
    assert alpha.any(axis=0).sum() == widest
    inside = square(2)
    assert (alpha & inside).sum() / inside.sum() > 0.9
    assert not alpha[30:].any()
    np.testing.assert_allclose(images[2][9, 9, :3], moving(2)[9, 9], atol=40)
