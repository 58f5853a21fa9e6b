"""Masks of everything in an image, from a grid of point prompts (Segment Anything, section 5 and appendix B)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from segany.automatic_masks import AutomaticMasks
from segany.boxes import box_area, nms
from segany.crops import Crop, layered_crops, near_crop_edge
from segany.masks import encode_rle, mask_area, masks_to_boxes, remove_small_regions, rle_area, stability_score
from segany.points import FOREGROUND, build_layer_point_grids
from segany.predictor import ImageEmbedding, MaskPrediction, Predictor
from segany.prompts import Prompts
from segany.transforms import ImageLike, open_image

# Full-size logits held at once, in pixels: 256 MB of float32.
_PIXELS_AT_ONCE = 1 << 26


@dataclass(frozen=True, eq=False)
class AutomaticMaskGenerator:
    """Prompts an image with a grid of points and keeps the masks that are good, stable and distinct.

    Arguments and defaults are those of segment-anything's `SamAutomaticMaskGenerator`, and so are the answers. The
    defaults were chosen for ViT-H.

    Raises ValueError for arguments that do not fit together.
    """

    predictor: Predictor
    points_per_side: int | None = 32  # None: the points come from point_grids
    points_per_batch: int = 64  # prompts in one call of the predictor; does not change the answers
    pred_iou_thresh: float = 0.88  # masks stay above this predicted IoU; 0 keeps all
    stability_score_thresh: float = 0.95  # masks stay from this stability score on; 0 keeps all
    stability_score_offset: float = 1.0  # logits by which the cut is moved to measure stability
    box_nms_thresh: float = 0.7  # box IoU above which one of two masks of the same crop is dropped
    crop_n_layers: int = 0  # layer i adds 2**i by 2**i crops of the image, each prompted with a grid of its own
    crop_nms_thresh: float = 0.7  # box IoU above which one of two masks of different crops is dropped
    crop_overlap_ratio: float = 512 / 1500  # overlap of crops in layer 1, as a part of the image's short side
    crop_n_points_downscale_factor: int = 1  # layer i has points_per_side / factor**i points to a side
    point_grids: Sequence[Float[Tensor | np.ndarray, "_ 2"]] | None = None  # in [0, 1], one for each layer
    min_mask_region_area: int = 0  # holes and islands of fewer pixels are removed; 0 leaves masks as they are

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ValueError("exactly one of points_per_side and point_grids must be given")
        if self.points_per_batch < 1:
            raise ValueError(f"points_per_batch must be at least 1, got {self.points_per_batch}")
        if self.crop_n_layers < 0:
            raise ValueError(f"crop_n_layers must not be negative, got {self.crop_n_layers}")
        if self.point_grids is not None and len(self.point_grids) <= self.crop_n_layers:
            layers = self.crop_n_layers + 1
            raise ValueError(f"point_grids must hold a grid for each of {layers} layers, got {len(self.point_grids)}")

    @torch.no_grad()
    def generate(
        self,
        image: ImageLike,
        progress: bool | Callable[[int, int], None] = False,
        embedding: ImageEmbedding | None = None,
    ) -> AutomaticMasks:
        """Find the masks of everything in `image`.

        Masks come best predicted IoU first. With crops, those of the smallest crops come first, and with
        `min_mask_region_area`, those that were clean already.

        Args:
            image: PIL image, path or uint8 (height, width, 3) RGB array, as `Predictor.encode` takes it.
            progress: True shows a progress bar; a function is called with (points done, points in all).
            embedding: of the whole image, where the caller has it; crops are embedded in any case.

        Raises ImageError as `open_image` does.
        """
        picture = open_image(image)
        grids = self._point_grids()
        crops = layered_crops((picture.height, picture.width), self.crop_n_layers, self.crop_overlap_ratio)
        counter = _PointCounter(progress, total=sum(len(grids[crop.layer]) for crop in crops))
        found = AutomaticMasks.concatenate(
            [
                self._search_crop(picture, crop, grids[crop.layer], counter, embedding if crop.layer == 0 else None)
                for crop in crops
            ]
        )
        if len(crops) > 1:
            # Prefer masks from smaller crops.
            found = found[nms(found.boxes, 1 / box_area(found.crop_boxes), self.crop_nms_thresh)]
        return self._clean(found) if self.min_mask_region_area > 0 else found

    def _point_grids(self) -> list[Float[Tensor, "_ 2"]]:
        """Points in [0, 1] for each layer of crops."""
        if self.point_grids is not None:
            return [torch.as_tensor(grid, dtype=torch.float32, device="cpu") for grid in self.point_grids]
        assert self.points_per_side is not None  # checked in __post_init__
        return build_layer_point_grids(self.points_per_side, self.crop_n_layers, self.crop_n_points_downscale_factor)

    def _search_crop(
        self,
        picture: Image.Image,
        crop: Crop,
        grid: Float[Tensor, "n 2"],
        counter: "_PointCounter",
        embedding: ImageEmbedding | None,
    ) -> AutomaticMasks:
        """Distinct masks found in one crop of the picture."""
        image_size = (picture.height, picture.width)
        height, width = crop.size
        embedding = embedding or self.predictor.encode(picture.crop(crop.box))
        candidates = []
        for points in (grid * torch.tensor([width, height])).split(self.points_per_batch):
            candidates += self._propose(embedding, points, crop, image_size)
            counter.advance(len(points))
        merged = _Candidates.concatenate(candidates)
        kept = merged[nms(merged.boxes, merged.prediction.predicted_iou[:, 0], self.box_nms_thresh)]
        return _encode(kept, crop, image_size)

    def _propose(
        self, embedding: ImageEmbedding, points: Float[Tensor, "n 2"], crop: Crop, image_size: tuple[int, int]
    ) -> list["_Candidates"]:
        """Good and stable masks for points in pixels of the crop."""
        labels = torch.full((len(points), 1), FOREGROUND)
        prediction = self.predictor.predict(embedding, Prompts(points=points[:, None], point_labels=labels))
        points = points.repeat_interleave(prediction.predicted_iou.shape[1], dim=0).to(prediction.predicted_iou.device)
        prediction = _one_mask_per_prompt(prediction)
        if self.pred_iou_thresh > 0:  # predicted IoU can be negative, and 0 means no filter
            # Few masks pass, and only those are worth drawing at full size.
            good = prediction.predicted_iou[:, 0] > self.pred_iou_thresh
            prediction, points = prediction[good], points[good]
        parts = _parts(len(points), crop.size)
        return [self._judge(prediction[part], points[part], crop, image_size) for part in parts]

    def _judge(
        self, prediction: MaskPrediction, points: Float[Tensor, "n 2"], crop: Crop, image_size: tuple[int, int]
    ) -> "_Candidates":
        """Those masks that are stable and not cut off by the crop."""
        logits = prediction.logits[:, 0]  # (n, h, w)
        stability = stability_score(logits, offset=self.stability_score_offset)
        stable = stability >= self.stability_score_thresh
        offset = points.new_tensor(crop.box[:2])
        boxes = masks_to_boxes(logits[stable] > 0) + offset.repeat(2)
        candidates = _Candidates(prediction[stable], boxes, stability[stable], points[stable] + offset)
        return candidates[~near_crop_edge(boxes, crop, image_size)]

    def _clean(self, found: AutomaticMasks) -> AutomaticMasks:
        """Remove small holes and islands, then the duplicates that this made."""
        parts = [
            _remove_small_regions(found[part], self.min_mask_region_area)
            for part in _parts(len(found), found.image_size)
        ]
        cleaned = AutomaticMasks.concatenate([part for part, _ in parts])
        was_clean = torch.cat([clean for _, clean in parts])
        # Prefer masks that were clean already.
        return cleaned[nms(cleaned.boxes, was_clean.float(), max(self.box_nms_thresh, self.crop_nms_thresh))]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that are not drawn yet, with coordinates in pixels of the whole image."""

    prediction: MaskPrediction  # one mask for each of n prompts
    boxes: Float[Tensor, "n 4"]
    stability_score: Float[Tensor, "n"]
    points: Float[Tensor, "n 2"]

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(self.prediction[index], self.boxes[index], self.stability_score[index], self.points[index])

    @classmethod
    def concatenate(cls, parts: list["_Candidates"]) -> "_Candidates":
        prediction = replace(
            parts[0].prediction,
            low_res_logits=torch.cat([part.prediction.low_res_logits for part in parts]),
            predicted_iou=torch.cat([part.prediction.predicted_iou for part in parts]),
        )
        return cls(
            prediction,
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.stability_score for part in parts]),
            torch.cat([part.points for part in parts]),
        )


class _PointCounter:
    """Tells a progress bar or a function how many points are done."""

    def __init__(self, progress: bool | Callable[[int, int], None], total: int) -> None:
        self._report = progress if callable(progress) else None
        self._bar = tqdm(total=total, unit="point", disable=progress is not True)
        self._done, self._total = 0, total

    def advance(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        if self._report:
            self._report(self._done, self._total)
        if self._done == self._total:
            self._bar.close()


def _one_mask_per_prompt(prediction: MaskPrediction) -> MaskPrediction:
    """(n, m) masks as (n * m, 1)."""
    return replace(
        prediction,
        low_res_logits=prediction.low_res_logits.flatten(0, 1)[:, None],
        predicted_iou=prediction.predicted_iou.flatten(0, 1)[:, None],
    )


def _parts(count: int, image_size: tuple[int, int]) -> Iterator[slice]:
    """Slices of `count` masks that are small enough to be drawn at once; a single empty one for no masks."""
    step = max(1, _PIXELS_AT_ONCE // (image_size[0] * image_size[1]))
    return (slice(start, start + step) for start in range(0, max(count, 1), step))


def _encode(candidates: _Candidates, crop: Crop, image_size: tuple[int, int]) -> AutomaticMasks:
    """Draw the masks, a part at a time, and keep them as run lengths in the whole image."""
    height, width = image_size
    x0, y0, x1, y1 = crop.box
    rles = []
    for part in _parts(len(candidates.points), crop.size):
        masks = candidates.prediction[part].masks[:, 0]
        rles += encode_rle(F.pad(masks, (x0, width - x1, y0, height - y1)))
    return AutomaticMasks(
        rles=tuple(rles),
        boxes=candidates.boxes.cpu(),
        areas=rle_area(rles),
        predicted_iou=candidates.prediction.predicted_iou[:, 0].cpu(),
        stability_score=candidates.stability_score.cpu(),
        points=candidates.points.cpu(),
        crop_boxes=torch.tensor(crop.box, dtype=torch.float32).expand(len(rles), 4),
        image_size=image_size,
    )


def _remove_small_regions(found: AutomaticMasks, min_area: int) -> tuple[AutomaticMasks, Bool[Tensor, "n"]]:
    """The masks without their small regions, and which of them had none."""
    masks, touched = remove_small_regions(found.masks, min_area)
    cleaned = replace(found, rles=tuple(encode_rle(masks)), boxes=masks_to_boxes(masks), areas=mask_area(masks))
    return cleaned, ~touched
