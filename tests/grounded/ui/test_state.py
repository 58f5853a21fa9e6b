import copy
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ImageError, PromptError
from grounded.ui.state import AppState, Click, EditState, Limits, open_within
from tests.grounded.conftest import random_image

SIZE = (60, 80)


@pytest.mark.parametrize(
    ("size", "max_side", "fitted"),
    [
        pytest.param((80, 60), 80, (80, 60), id="just fits"),
        pytest.param((80, 60), 2048, (80, 60), id="never scaled up"),
        pytest.param((80, 60), 40, (40, 30), id="wide"),
        pytest.param((60, 80), 40, (30, 40), id="high"),
        pytest.param((81, 7), 80, (80, 7), id="a pixel too many"),
        pytest.param((900, 2), 90, (90, 1), id="a line"),
        pytest.param((1, 900), 90, (1, 90), id="a column"),
    ],
)
def test_size(size: tuple[int, int], max_side: int, fitted: tuple[int, int]):
    image = random_image(size[1], size[0])
    source = open_within(image, Limits(max_side=max_side))
    assert source.pixels.size == fitted
    if size == fitted:
        assert source.pixels is image
        assert source.notes == ()
    else:
        assert source.notes == (f"scaled down from {size[0]} x {size[1]} to {fitted[0]} x {fitted[1]} pixels",)


def test_what_is_scaled_down_looks_alike():
    image = random_image(600, 800)
    small = np.asarray(open_within(image, Limits(max_side=80)).pixels, np.float32)
    expected = np.asarray(image.resize((80, 60), Image.Resampling.BOX), np.float32)
    assert np.abs(small - expected).mean() < 2


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_keep_what_is_known_of_them(tmp_path: Path, suffix: str):
    exif, path = Image.Exif(), tmp_path / f"turned.{suffix}"
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    random_image(60, 80).save(path, exif=exif)
    source = open_within(path, Limits(max_side=40))
    assert source.pixels.size == (30, 40)
    assert source.path == path
    assert source.orientation == 6
    assert source.notes == ("scaled down from 60 x 80 to 30 x 40 pixels",)


def test_notes_are_added_to_others():
    image = Image.new("RGBA", (80, 60))
    notes = open_within(image, Limits(max_side=40)).notes
    assert notes == ("transparent pixels are shown on white", "scaled down from 80 x 60 to 40 x 30 pixels")


def test_a_source_that_fits_is_taken_as_it_is():
    source = SourceImage(random_image(), notes=("something",))
    assert open_within(source, Limits()) is source


def test_files_of_too_many_pixels_are_refused(tmp_path: Path):
    random_image(60, 80).save(tmp_path / "large.png")
    assert open_within(tmp_path / "large.png", Limits(max_megapixels=0.0048)).size == (60, 80)
    with pytest.raises(ImageError, match=r"large.png is too large: 80 x 60 pixels, .* and the limit is 0.0047"):
        open_within(tmp_path / "large.png", Limits(max_megapixels=0.0047))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param("absent.png", "no such image", id="no file"),
        pytest.param(__file__, "not an image", id="no image"),
        pytest.param(np.full((4, 4), 2.0), "must lie in 0..1", id="floats"),
    ],
)
def test_what_is_no_image(image: str | np.ndarray, message: str):
    with pytest.raises(ImageError, match=message):
        open_within(image, Limits())


def work(phrase: str) -> EditState:
    return EditState(Instances.empty((phrase,), SIZE))


def test_without_an_image():
    with pytest.raises(PromptError, match="there is no image yet: upload one, or pick an example"):
        AppState().require_image()
    assert len(AppState().instances) == 0


def test_with_an_image():
    source = SourceImage(random_image())
    state = AppState(image=source)
    assert state.require_image() is source
    assert len(state.instances) == 0
    assert state.instances.image_size == SIZE
    assert state.with_step(work("a dog")).instances.phrases == ("a dog",)


def test_a_step_leaves_the_state_as_it_was():
    state = AppState(image=SourceImage(random_image()))
    first, second = work("a dog"), work("pizza")
    after = state.with_step(first).with_step(second)
    assert (state.edits, state.history) == (None, ())
    assert after.edits is second
    assert after.history == (None, first)
    assert after.cache is state.cache
    with pytest.raises(FrozenInstanceError):
        after.edits = first


def test_the_latest_steps_can_be_undone():
    state, steps = AppState(), [work(str(i)) for i in range(40)]
    for step in steps:
        state = state.with_step(step)
    assert state.history == tuple(steps[-31:-1])


def test_times_are_of_the_last_event_and_stages_of_all():
    before = AppState()
    first = before.with_seconds({"detect": 1.0, "encode": 2.0})
    second = first.with_seconds({"decode": 0.5})
    assert before.seconds == {}
    assert first.seconds == {"detect": 1.0, "encode": 2.0}
    assert second.seconds == {"decode": 0.5}
    assert second.stages_run == {"detect", "encode", "decode"}


def test_times_are_copied():
    seconds = {"detect": 1.0}
    state = AppState().with_seconds(seconds)
    seconds["encode"] = 2.0
    assert state.seconds == {"detect": 1.0}


def test_a_copy_is_the_state_itself():
    state = AppState(image=SourceImage(random_image())).with_step(
        EditState(Instances.empty((), SIZE), clicks=(Click(1.0, 2.0, True),))
    )
    assert copy.deepcopy(state) is state
    assert copy.deepcopy([state, {"of": state}]) == [state, {"of": state}]


def test_states_have_nothing_in_common():
    one, other = AppState(), AppState()
    assert one.seconds is not other.seconds
