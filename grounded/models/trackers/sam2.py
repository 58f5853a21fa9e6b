"""SAM 2, EdgeTAM and SAM 3's tracker as a `VideoSegmenter`, by the networks of transformers, frame by frame.

Their state of a clip in transformers, an inference session, was made for clips that are there as a whole: it keeps
every frame and every output, tracks all objects again where the mask of one is given, and lets that mask change what
is remembered of the others in the frame. So each object has a session of its own here, with one image encoding of each
frame for all of them, and after each frame everything is removed that no later frame can read.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from threading import get_ident
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from grounded.data.protocols import TrackedMask
from grounded.errors import ImageError
from grounded.models.sam2_checkpoint import SAM2, Family, load_checkpoint, model_size
from segany.precision import own_precision
from segany.utils.rle import RLE, decode_rle, encode_rle

# Frames of each object whose mask was given that are remembered: the first, and the nearest to the frame that is shown.
# Without a limit both memory and time would grow with every correction of a long clip.
MOST_PROMPTED = 8
_OBJECT = 0  # the only one in its session


class Sam2Tracker:
    """Follows objects with a network of SAM 2's family.

    Args:
        model: of transformers, for videos, in eval mode, on its device.
        image_processor: makes its input.
        family: to which the model belongs.
    """

    def __init__(self, model: Any, image_processor: Any, family: Family = SAM2) -> None:
        self.model, self.image_processor, self.family = model, image_processor, family

    @classmethod
    @own_precision()
    def from_pretrained(
        cls, source: str | PathLike[str], family: Family = SAM2, device: str | torch.device = "cpu"
    ) -> "Sam2Tracker":
        """Load a checkpoint: a folder in the layout of the Hugging Face hub, a hub id, or a `.pt` file of SAM 2.

        Raises:
            CheckpointError: files are missing, damaged or unreachable, or the weights do not fill the model.
            ConfigError: there are no bundled weights, or the installed transformers lacks the model.
        """
        model, image_processor = load_checkpoint(source, family)
        return cls(model.to(device), image_processor, family)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.model.parameters()).device

    def start(self, image_size: tuple[int, int]) -> "Sam2Tracking":
        """Begin a clip with frames of (height, width) pixels, without objects."""
        return Sam2Tracking(self, image_size)

    def new_session(self, image_size: tuple[int, int]) -> Any:
        """Return an inference session without objects, for frames of (height, width) pixels."""
        import transformers

        session = getattr(transformers, self.family.session)
        height, width = image_size
        places = dict.fromkeys(("inference_device", "inference_state_device", "video_storage_device"), str(self.device))
        return session(video_height=height, video_width=width, dtype=torch.float32, **places)


class Sam2Tracking:
    """A `Tracking` that holds one inference session for each object, and the frame that is shown."""

    def __init__(self, tracker: Sam2Tracker, image_size: tuple[int, int]) -> None:
        self.tracker, self.image_size = tracker, image_size
        self._sessions: dict[int, Any] = {}
        self._image_features = tracker.new_session(image_size).cache  # of the frame that is shown
        self._number: int | None = None
        self._pixels: Tensor | None = None
        self._is_backwards = False

    @property
    def embedding(self) -> None:
        """None: no image segmenter of the pipeline can use the features."""
        return

    @own_precision()
    def show(self, number: int, image: Image.Image) -> None:
        """Go to the frame of that number, an upright RGB image. Descending numbers mean backwards.

        Raises:
            ImageError: the frame has another size than the clip.
        """
        if (image.height, image.width) != self.image_size:
            height, width = self.image_size
            raise ImageError(f"frame {number} must be {width} x {height} pixels, got {image.width} x {image.height}")
        if self._number is not None and number != self._number:
            self._is_backwards = number < self._number
        side = model_size(self.tracker.model)
        processed = self.tracker.image_processor(
            images=[np.array(image)],
            input_data_format="channels_last",
            size={"height": side, "width": side},
            return_tensors="pt",
        )
        self._number, self._pixels = number, processed["pixel_values"].to(self.tracker.device)
        self._image_features.clear_all()
        for session in self._sessions.values():
            _forget_unreadable(session, number, self.tracker.model.config)

    @own_precision()
    def track(self) -> dict[int, TrackedMask]:
        """Return the masks of all objects in the frame that is shown, by the ids under which they were given."""
        return {name: self._track(session) for name, session in self._sessions.items()}

    @own_precision()
    def give(self, masks: Mapping[int, RLE]) -> None:
        """State the masks of some objects in the frame that is shown: new ones begin there, others are corrected."""
        for name, rle in masks.items():
            if name not in self._sessions:
                session = self.tracker.new_session(self.image_size)
                session.cache = self._image_features
                session.obj_id_to_idx(_OBJECT)
                self._sessions[name] = session
            self._give(self._sessions[name], rle)

    def forget(self, ids: Iterable[int]) -> None:
        """Follow these objects no longer."""
        for name in ids:
            self._sessions.pop(name, None)

    def _give(self, session: Any, rle: RLE) -> None:
        side = model_size(self.tracker.model)
        mask = decode_rle([rle])[:, None].float().to(self.tracker.device)
        resized = F.interpolate(mask, (side, side), mode="bilinear", antialias=True) >= 0.5
        if bool(mask.any()) and not bool(resized.any()):
            # An object of a few pixels in a large frame: it is there, so that at least its surest pixel stays.
            resized = F.adaptive_max_pool2d(mask, (side, side)) > 0
        # A correction replaces what was found in this frame, and is remembered as what was given (as in SAM 2 with
        # add_all_frames_to_correct_as_cond).
        outputs = session.output_dict_per_obj[_OBJECT]
        outputs["non_cond_frame_outputs"].pop(self._number, None)
        session.add_mask_inputs(_OBJECT, self._number, resized.float())
        session.obj_with_new_inputs = [_OBJECT]
        self._run(session)

    def _track(self, session: Any) -> TrackedMask:
        with _noted_ious(self.tracker.model) as ious:
            output = self._run(session)
        presence = output.object_score_logits.float().flatten()[0]
        if not bool((output.pred_masks > 0).any()):
            empty = encode_rle(torch.zeros(1, *self.image_size, dtype=torch.bool))[0]
            return TrackedMask(empty, float(presence.sigmoid()), 0.0)
        logits = F.interpolate(output.pred_masks.float(), self.image_size, mode="bilinear", align_corners=False)
        # Of a frame whose mask was given nothing is predicted.
        predicted_iou = min(max(ious[-1], 0.0), 1.0) if ious else 1.0
        return TrackedMask(encode_rle(logits[0] > 0)[0], float(presence.sigmoid()), predicted_iou)

    def _run(self, session: Any) -> Any:
        if self._pixels is None or self._number is None:
            raise ValueError("no frame is shown yet")
        output = self.tracker.model(
            inference_session=session, frame_idx=self._number, frame=self._pixels, reverse=self._is_backwards
        )
        _forget_unreadable(session, self._number, self.tracker.model.config)
        return output


@contextmanager
def _noted_ious(model: Any) -> Iterator[list[float]]:
    """Note the predicted IoU of the best mask at each use of the mask decoder, which an output does not state."""
    ious: list[float] = []
    thread = get_ident()  # another one may follow objects in another clip with the same model

    def note(_: Any, __: Any, output: Any) -> None:
        if get_ident() == thread:
            ious.append(float(output[1].max()))

    hook = model.mask_decoder.register_forward_hook(note)
    try:
        yield ious
    finally:
        hook.remove()


def _forget_unreadable(session: Any, number: int, config: Any) -> None:
    """Remove from a session what no frame from this one on reads.

    Memory attention reads the frames that were prompted, `num_maskmem` frames before, and the object pointers of
    `max_object_pointers_in_encoder` frames before; backwards likewise.
    """
    session.processed_frames = None
    session.mask_inputs_per_obj[_OBJECT].clear()
    # Empty, so that a mask that corrects a frame is kept as one that was given.
    session.frames_tracked_per_obj[_OBJECT].clear()
    prompted, tracked = (session.output_dict_per_obj[_OBJECT][f"{key}_frame_outputs"] for key in ("cond", "non_cond"))
    for frame in list(tracked):
        output, distance = tracked[frame], abs(frame - number)
        if distance >= max(config.num_maskmem, config.max_object_pointers_in_encoder):
            del tracked[frame]
        elif distance >= config.num_maskmem:
            tracked[frame] = {"object_pointer": output["object_pointer"]}
        elif "maskmem_features" not in output:  # was removed when it was further away, as before a turn
            del tracked[frame]
        else:
            for name in ("high_res_masks", "pred_masks"):
                output.pop(name, None)
    first = next(iter(prompted), None)
    others = sorted((frame for frame in prompted if frame != first), key=lambda frame: abs(frame - number))
    for frame in others[MOST_PROMPTED - 1 :]:
        del prompted[frame]
    for output in prompted.values():
        output.pop("high_res_masks", None)
    _share_positions([*prompted.values(), *tracked.values()])


def _share_positions(outputs: list[dict[str, Tensor]]) -> None:
    """Hold once what is the same in all frames: the position code of memory cells takes twice the room of the cells."""
    with_positions = [output for output in outputs if "maskmem_pos_enc" in output]
    for output in with_positions[1:]:
        first, own = with_positions[0]["maskmem_pos_enc"], output["maskmem_pos_enc"]
        if own is not first and torch.equal(own, first):
            output["maskmem_pos_enc"] = first
