"""Masks of everything in an image, from a grid of point prompts (Segment Anything, section 5 and appendix B)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segany.automatic_masks import AutomaticMasks
from segany.deferred_masks import Drafts
from segany.fast.blocks import blocks
from segany.fast.decoder import Proposals
from segany.fast.resize import ComposedResize
from segany.predictor import ImageEmbedding, Predictor
from segany.utils.boxes import box_area, nms
from segany.utils.crops import Crop, layered_crops, near_crop_edge
from segany.utils.masks import mask_area, masks_to_boxes, remove_small_regions
from segany.utils.points import build_layer_point_grids
from segany.utils.rle import RLE, encode_columns, encode_rle, rle_area
from segany.utils.transforms import ImageLike, ResizeFrame, open_image

# Crops embedded together, and pixels of the masks drawn together. A CPU gains nothing from more than fits its cache.
_CROPS_AT_ONCE, _CROPS_AT_ONCE_ELSEWHERE = {"cpu": 2}, 8
_PIXELS_AT_ONCE, _PIXELS_AT_ONCE_ELSEWHERE = {"cpu": 1 << 22}, 1 << 28


@dataclass(frozen=True, eq=False)
class AutomaticMaskGenerator:
    """Prompts an image with a grid of points and keeps the masks that are good, stable and distinct.

    Arguments and defaults are those of segment-anything's `SamAutomaticMaskGenerator`, and so are the answers. The
    defaults were chosen for ViT-H.

    What costs much is done for few: predicted IoU for all points, low-resolution logits where it is high enough,
    stability and boxes at full size for those (`ComposedResize.measure`), and only what is left after non-maximum
    suppression is drawn and encoded. At most a gigabyte of logits is kept meanwhile (`Drafts`).

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
        parts = []
        for crop, crop_embedding in self._embed(picture, crops, embedding):
            search = _Search.begin(self, crop, (picture.height, picture.width), crop_embedding)
            parts.append(search.run(grids[crop.layer], counter))
            del crop_embedding, search  # before the next crops are embedded
        found = AutomaticMasks.concatenate(parts)
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

    def _embed(
        self, picture: Image.Image, crops: list[Crop], embedding: ImageEmbedding | None
    ) -> Iterator[tuple[Crop, ImageEmbedding]]:
        """Embeddings of the crops, a few at a time; `embedding` is that of the first one, where it is known."""
        if embedding is not None:
            yield crops[0], embedding
            crops = crops[1:]
        for part in blocks(len(crops), _CROPS_AT_ONCE.get(self.predictor.device.type, _CROPS_AT_ONCE_ELSEWHERE)):
            embeddings = self.predictor.encode_batch([picture.crop(crop.box) for crop in crops[part]])
            for crop in crops[part]:
                yield crop, embeddings.pop(0)

    def _clean(self, found: AutomaticMasks) -> AutomaticMasks:
        """Remove small holes and islands, then the duplicates that this made."""
        step = _masks_at_once(found.image_size, found.boxes.device)
        parts = [_remove_small_regions(found[part], self.min_mask_region_area) for part in blocks(len(found), step)]
        if not parts:
            return found
        cleaned = AutomaticMasks.concatenate([part for part, _ in parts])
        was_clean = torch.cat([clean for _, clean in parts])
        # Prefer masks that were clean already.
        return cleaned[nms(cleaned.boxes, was_clean.float(), max(self.box_nms_thresh, self.crop_nms_thresh))]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that are not drawn yet, with coordinates in pixels of the whole image."""

    predicted_iou: Float[Tensor, "n"]
    boxes: Float[Tensor, "n 4"]
    stability_score: Float[Tensor, "n"]
    points: Float[Tensor, "n 2"]
    drafts: Int[Tensor, "n 2"]  # where the logits are, see `Drafts`

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(*(values[index] for values in vars(self).values()))

    @classmethod
    def none(cls, device: torch.device) -> "_Candidates":
        scores, pairs = torch.zeros(0, device=device), torch.zeros(0, 2, device=device)
        return cls(scores, torch.zeros(0, 4, device=device), scores, pairs, pairs.long())

    @classmethod
    def concatenate(cls, parts: list["_Candidates"]) -> "_Candidates":
        return cls(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


@dataclass(frozen=True, eq=False)
class _Search:
    """The search for masks in one crop of the picture."""

    settings: AutomaticMaskGenerator
    crop: Crop
    image_size: tuple[int, int]  # of the whole picture
    drafts: Drafts
    resize: ComposedResize

    @classmethod
    def begin(
        cls, settings: AutomaticMaskGenerator, crop: Crop, image_size: tuple[int, int], embedding: ImageEmbedding
    ) -> "_Search":
        predictor = settings.predictor
        config = predictor.model.config
        frame = ResizeFrame(embedding.original_size, embedding.resized_size, config.image_size)
        resize = frame.composed((config.low_res_size, config.low_res_size), predictor.device)
        return cls(settings, crop, image_size, Drafts(predictor, embedding), resize)

    def run(self, grid: Float[Tensor, "n 2"], counter: "_PointCounter") -> AutomaticMasks:
        """Distinct masks for points in [0, 1]."""
        height, width = self.crop.size
        candidates = [_Candidates.none(self.settings.predictor.device)]
        for batch in (grid * torch.tensor([width, height])).split(self.settings.points_per_batch):
            for points, proposals in self.drafts.propose(batch):
                candidates.append(self._judge(points, proposals))
                del proposals  # before the next ones are made
            counter.advance(len(batch))
        merged = _Candidates.concatenate(candidates)
        return self._encode(merged[nms(merged.boxes, merged.predicted_iou, self.settings.box_nms_thresh)])

    def _judge(self, points: Float[Tensor, "p 2"], proposals: Proposals) -> "_Candidates":
        """Those masks that are good, stable and not cut off by the crop, for points in pixels of the crop."""
        predicted_iou = proposals.predicted_iou
        good = torch.ones_like(predicted_iou, dtype=torch.bool)
        if self.settings.pred_iou_thresh > 0:  # predicted IoU can be negative, and 0 means no filter
            good = predicted_iou > self.settings.pred_iou_thresh
        logits = proposals.low_res_logits(good)
        measured = self.resize.measure(logits, self.settings.stability_score_offset)
        corner = measured.boxes.new_tensor(self.crop.box[:2])
        boxes = measured.boxes + corner.repeat(2)
        stable = measured.stability_score >= self.settings.stability_score_thresh
        chosen = stable & ~near_crop_edge(boxes, self.crop, self.image_size)
        drafts = self.drafts.add(points, good, chosen, logits)
        return _Candidates(
            predicted_iou=predicted_iou[good][chosen],
            boxes=boxes[chosen],
            stability_score=measured.stability_score[chosen],
            points=points.to(corner.device)[good.nonzero()[chosen, 0]] + corner,
            drafts=drafts.to(corner.device),
        )

    def _encode(self, kept: "_Candidates") -> AutomaticMasks:
        """Draw the masks, a few at a time, and keep them as run lengths in the whole image."""
        rles: dict[int, RLE] = {}
        numbers, places = kept.drafts.cpu().unbind(1)
        for number in numbers.unique().tolist():
            logits = self.drafts.logits(number)
            wanted = (numbers == number).nonzero()[:, 0]
            for part in blocks(len(wanted), _masks_at_once(self.crop.size, logits.device)):
                columns = self.resize.draw_columns(logits[places[wanted[part]].to(logits.device)])
                encoded = encode_columns(columns, self.crop.box[:2], self.image_size)
                rles |= zip(wanted[part].tolist(), encoded, strict=True)
        ordered = tuple(rles[index] for index in range(len(numbers)))
        return AutomaticMasks(
            rles=ordered,
            boxes=kept.boxes.cpu(),
            areas=torch.from_numpy(rle_area(ordered)),
            predicted_iou=kept.predicted_iou.cpu(),
            stability_score=kept.stability_score.cpu(),
            points=kept.points.cpu(),
            crop_boxes=torch.tensor(self.crop.box, dtype=torch.float32).expand(len(ordered), 4),
            image_size=self.image_size,
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


def _masks_at_once(size: tuple[int, int], device: torch.device) -> int:
    return _PIXELS_AT_ONCE.get(device.type, _PIXELS_AT_ONCE_ELSEWHERE) // (size[0] * size[1])


def _remove_small_regions(found: AutomaticMasks, min_area: int) -> tuple[AutomaticMasks, Bool[Tensor, "n"]]:
    """The masks without their small regions, and which of them had none."""
    masks, touched = remove_small_regions(found.masks, min_area)
    cleaned = replace(found, rles=tuple(encode_rle(masks)), boxes=masks_to_boxes(masks), areas=mask_area(masks))
    return cleaned, ~touched
