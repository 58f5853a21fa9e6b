"""SAM 2, EdgeTAM and SAM 3's tracker frame by frame, beside transformers' own way through a whole clip."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import segany
from grounded.config import VideoConfig
from grounded.data.protocols import TrackedMask
from grounded.errors import ConfigError
from grounded.models import trackers
from grounded.models.sam2_checkpoint import TRACKERS, model_size
from grounded.models.trackers.sam2 import MOST_PROMPTED, Sam2Tracker
from segany.utils.rle import RLE, encode_rle, rle_area
from tests.grounded.models import sam2_models

SIZE = (48, 80)
FRAMES = sam2_models.clip(9, *SIZE)  # more than a model of six object pointers remembers
MASKS = {1: sam2_models.mask(4), 2: sam2_models.mask(44, 20)}
RLES = {name: encode_rle(torch.from_numpy(mask)[None])[0] for name, mask in MASKS.items()}


@pytest.fixture(scope="module", params=["sam2", "edgetam", "sam3"])
def tracker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sam2Tracker:
    return load(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Sam2Tracker:
    return load("sam2", tmp_path_factory.mktemp("sam2"))


def load(kind: str, folder: Path) -> Sam2Tracker:
    return Sam2Tracker.from_pretrained(sam2_models.save(kind, folder), TRACKERS[kind])


def whole_clip(
    tracker: Sam2Tracker, masks: dict[int, np.ndarray], backwards: bool = False
) -> list[dict[int, tuple[RLE, float]]]:
    """Masks and presences by transformers, which is given the clip as a whole."""
    side = model_size(tracker.model)
    processor, size = tracker.image_processor, {"height": side, "width": side}
    clip = processor(images=[np.array(frame) for frame in FRAMES], size=size, return_tensors="pt")["pixel_values"]
    session = tracker.new_session(SIZE)
    session.processed_frames = dict(enumerate(clip))
    start = len(FRAMES) - 1 if backwards else 0
    for name, mask in masks.items():
        resized = F.interpolate(
            torch.from_numpy(mask)[None, None].float(), (side, side), mode="bilinear", antialias=True
        )
        session.add_mask_inputs(session.obj_id_to_idx(name), start, (resized >= 0.5).float())
    session.obj_with_new_inputs = list(masks)
    tracker.model(session, frame_idx=start)
    found = []
    for output in tracker.model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=backwards):
        full = tracker.image_processor.post_process_masks([output.pred_masks], [SIZE])[0][:, 0]
        presences = output.object_score_logits.flatten().sigmoid().tolist()
        found.append(dict(zip(output.object_ids, zip(encode_rle(full), presences, strict=True), strict=True)))
    return found


def frame_by_frame(
    tracker: Sam2Tracker, masks: dict[int, RLE], backwards: bool = False
) -> list[dict[int, TrackedMask]]:
    tracking, found = tracker.start(SIZE), []
    for number in reversed(range(len(FRAMES))) if backwards else range(len(FRAMES)):
        tracking.show(number, FRAMES[number])
        if not found:
            tracking.give(masks)
        found.append(tracking.track())
    return found


def assert_same(streamed: list[dict[int, TrackedMask]], whole: list[dict[int, tuple[RLE, float]]], name: int) -> None:
    for one, other in zip(streamed, whole, strict=True):
        rle, presence = other[name]
        assert one[name].rle == rle
        assert one[name].presence == pytest.approx(presence, abs=1e-5)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_it_equals_transformers_on_the_whole_clip(tracker: Sam2Tracker, backwards: bool):
    streamed = frame_by_frame(tracker, {1: RLES[1]}, backwards)
    assert_same(streamed, whole_clip(tracker, {1: MASKS[1]}, backwards), 1)
    areas = [int(rle_area([masks[1].rle])[0]) for masks in streamed]
    assert len(set(areas)) > 3  # something is tracked at all


def test_several_objects_equal_transformers(sam2: Sam2Tracker):
    streamed, whole = frame_by_frame(sam2, RLES), whole_clip(sam2, MASKS)
    for name in MASKS:
        assert_same(streamed, whole, name)


def test_an_absent_object_is_nowhere(sam2: Sam2Tracker):
    bias = sam2.model.mask_decoder.pred_obj_score_head.proj_out.bias
    before = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.fill_(-20.0)
        found = frame_by_frame(sam2, {1: RLES[1]})[1][1]
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert found.presence < 0.5 and found.predicted_iou == 0 and rle_area([found.rle])[0] == 0


def test_the_predicted_iou_is_that_of_the_decoder(sam2: Sam2Tracker):
    noted: list[float] = []
    hook = sam2.model.mask_decoder.register_forward_hook(lambda _, __, output: noted.append(float(output[1].max())))
    found = frame_by_frame(sam2, {1: RLES[1]})
    hook.remove()
    assert [masks[1].predicted_iou for masks in found[1:]] == pytest.approx(noted[1:])  # the first is of the given mask
    assert found[0][1].predicted_iou == 1


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_a_session_holds_what_can_still_be_read(sam2: Sam2Tracker, count: int):
    tracking = sam2.start(SIZE)
    for number in range(count):
        tracking.show(number, FRAMES[number % len(FRAMES)])
        if number % 3 == 0:
            tracking.give({1: RLES[1]})
        else:
            tracking.track()
    (session,) = tracking._sessions.values()
    outputs, memory = session.output_dict_per_obj[0], sam2_models.MEMORY
    assert len(outputs["cond_frame_outputs"]) == MOST_PROMPTED and 0 in outputs["cond_frame_outputs"]
    assert sorted(outputs["cond_frame_outputs"])[1:] == [n for n in range(count) if n % 3 == 0][1 - MOST_PROMPTED :]
    assert len(outputs["non_cond_frame_outputs"]) <= memory["max_object_pointers_in_encoder"]
    with_features = [one for one in outputs["non_cond_frame_outputs"].values() if "maskmem_features" in one]
    assert len(with_features) <= memory["num_maskmem"]
    with_features += outputs["cond_frame_outputs"].values()
    assert len({id(one["maskmem_pos_enc"]) for one in with_features}) == 1
    assert not any("high_res_masks" in one for one in with_features)
    assert session.processed_frames is None
    assert not session.mask_inputs_per_obj[0] and not session.frames_tracked_per_obj[0]


def test_a_turn_after_a_while(sam2: Sam2Tracker):
    """What was removed while it was far away is not missed when it is near again."""
    tracking = sam2.start(SIZE)
    for number in (*range(9), *range(7, -1, -1), *range(5, 9)):
        tracking.show(number, FRAMES[number])
        if number == 0:
            tracking.give({1: RLES[1]})
        assert set(tracking.track()) == {1}


def test_an_object_of_one_pixel_is_there(sam2: Sam2Tracker):
    dot = np.zeros((480, 800), bool)
    dot[100, 200] = True
    tracking = sam2.start((480, 800))
    tracking.show(0, FRAMES[0].resize((800, 480)))
    tracking.give({1: encode_rle(torch.from_numpy(dot)[None])[0]})
    assert tracking.track()[1].presence > 0.5


class TestMetaFiles:
    """The published image encoder of the smallest size, at the published image size, with random weights."""

    @pytest.mark.slow
    @pytest.mark.long
    def test_a_file_equals_the_folder(self, tmp_path: Path):
        found = []
        for source in sam2_models.save_published_size(tmp_path):
            tracking = Sam2Tracker.from_pretrained(source).start(SIZE)
            for number in range(2):
                tracking.show(number, FRAMES[number])
                if number == 0:
                    tracking.give(RLES)
            found.append(tracking.track())
        assert found[0] == found[1]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["sam2/sam2_hiera_t", "sam2.1/sam2.1_hiera_t"])
    def test_a_file_equals_the_original_package(self, name: str, tmp_path: Path):
        pytest.importorskip("sam2", reason="the original package is not installed")
        original = _original(name)
        torch.save({"model": original.state_dict()}, tmp_path / "model.pt")
        tracker, (side, count) = Sam2Tracker.from_pretrained(tmp_path / "model.pt"), (1024, 3)
        frames, mask = sam2_models.clip(count, side, side), sam2_models.mask(100, 100, side, side)
        (tmp_path / "frames").mkdir()
        for number, frame in enumerate(frames):
            frame.save(tmp_path / "frames" / f"{number:05d}.jpg", quality=100)
        state = original.init_state(str(tmp_path / "frames"))
        state["num_frames"] = 100  # of which it makes how many object pointers it reads
        original.add_new_mask(state, 0, 1, mask)
        expected = [
            logits[0, 0] > 0 for _, _, logits in original.propagate_in_video(state, 0, max_frame_num_to_track=count - 1)
        ]
        tracking = tracker.start((side, side))
        for number in range(count):
            tracking.show(number, segany.utils.images.read_image(tmp_path / "frames" / f"{number:05d}.jpg").pixels)
            if number == 0:
                tracking.give({1: encode_rle(torch.from_numpy(mask)[None])[0]})
            found = segany.utils.rle.decode_rle([tracking.track()[1].rle])[0]
            assert (found != expected[number]).float().mean() < 1e-3


def _original(name: str) -> Any:
    from hydra import compose
    from hydra.utils import instantiate

    settings = compose(
        config_name=f"configs/{name}.yaml",
        overrides=[
            "++model._target_=sam2.sam2_video_predictor.SAM2VideoPredictor",
            "++model.binarize_mask_from_pts_for_mem_enc=true",
        ],
    )
    torch.manual_seed(0)
    return instantiate(settings.model).eval()


def test_segany_needs_its_own_segmenter():
    class Other:
        pass

    with pytest.raises(ConfigError, match="video of kind segany needs a segmenter of kind segany, got a Other"):
        trackers.build(VideoConfig(kind="segany"), "cpu", Other())  # type: ignore[arg-type]
