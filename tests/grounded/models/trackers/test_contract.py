"""The contract that every video segmenter fulfils, on a small model of each kind with random weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from PIL import Image

import segany
from grounded.config import VideoConfig
from grounded.data.protocols import TrackedMask, Tracking, VideoSegmenter
from grounded.models import trackers
from segany.utils.rle import RLE, encode_rle, rle_area
from segany.video.config import MemoryConfig
from segany.video.memory import VideoMemory
from segany.video.predictor import VideoPredictor
from tests.grounded.conftest import SEGMENTER
from tests.grounded.models import sam2_models

SIZE = (48, 80)  # (height, width) of the frames
FRAMES = sam2_models.clip(6, *SIZE)


def square(x: int, y: int = 12) -> RLE:
    return encode_rle(torch.from_numpy(sam2_models.mask(x, y, *SIZE))[None])[0]


NETWORKS = (torch.nn.Module, VideoSegmenter, segany.Predictor, VideoPredictor)
NOTHING = encode_rle(torch.zeros(1, *SIZE, dtype=torch.bool))[0]


# The last two are followed by the same code as sam2, and compared with transformers in test_sam2.py.
KINDS = ["segany", "propagation", "sam2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("edgetam", "sam3"))]


@pytest.fixture(scope="module", params=KINDS)
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoSegmenter:
    torch.manual_seed(0)
    predictor = segany.Predictor(segany.SegAny(SEGMENTER).eval())
    if request.param == "segany":
        from grounded.models.trackers.segany import SeganyTracker

        sizes = MemoryConfig(memory_dim=16, attention_depth=1, attention_dim=16, attention_mlp_dim=32, fuser_depth=1)
        memory = VideoMemory(SEGMENTER, sizes).eval()
        return SeganyTracker(VideoPredictor(predictor, memory))
    if request.param == "propagation":
        from grounded.models.trackers.propagation import PropagationSettings, PropagationTracker

        # Random weights are sure of nothing; so everything is believed.
        signs = ("predicted_iou", "stability", "likeness", "agreement")
        believed = {name: 0.0 for sign in signs for name in (sign, f"found_{sign}")}
        return PropagationTracker(predictor, PropagationSettings(**believed))
    folder = sam2_models.save(request.param, tmp_path_factory.mktemp(request.param))
    return trackers.build(VideoConfig(kind=request.param, checkpoint=str(folder)), "cpu", predictor)


def follow(
    segmenter: VideoSegmenter,
    given: dict[int, dict[int, RLE]],
    frames: Sequence[Image.Image] = FRAMES,
    numbers: Sequence[int] | None = None,
) -> list[dict[int, TrackedMask]]:
    """The masks in each frame, with masks given after tracking, by position of the frame."""
    tracking, found = segmenter.start(SIZE), []
    for position, (number, image) in enumerate(zip(numbers or range(len(frames)), frames, strict=True)):
        tracking.show(number, image)
        found.append(tracking.track())
        tracking.give(given.get(position, {}))
    return found


def assert_same(actual: TrackedMask, expected: TrackedMask) -> None:
    assert actual.rle == expected.rle
    assert actual.presence == pytest.approx(expected.presence, abs=1e-5)
    assert actual.predicted_iou == pytest.approx(expected.predicted_iou, abs=1e-5)


def test_it_is_a_video_segmenter(segmenter: VideoSegmenter):
    assert isinstance(segmenter, VideoSegmenter)
    assert isinstance(segmenter.start(SIZE), Tracking)


def test_without_objects_there_are_no_masks(segmenter: VideoSegmenter):
    tracking = segmenter.start(SIZE)
    tracking.show(0, FRAMES[0])
    tracking.give({})
    tracking.forget([3])
    assert tracking.track() == {}


def test_masks_are_well_formed(segmenter: VideoSegmenter):
    found = follow(segmenter, {0: {5: square(4), 2: square(40)}}, FRAMES[:3])
    assert [list(masks) for masks in found] == [[], [5, 2], [5, 2]]
    for masks in found:
        for one in masks.values():
            assert tuple(one.rle["size"]) == SIZE
            assert 0 <= one.presence <= 1 and 0 <= one.predicted_iou <= 1
            if one.presence < 0.5:
                assert rle_area([one.rle])[0] == 0 and one.predicted_iou == 0


def test_an_object_is_followed_as_if_it_were_alone(segmenter: VideoSegmenter):
    alone = follow(segmenter, {0: {1: square(4)}}, FRAMES[:4])
    several = follow(segmenter, {0: {1: square(4), 2: square(40)}, 1: {3: square(20)}}, FRAMES[:4])
    later = follow(segmenter, {1: {3: square(20)}}, FRAMES[:4])
    assert [set(masks) for masks in several] == [set(), {1, 2}, {1, 2, 3}, {1, 2, 3}]
    for position in (1, 2, 3):
        assert_same(several[position][1], alone[position][1])
    for position in (2, 3):
        assert_same(several[position][3], later[position][3])


def test_a_correction_changes_what_follows_and_nothing_else(segmenter: VideoSegmenter):
    first = {1: square(4), 2: square(40)}
    plain = follow(segmenter, {0: first}, FRAMES[:4])
    corrected = follow(segmenter, {0: first, 2: {1: square(50, 0)}}, FRAMES[:4])
    assert_same(corrected[2][1], plain[2][1])  # tracked before it was corrected
    assert corrected[3][1] != plain[3][1]
    assert_same(corrected[3][2], plain[3][2])


def test_the_last_of_two_corrections_counts(segmenter: VideoSegmenter):
    once, twice = segmenter.start(SIZE), segmenter.start(SIZE)
    for tracking, masks in ((once, [square(4)]), (twice, [square(50, 0), square(4)])):
        tracking.show(0, FRAMES[0])
        for mask in masks:
            tracking.give({1: mask})
        tracking.show(1, FRAMES[1])
    assert_same(twice.track()[1], once.track()[1])


def test_what_is_forgotten_is_not_followed(segmenter: VideoSegmenter):
    tracking = segmenter.start(SIZE)
    tracking.show(0, FRAMES[0])
    tracking.give({1: square(4), 2: square(40)})
    tracking.forget([1, 7])
    tracking.show(1, FRAMES[1])
    assert list(tracking.track()) == [2]
    tracking.give({1: square(20)})  # begins anew
    tracking.show(2, FRAMES[2])
    begun = follow(segmenter, {1: {1: square(20)}}, FRAMES[:3])
    assert_same(tracking.track()[1], begun[2][1])


def test_an_object_that_is_not_in_sight(segmenter: VideoSegmenter):
    found = follow(segmenter, {0: {1: square(4)}, 1: {1: NOTHING}}, FRAMES[:3])
    seen = follow(segmenter, {0: {1: square(4)}, 1: {1: square(6)}}, FRAMES[:3])
    assert set(found[2]) == {1}
    assert found[2][1] != seen[2][1]


def test_backwards_is_forwards_in_time_reversed(segmenter: VideoSegmenter):
    forwards = follow(segmenter, {0: {1: square(4)}, 2: {2: square(40)}}, numbers=range(10, 16))
    backwards = follow(segmenter, {0: {1: square(4)}, 2: {2: square(40)}}, numbers=range(15, 9, -1))
    for one, other in zip(forwards, backwards, strict=True):
        assert set(one) == set(other)
        for name in one:
            assert_same(other[name], one[name])


def test_clips_do_not_disturb_one_another(segmenter: VideoSegmenter):
    expected = follow(segmenter, {0: {1: square(4)}}, FRAMES[:3])
    tracking, other, found = segmenter.start(SIZE), segmenter.start((32, 32)), []
    for number, image in enumerate(FRAMES[:3]):
        tracking.show(number, image)
        other.show(number, image.resize((32, 32)))
        found.append(tracking.track())
        if number == 0:
            tracking.give({1: square(4)})
            other.give({1: encode_rle(torch.ones(1, 32, 32, dtype=torch.bool))[0]})
        other.track()
    for one, other_one in zip(found[1:], expected[1:], strict=True):
        assert_same(one[1], other_one[1])


def test_frames_of_another_size_are_refused(segmenter: VideoSegmenter):
    tracking = segmenter.start(SIZE)
    with pytest.raises(ValueError, match="frame 3 must be"):
        tracking.show(3, Image.new("RGB", (10, 10)))


def test_a_mask_needs_a_frame(segmenter: VideoSegmenter):
    with pytest.raises(ValueError, match="no frame is shown"):
        segmenter.start(SIZE).give({1: square(4)})


@pytest.mark.parametrize(
    ("count", "frames_before"), [(20, 12), pytest.param(200, 80, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_memory_is_bounded(segmenter: VideoSegmenter, count: int, frames_before: int):
    tracking, sizes = segmenter.start(SIZE), []
    for number in range(count):
        tracking.show(number, FRAMES[number % len(FRAMES)])
        tracking.track()
        if (count > 20 and number % 8 == 0) or number == 0:  # masks of key frames correct the track
            tracking.give({1: square(4)})
        sizes.append(held(tracking))
    longest = max(sizes[:frames_before])
    # Segany remembers the pointers of 16 frames, 1 kB each.
    assert max(sizes[frames_before:]) <= longest + (20_000 if count == 20 else 0)


def held(tracking: Tracking) -> int:
    """Bytes of the tensors that a tracking holds, without those of the networks."""
    return sum({id(tensor): tensor.untyped_storage().nbytes() for tensor in _tensors(vars(tracking), set())}.values())


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(value) in seen or isinstance(value, NETWORKS):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one, seen)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _tensors(one, seen)
    elif type(value).__module__.startswith(("transformers.models", "grounded", "segany")):
        yield from _tensors(vars(value), seen)
