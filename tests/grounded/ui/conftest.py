from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grounded.query import QuerySettings
from grounded.ui.actions import Actions
from grounded.ui.clips import open_clip_within
from grounded.ui.state import AppState, Limits
from grounded.ui.tracking import ClipActions, ClipState, Step
from tests.data import PICNIC
from tests.grounded.video.clips import crossing, write_clip
from tests.grounded.video.drawn import drawn_clip, line

PLACES = line((80, 90), (140, 120), 4)


@pytest.fixture(scope="session", autouse=True)
def upload_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Gradio keeps uploads, as for a server of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def actions() -> Actions:
    """The bundled models, with all that the app can switch on."""
    return Actions.from_config("tiny")


@pytest.fixture(scope="session")
def found(actions: Actions) -> AppState:
    """The example with a dog and a pizza."""
    return actions.segment(actions.open(PICNIC), "dog. pizza")


@pytest.fixture
def selected(actions: Actions, found: AppState) -> AppState:
    """The same with the dog selected, and nothing else in common with other tests but the cache."""
    return actions.press(found, "select", 470.0, 270.0)


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of a dog that walks, `PLACES` are its centres."""
    images = [np.asarray(image) for image in drawn_clip({"dog": PLACES}).images]
    return write_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", len(images), size=(320, 240), images=images)


@pytest.fixture(scope="session")
def walked(actions: Actions, walk: Path) -> list[Step]:
    """All steps in which the dog is followed."""
    clips = ClipActions(actions)
    return list(clips.track(clips.open(walk, "my walk.mp4"), "a dog. a robot", actions.defaults))


@pytest.fixture
def crossed(tmp_path: Path) -> ClipState:
    """Six frames of a small clip with tracks that no model made: a square, and a band from frame 2 to 3."""
    clip = open_clip_within(write_clip(tmp_path / "small.mp4", 6), "small.mp4", Limits())
    frames = {frame.number: frame for frame, _ in crossing()}
    return ClipState(clip, "small", ("a dog. a cat. a cow", QuerySettings()), frames, is_complete=True)
