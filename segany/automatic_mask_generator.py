"""Segment everything in an image with a grid of point prompts (Segment Anything, section 5 and appendix B)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segany.deferred_masks import DeferredMasks
from segany.fast.blocks import blocks
from segany.fast.decoder import DeferredPrediction
from segany.fast.resize import ComposedResize
from segany.precision import own_precision
from segany.predictor import ImageEmbedding, Predictor
from segany.prompts import Index, as_selection
from segany.utils.boxes import box_area, nms
from segany.utils.crops import Crop, layered_crops, near_crop_edge
from segany.utils.masks import mask_area, masks_to_boxes, remove_small_regions
from segany.utils.points import build_layer_point_grids
from segany.utils.rle import RLE, decode_rle, encode_columns, encode_rle, rle_area
from segany.utils.transforms import ImageLike, ResizeFrame, open_image

# Crops encoded together, and pixels of the masks upsampled together, by device type. On a CPU, batches that exceed its
# cache are no faster.
_CROPS_AT_ONCE, _CROPS_AT_ONCE_ELSEWHERE = {"cpu": 2}, 8
_PIXELS_AT_ONCE, _PIXELS_AT_ONCE_ELSEWHERE = {"cpu": 1 << 22}, 1 << 28


@dataclass(frozen=True, eq=False)
class AutomaticMasks:
    """n masks of one image with their boxes and scores; coordinates are pixels of that image.

    Tensors are on the CPU. Indexing selects masks and always returns `AutomaticMasks`, also for one integer.

    Raises:
        ValueError: the arrays differ in length.
    """

    rles: tuple[RLE, ...]
    boxes: Float[Tensor, "n 4"]  # xyxy, tight: indices of the first and the last pixel
    areas: Int[Tensor, "n"]  # in pixels
    predicted_iou: Float[Tensor, "n"]
    stability_score: Float[Tensor, "n"]
    points: Float[Tensor, "n 2"]  # the (x, y) point prompt that gave each mask
    crop_boxes: Float[Tensor, "n 4"]  # xyxy, the part of the image in which each mask was found
    image_size: tuple[int, int]  # (height, width)

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self._arrays().items()} | {"rles": len(self.rles)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all arrays must be of one length, got {lengths}")

    def _arrays(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Index) -> "AutomaticMasks":
        positions = torch.arange(len(self))[as_selection(index, len(self))].reshape(-1)
        arrays = {name: values[positions] for name, values in self._arrays().items()}
        rles = tuple(self.rles[position] for position in positions.tolist())
        return AutomaticMasks(rles=rles, image_size=self.image_size, **arrays)

    @property
    def masks(self) -> Bool[Tensor, "n h w"]:
        """The masks at the size of the image, decoded anew on every access."""
        return decode_rle(self.rles, self.image_size)

    @classmethod
    def concatenate(cls, parts: Sequence["AutomaticMasks"]) -> "AutomaticMasks":
        """Join one or more `AutomaticMasks` in order.

        Raises:
            ValueError: the parts belong to images of different sizes.
        """
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"parts must be of one image size, got {sorted(sizes)}")
        arrays = {name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0]._arrays()}
        rles = tuple(rle for part in parts for rle in part.rles)
        return AutomaticMasks(rles=rles, image_size=parts[0].image_size, **arrays)


@dataclass(frozen=True, eq=False)
class AutomaticMaskGenerator:
    """Prompt an image with a grid of points and keep the masks that are confident, stable and distinct.

    Arguments, defaults and results are those of segment-anything's `SamAutomaticMaskGenerator`. The defaults were
    chosen for ViT-H.

    Expensive steps run on few masks: predicted IoU is computed for all points, low-resolution logits where it is high
    enough, stability score and box at full size for those (`ComposedResize.measure`), and only masks that survive
    non-maximum suppression are upsampled and encoded. Until then at most a gigabyte of logits is stored
    (`DeferredMasks`).

    Raises:
        ValueError: the arguments contradict each other or are out of range.
    """

    predictor: Predictor
    points_per_side: int | None = 32  # None: the points come from point_grids
    points_per_batch: int = 64  # prompts in one call of the predictor; does not change the masks
    pred_iou_thresh: float = 0.88  # masks with a higher predicted IoU are kept; 0 keeps all
    stability_score_thresh: float = 0.95  # masks with at least this stability score are kept; 0 keeps all
    stability_score_offset: float = 1.0  # shift of the mask threshold, in logits, for the stability score
    box_nms_thresh: float = 0.7  # box IoU above which one of two masks of the same crop is dropped
    crop_n_layers: int = 0  # layer i adds 2**i by 2**i crops of the image, each prompted with its own grid
    crop_nms_thresh: float = 0.7  # box IoU above which one of two masks of different crops is dropped
    crop_overlap_ratio: float = 512 / 1500  # overlap of crops in layer 1, as a fraction of the image's short side
    crop_n_points_downscale_factor: int = 1  # layer i has points_per_side / factor**i points per side
    point_grids: Sequence[Float[Tensor | np.ndarray, "_ 2"]] | None = None  # in [0, 1], one for each layer
    min_mask_region_area: int = 0  # holes and islands of fewer pixels are removed; 0 leaves masks unchanged

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
    @own_precision()
    def generate(
        self,
        image: ImageLike,
        progress: bool | Callable[[int, int], None] = False,
        embedding: ImageEmbedding | None = None,
    ) -> AutomaticMasks:
        """Segment everything in `image`.

        Masks are sorted by predicted IoU, best first. With crops, masks of the smallest crops come first; with
        `min_mask_region_area`, masks that had no small regions come first.

        Args:
            image: PIL image, path or uint8 (height, width, 3) RGB array, as for `Predictor.encode`.
            progress: True shows a progress bar; a function is called with (points done, total points).
            embedding: of the whole image, if already computed; crops are always encoded.

        Raises:
            ImageError: the image cannot be read, see `open_image`.
        """
        image = open_image(image)
        image_size = (image.height, image.width)
        grids = self._point_grids()
        crops = layered_crops(image_size, self.crop_n_layers, self.crop_overlap_ratio)
        counter = _PointCounter(progress, total=sum(len(grids[crop.layer]) for crop in crops))
        parts = []
        for crop, crop_embedding in self._embed(image, crops, embedding):
            search = _CropSearch.create(self, crop, image_size, crop_embedding)
            parts.append(search.run(grids[crop.layer], counter))
            del crop_embedding, search  # free the memory before the next crops are encoded
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
        self, image: Image.Image, crops: list[Crop], embedding: ImageEmbedding | None
    ) -> Iterator[tuple[Crop, ImageEmbedding]]:
        """Encode the crops in small batches. `embedding` is that of the first crop, if already computed."""
        if embedding is not None:
            yield crops[0], embedding
            crops = crops[1:]
        for part in blocks(len(crops), _CROPS_AT_ONCE.get(self.predictor.device.type, _CROPS_AT_ONCE_ELSEWHERE)):
            embeddings = self.predictor.encode_batch([image.crop(crop.box) for crop in crops[part]])
            for crop in crops[part]:
                yield crop, embeddings.pop(0)

    def _clean(self, found: AutomaticMasks) -> AutomaticMasks:
        """Remove small holes and islands, then the duplicates that this may create."""
        step = _masks_at_once(found.image_size, found.boxes.device)
        cleaned_parts, found_parts = [], []
        for part in blocks(len(found), step):
            original = found[part]
            masks, small_regions_found = remove_small_regions(original.masks, self.min_mask_region_area)
            boxes, areas = masks_to_boxes(masks), mask_area(masks)
            cleaned_parts.append(replace(original, rles=tuple(encode_rle(masks)), boxes=boxes, areas=areas))
            found_parts.append(small_regions_found)
        if not cleaned_parts:
            return found
        cleaned, was_clean = AutomaticMasks.concatenate(cleaned_parts), ~torch.cat(found_parts)
        # Prefer masks that had no small regions.
        return cleaned[nms(cleaned.boxes, was_clean.float(), max(self.box_nms_thresh, self.crop_nms_thresh))]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that are not upsampled yet, with coordinates in pixels of the whole image."""

    predicted_iou: Float[Tensor, "n"]
    boxes: Float[Tensor, "n 4"]
    stability_score: Float[Tensor, "n"]
    points: Float[Tensor, "n 2"]
    deferred: Int[Tensor, "n 2"]  # where the logits are stored, see `DeferredMasks.add`

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(*(values[index] for values in vars(self).values()))

    @classmethod
    def empty(cls, device: torch.device) -> "_Candidates":
        scores, pairs = torch.zeros(0, device=device), torch.zeros(0, 2, device=device)
        return cls(scores, torch.zeros(0, 4, device=device), scores, pairs, pairs.long())

    @classmethod
    def concatenate(cls, parts: list["_Candidates"]) -> "_Candidates":
        return cls(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


@dataclass(frozen=True, eq=False)
class _CropSearch:
    """The search for masks in one crop of the image."""

    generator: AutomaticMaskGenerator
    crop: Crop
    image_size: tuple[int, int]  # (height, width) of the whole image
    deferred: DeferredMasks
    resize: ComposedResize

    @classmethod
    def create(
        cls, generator: AutomaticMaskGenerator, crop: Crop, image_size: tuple[int, int], embedding: ImageEmbedding
    ) -> "_CropSearch":
        predictor = generator.predictor
        config = predictor.model.config
        frame = ResizeFrame(embedding.original_size, embedding.resized_size, config.image_size)
        resize = frame.composed((config.low_res_size, config.low_res_size), predictor.device)
        return cls(generator, crop, image_size, DeferredMasks(predictor, embedding), resize)

    def run(self, grid: Float[Tensor, "n 2"], counter: "_PointCounter") -> AutomaticMasks:
        """Distinct masks for a grid of points in [0, 1]."""
        height, width = self.crop.size
        candidates = [_Candidates.empty(self.generator.predictor.device)]
        for batch in (grid * torch.tensor([width, height])).split(self.generator.points_per_batch):
            for points, prediction in self.deferred.predict(batch):
                candidates.append(self._filter(points, prediction))
                del prediction  # free the memory before the next part is predicted
            counter.advance(len(batch))
        merged = _Candidates.concatenate(candidates)
        return self._encode(merged[nms(merged.boxes, merged.predicted_iou, self.generator.box_nms_thresh)])

    def _filter(self, points: Float[Tensor, "p 2"], prediction: DeferredPrediction) -> _Candidates:
        """Keep masks that are confident, stable and not cut off by the crop. Points are in pixels of the crop."""
        predicted_iou = prediction.predicted_iou
        confident = torch.ones_like(predicted_iou, dtype=torch.bool)
        if self.generator.pred_iou_thresh > 0:  # predicted IoU can be negative, and 0 means no filter
            confident = predicted_iou > self.generator.pred_iou_thresh
        logits = prediction.low_res_logits(confident)
        measured = self.resize.measure(logits, self.generator.stability_score_offset)
        corner = measured.boxes.new_tensor(self.crop.box[:2])
        boxes = measured.boxes + corner.repeat(2)
        stable = measured.stability_score >= self.generator.stability_score_thresh
        kept = stable & ~near_crop_edge(boxes, self.crop, self.image_size)
        deferred = self.deferred.add(points, confident, kept, logits)
        return _Candidates(
            predicted_iou=predicted_iou[confident][kept],
            boxes=boxes[kept],
            stability_score=measured.stability_score[kept],
            points=points.to(corner.device)[confident.nonzero()[kept, 0]] + corner,
            deferred=deferred.to(corner.device),
        )

    def _encode(self, candidates: _Candidates) -> AutomaticMasks:
        """Upsample the masks in small batches and encode them as RLE of the whole image."""
        rles: dict[int, RLE] = {}
        numbers, positions = candidates.deferred.cpu().unbind(1)
        for number in numbers.unique().tolist():
            logits = self.deferred.logits(number)
            members = (numbers == number).nonzero()[:, 0]
            for part in blocks(len(members), _masks_at_once(self.crop.size, logits.device)):
                columns = self.resize.restore_mask_columns(logits[positions[members[part]].to(logits.device)])
                encoded = encode_columns(columns, self.crop.box[:2], self.image_size)
                rles |= zip(members[part].tolist(), encoded, strict=True)
        ordered = tuple(rles[index] for index in range(len(numbers)))
        return AutomaticMasks(
            rles=ordered,
            boxes=candidates.boxes.cpu(),
            areas=torch.from_numpy(rle_area(ordered)),
            predicted_iou=candidates.predicted_iou.cpu(),
            stability_score=candidates.stability_score.cpu(),
            points=candidates.points.cpu(),
            crop_boxes=torch.tensor(self.crop.box, dtype=torch.float32).expand(len(ordered), 4),
            image_size=self.image_size,
        )


class _PointCounter:
    """Reports the number of finished points to a progress bar or a function."""

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
