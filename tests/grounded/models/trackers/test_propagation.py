"""Following by prompts: how labels are carried between frames, what is believed, and a clip with the bundled model."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import segany
from grounded.config import PipelineConfig, VideoConfig
from grounded.data.protocols import TrackedMask, VideoSegmenter
from grounded.errors import ConfigError
from grounded.models import checkpoints, trackers
from grounded.models.trackers.propagation import (
    FollowedObject,
    FrameCells,
    PropagationSettings,
    PropagationTracker,
    View,
    appearance_of,
    carry_masks,
    mask_and_box,
    presence_of,
    propagate_labels,
)
from segany.utils.rle import RLE, encode_rle, rle_area, rle_iou
from tests.grounded.conftest import SEGMENTER
from tests.grounded.video.drawn import drawn_clip, line

SETTINGS = PropagationSettings()
HEIGHT, WIDTH = 6, 8


def frame_with(corner: tuple[int, int] | None, number: int = 0) -> FrameCells:
    """A frame of cells that differ a little, and 2 x 2 cells of another kind at (row, column)."""
    generator = torch.Generator().manual_seed(3)
    cells = 0.1 * torch.randn(16, HEIGHT, WIDTH, generator=generator)
    cells[0] += 1
    if corner is not None:
        row, column = corner
        cells[:, row : row + 2, column : column + 2] = F.one_hot(torch.tensor(5), 16).float()[:, None, None]
    return FrameCells(number, F.normalize(cells, dim=0))


def cover_at(row: int, column: int) -> Tensor:
    cover = torch.zeros(HEIGHT, WIDTH)
    cover[row : row + 2, column : column + 2] = 1
    return cover


@pytest.mark.parametrize(
    ("radius", "is_found"), [pytest.param(2, False, id="too far"), pytest.param(None, True, id="anywhere")]
)
def test_labels_go_where_the_cells_have_gone(radius: int | None, is_found: bool):
    before, after = frame_with((1, 1)).cells, frame_with((3, 6)).cells
    labels = torch.stack([cover_at(1, 1), torch.zeros(HEIGHT, WIDTH)])
    found = propagate_labels(before, labels, after, radius, SETTINGS)
    assert torch.equal(found[0] > 0.5, cover_at(3, 6) > 0) is is_found
    assert not found[1].any()


def followed(lost: int, corner: tuple[int, int] = (1, 1)) -> FollowedObject:
    view = View(frame_with(corner), cover_at(*corner))
    look = appearance_of(view.frame.cells, view.cover[None])[0]
    return FollowedObject((view,), view, torch.stack([look, look]), torch.ones(2), lost)


@pytest.mark.parametrize(
    ("lost", "corner", "is_found"),
    [
        pytest.param(0, (2, 2), True, id="a step"),
        pytest.param(0, (3, 6), False, id="too far for one frame"),
        pytest.param(1, (3, 6), True, id="lost: anywhere"),
        pytest.param(SETTINGS.searched_frames, (1, 1), False, id="lost for long: not looked for"),
    ],
)
def test_lost_objects_are_looked_for_everywhere_for_some_time(lost: int, corner: tuple[int, int], is_found: bool):
    carried = carry_masks([followed(lost), FollowedObject()], frame_with(corner, 1), SETTINGS)
    assert torch.equal(carried[0] > 0.5, cover_at(*corner) > 0) is is_found
    assert not carried[1].any()


@pytest.mark.parametrize(
    ("signs", "usual", "lost", "is_present"),
    [
        pytest.param([0.9, 0.9, 0.9, 0.9], [0.95, 0.95], False, True, id="all signs"),
        pytest.param([0.9, 0.9, 0.6, 0.9], [0.95, 0.95], False, False, id="looks different"),
        pytest.param([0.4, 0.9, 0.9, 0.9], [0.95, 0.95], False, False, id="predicted IoU"),
        pytest.param([0.4, 0.4, 0.9, 0.9], [0.5, 0.5], False, True, id="as usual for this model"),
        pytest.param([0.9, 0.9, 0.9, 0.1], [0.95, 0.95], False, False, id="somewhere else"),
        pytest.param([0.7, 0.9, 0.9, 0.9], [0.95, 0.95], True, False, id="found again: higher thresholds"),
    ],
)
def test_the_least_sign_decides(signs: list[float], usual: list[float], lost: bool, is_present: bool):
    presence = presence_of(torch.tensor([signs]), torch.tensor([usual]), torch.tensor([lost]), SETTINGS)
    assert 0 <= presence.item() <= 1
    assert (presence.item() >= 0.5) is is_present


def test_the_box_of_a_prompt_is_in_pixels_of_the_frame():
    predictor = segany.Predictor(segany.SegAny(SEGMENTER).eval())  # 64 pixels, cells of 8
    embedding = predictor.encode(torch.zeros(96, 128, 3, dtype=torch.uint8).numpy())
    carried = cover_at(1, 2)[None]
    prompts = mask_and_box(carried, embedding, predictor, margin=0.0)
    assert prompts.boxes is not None and prompts.masks is not None
    # Cells are of 16 pixels of the frame, and masks of a quarter of that.
    assert (prompts.boxes[0] - torch.tensor([32.0, 16.0, 64.0, 48.0])).abs().max() <= 4
    assert prompts.masks.shape == (1, 1, 32, 32)
    faint = mask_and_box(0.3 * cover_at(1, 2)[None], embedding, predictor, margin=0.0)
    assert torch.equal(faint.boxes, prompts.boxes)


def test_an_object_smaller_than_a_cell_is_known():
    tracking = PropagationTracker(segany.Predictor(segany.SegAny(SEGMENTER).eval())).start((300, 400))
    image = drawn_clip({"dog": [(100, 100)]}, size=(300, 400)).images[0]
    speck = torch.zeros(1, 300, 400, dtype=torch.bool)
    speck[0, 100, 200] = True
    tracking.show(0, image)
    tracking.give({1: encode_rle(speck)[0]})
    tracking.show(1, image)
    assert set(tracking.track()) == {1}


def test_kind_propagation_has_no_weights():
    config = PipelineConfig(video=VideoConfig(kind="propagation", checkpoint="never/downloaded"))
    assert checkpoints.VIDEO not in checkpoints.offered_parts(config)
    assert config.video.weights is None
    with pytest.raises(ConfigError, match="no weights of its own"):
        trackers.locate(config.video)


def test_what_does_not_fit_is_said():
    other = segany.Predictor(segany.SegAny(SEGMENTER).eval())
    with pytest.raises(ConfigError, match=r"kind: propagation.*another image model"):
        trackers.build(VideoConfig(kind="segany"), "cpu", other)
    with pytest.raises(ConfigError, match="propagation needs a segmenter of kind segany, got a str"):
        trackers.build(VideoConfig(kind="propagation"), "cpu", "sam2")  # type: ignore[arg-type]


@pytest.mark.slow
def test_things_are_followed_lost_and_found_again(bundled_tracker: VideoSegmenter):
    """The dog leaves and comes back elsewhere; the lemon stays."""
    path = [*line((100, 120), (124, 120), 4), None, None, *line((60, 70), (76, 70), 3)]
    clip = drawn_clip({"dog": path, "lemon": line((250, 180), (230, 60), 9)})
    tracking = bundled_tracker.start((240, 320))
    found: list[dict[int, TrackedMask]] = []
    for number, image in enumerate(clip.images):
        tracking.show(number, image)
        found.append(tracking.track())
        if number == 0:
            tracking.give(dict(enumerate(clip.rles[0])))
    for number in range(1, 9):
        assert iou(found[number][1].rle, clip.rles[number][1]) > 0.85
    assert min(iou(found[number][0].rle, clip.rles[number][0]) for number in (1, 2, 3, 7, 8)) > 0.85
    for number in (4, 5):
        assert found[number][0].presence < 0.5 and rle_area([found[number][0].rle])[0] == 0


@pytest.fixture(scope="module")
def bundled_tracker() -> VideoSegmenter:
    return PropagationTracker(segany.Predictor(segany.load("tiny")))


def iou(found: RLE, truth: RLE) -> float:
    return float(rle_iou([found], [truth])[0, 0])
