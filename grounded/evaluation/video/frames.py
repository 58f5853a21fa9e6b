"""Compares the objects of truth and prediction in one frame: what the measures of a clip are made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64

from grounded.errors import ResultError
from grounded.evaluation.video.clips import FrameObjects
from grounded.evaluation.video.davis import (
    Boundary,
    RegionAndBoundary,
    boundary_f,
    region_similarity,
    tolerance_in_pixels,
)
from grounded.evaluation.video.sources import ClipPair
from segany.utils.boxes import box_iou
from segany.utils.rle import RLE, decode_rle, rle_containment, rle_iou

MATCH = 0.5  # IoU from which a prediction is the object


@dataclass(frozen=True, eq=False)
class FrameComparison:
    """What the true and the predicted objects of a frame have in common.

    truth_ids      of the n true objects
    predicted_ids  of all predicted objects
    counted_ids    of those k that do not lie in ignored pixels
    iou            (n, k) of masks, or of boxes where one side has boxes alone
    masks          J and F of pairs of a true and a predicted object, and of each with an empty mask, whose id is None;
                   those that are both 0 are left out; None where one side has boxes alone
    """

    number: int
    truth_ids: tuple[int, ...]
    predicted_ids: tuple[int, ...]
    counted_ids: tuple[int, ...]
    iou: Float64[np.ndarray, "n k"]
    masks: Mapping[tuple[int | None, int | None], RegionAndBoundary] | None

    def masks_of(self, truth: int, prediction: int | None) -> RegionAndBoundary:
        """J and F of a true and a predicted object, whether they are in sight or not."""
        assert self.masks is not None
        key = (truth if truth in self.truth_ids else None, prediction if prediction in self.predicted_ids else None)
        return RegionAndBoundary(1, 1) if key == (None, None) else self.masks.get(key, RegionAndBoundary(0, 0))


def compare_frame(pair: ClipPair, number: int, *, measure_masks: bool = True, same_ids: bool = True) -> FrameComparison:
    """Compare the objects of one frame.

    Args:
        pair: the clip.
        number: of the frame, in the truth.
        measure_masks: compute J and F too.
        same_ids: of each true object and the prediction of the same id, with ignored pixels as background (DAVIS 2017,
            semi-supervised). Otherwise of all pairs, without ignored pixels (DAVIS 2019, unsupervised).

    Raises:
        ResultError: the frame cannot be read, or truth and prediction differ in size.
    """
    truth, prediction = pair.truth.read(number), pair.prediction.read(number + pair.shift)
    if truth.image_size and prediction.image_size and truth.image_size != prediction.image_size:
        raise ResultError(
            f"clip {pair.truth.name}, frame {number}: the prediction must have the (height, width) of the truth, "
            f"{truth.image_size}, got {prediction.image_size}"
        )
    iou = frame_iou(truth, prediction)
    are_counted = _are_counted(truth, prediction, iou)
    has_masks = truth.rles is not None and prediction.rles is not None
    return FrameComparison(
        number=number,
        truth_ids=truth.ids,
        predicted_ids=prediction.ids,
        counted_ids=tuple(id for id, is_counted in zip(prediction.ids, are_counted, strict=True) if is_counted),
        iou=iou[:, are_counted],
        masks=_compare_masks(truth, prediction, same_ids) if measure_masks and has_masks else None,
    )


def frame_iou(truth: FrameObjects, prediction: FrameObjects) -> Float64[np.ndarray, "n m"]:
    """IoU of all true with all predicted objects: of their masks, or where one side has boxes alone, of their boxes."""
    if truth.rles is not None and prediction.rles is not None:
        return rle_iou(truth.rles, prediction.rles)
    return box_iou(torch.from_numpy(truth.boxes), torch.from_numpy(prediction.boxes)).double().numpy()


def _are_counted(
    truth: FrameObjects, prediction: FrameObjects, iou: Float64[np.ndarray, "n m"]
) -> Bool[np.ndarray, "m"]:
    """Whether predicted objects count: not where they match none and lie in ignored pixels by more than half (MOTS)."""
    if truth.ignored is None or not prediction.rles:
        return np.ones(len(prediction.ids), bool)
    is_inside = rle_containment(prediction.rles, [truth.ignored])[:, 0] > 0.5
    return ~is_inside | (iou >= MATCH).any(axis=0)


def _compare_masks(
    truth: FrameObjects, prediction: FrameObjects, same_ids: bool
) -> dict[tuple[int | None, int | None], RegionAndBoundary]:
    """J and F of the pairs of objects, as in `FrameComparison.masks`."""
    image_size = truth.image_size or prediction.image_size
    if image_size is None:
        return {}
    ignored = None if same_ids else truth.ignored
    true, found = _decode(truth, image_size, ignored), _decode(prediction, image_size, ignored)
    if same_ids:
        pairs = [(id if id in true else None, id if id in found else None) for id in {**true, **found}]
    else:
        pairs = [(a, b) for a in (*true, None) for b in (*found, None) if (a, b) != (None, None)]
    true[None] = found[None] = np.zeros(image_size, bool)
    true_boundaries = {id: Boundary.of(mask) for id, mask in true.items()}
    found_boundaries = {id: Boundary.of(mask) for id, mask in found.items()}
    radius = tolerance_in_pixels(image_size)
    measures = {
        (a, b): RegionAndBoundary(
            region_similarity(found[b], true[a]), boundary_f(found_boundaries[b], true_boundaries[a], radius)
        )
        for a, b in pairs
    }
    return {pair: measure for pair, measure in measures.items() if any(measure)}


def _decode(
    objects: FrameObjects, image_size: tuple[int, int], ignored: RLE | None
) -> dict[int | None, Bool[np.ndarray, "h w"]]:
    """The masks of objects by id, without ignored pixels."""
    masks = decode_rle(objects.rles or (), image_size).numpy()
    if ignored is not None:
        masks &= ~decode_rle([ignored]).numpy()
    return dict(zip(objects.ids, masks, strict=True))
