"""A `VideoSegmenter` without weights of its own, for any `segany.Predictor`: the last mask prompts the next frame.

Tracking by prompts follows Track Anything (Yang et al., 2023) and SAM-PT (Rajič et al., 2023). Where an object has gone
since the last frame is read from the embeddings: each cell of a frame takes its label from the cells of the frame
before that are most like it (label propagation, as in Jabri et al., Space-Time Correspondence as a Contrastive Random
Walk, 2020). That coarse mask and its box are the prompt, and of the mask decoder's answers the best is kept. An object
that is lost is looked for everywhere, by the frames in which it was given, as PerSAM (Zhang et al., 2023) does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from grounded.data.protocols import TrackedMask
from grounded.errors import ImageError
from segany import ImageEmbedding, MaskPrediction, Predictor, Prompts
from segany.precision import own_precision
from segany.utils.masks import mask_area, masks_to_boxes, stability_score
from segany.utils.rle import RLE, decode_rle, encode_rle, rle_area
from segany.utils.transforms import CONFIDENT_LOGIT

_LOGITS = 4  # low-resolution logits per embedding cell, along a side
_LEAST_USUAL = 0.3  # of what counts as usual: below, the model does not know the object, and any mask would do


@dataclass(frozen=True)
class PropagationSettings:
    """How masks are carried from frame to frame, and when they are believed. Chosen on drawn validation clips.

    An object stays in sight while all four signs reach their thresholds, and is found again only at the higher ones.
    """

    radius: float = 1 / 6  # that an object moves from one frame to the next, as a share of the frame's longer side
    nearest: int = 5  # cells that a cell takes its label from
    temperature: float = 0.05  # of the softmax over their cosines
    margin: float = 0.05  # around the box of the carried mask, as a share of its sides
    agreement_weight: float = 0.5  # of the IoU with the carried mask in the choice of a mask; the rest: predicted IoU
    recent_weight: float = 0.1  # of a frame in the recent appearance of an object
    searched_frames: int = 48  # for which a lost object is looked for in every frame
    predicted_iou: float = 0.5
    stability: float = 0.4
    likeness: float = 0.7  # cosine with the object's appearance
    agreement: float = 0.2  # IoU with the carried mask
    found_predicted_iou: float = 0.75
    found_stability: float = 0.6
    found_likeness: float = 0.8
    found_agreement: float = 0.4


@dataclass(frozen=True, eq=False)
class FrameCells:
    """The visible cells of a frame's embedding, less their mean, each of unit length."""

    number: int
    cells: Float[Tensor, "c h w"]


@dataclass(frozen=True, eq=False)
class View:
    """An object in one frame: how much of each cell its mask covers, 1 for the cell that it covers most."""

    frame: FrameCells
    cover: Float[Tensor, "h w"]


@dataclass(frozen=True, eq=False)
class FollowedObject:
    """What is known of one object; constant in size.

    given       where its mask was stated with something to see: the first time and the last
    latest      where it was last in sight; None before anything was seen of it
    usual       predicted IoU and stability score that the model gives its mask where that is known
    appearance  mean cell of the object in the first of these, and over recent frames, each of unit length
    lost        frames since it was last in sight
    """

    given: tuple[View, ...] = ()
    latest: View | None = None
    appearance: Float[Tensor, "2 c"] | None = None
    usual: Float[Tensor, "2"] | None = None
    lost: int = 0


class PropagationTracker:
    """Follows objects by prompting the image model with what was found in the frame before."""

    def __init__(self, predictor: Predictor, settings: PropagationSettings | None = None) -> None:
        self.predictor, self.settings = predictor, settings or PropagationSettings()

    def start(self, image_size: tuple[int, int]) -> "PropagationTracking":
        """Begin a clip with frames of (height, width) pixels."""
        return PropagationTracking(self.predictor, self.settings, image_size)


class PropagationTracking:
    """A `Tracking` that holds one `FollowedObject` for each object, and the embedding of the frame that is shown."""

    def __init__(self, predictor: Predictor, settings: PropagationSettings, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self._predictor, self._settings = predictor, settings
        self._objects: dict[int, FollowedObject] = {}
        self._embedding: ImageEmbedding | None = None
        self._frame: FrameCells | None = None

    @property
    def embedding(self) -> ImageEmbedding | None:
        """Of the frame that is shown; the pipeline's segmenter is the one that made it."""
        return self._embedding

    def show(self, number: int, image: Image.Image) -> None:
        """Go to the frame of that number, an upright RGB image.

        Raises:
            ImageError: the frame has another size than the clip.
        """
        if (image.height, image.width) != self.image_size:
            height, width = self.image_size
            raise ImageError(f"frame {number} must be {width} x {height} pixels, got {image.width} x {image.height}")
        self._embedding = self._predictor.encode(image)
        self._frame = _frame_cells(number, self._embedding, self._predictor)

    @own_precision()
    @torch.no_grad()
    def track(self) -> dict[int, TrackedMask]:
        """Return the masks of all objects in the frame that is shown, by the ids under which they were given."""
        nothing = TrackedMask(encode_rle(torch.zeros(1, *self.image_size, dtype=torch.bool))[0], 0.0, 0.0)
        found = dict.fromkeys(self._objects, nothing)
        if not self._objects:
            return found
        embedding, frame = self._shown()
        carried = carry_masks(list(self._objects.values()), frame, self._settings)
        # Without a cell that an object may be in, there is nothing to prompt with.
        is_prompted = (carried > 0.5).flatten(1).any(1).tolist()
        names = [name for name, prompted in zip(self._objects, is_prompted, strict=True) if prompted]
        if names:
            known = [self._objects[name] for name in names]
            answers = self._answer(embedding, frame, known, carried[torch.tensor(is_prompted)])
            rles = encode_rle(answers.masks.masks[:, 0].cpu())
            for row, (name, presence) in enumerate(zip(names, answers.presence.tolist(), strict=True)):
                if presence >= 0.5:
                    found[name] = TrackedMask(rles[row], presence, float(answers.masks.predicted_iou[row, 0]))
                    self._objects[name] = self._seen(known[row], View(frame, answers.covers[row]))
                else:
                    found[name] = replace(nothing, presence=presence)
        for name, mask in found.items():
            if mask.presence < 0.5:
                self._objects[name] = replace(self._objects[name], lost=self._objects[name].lost + 1)
        return found

    @own_precision()
    @torch.no_grad()
    def give(self, masks: Mapping[int, RLE]) -> None:
        """State the masks of some objects in the frame that is shown: new ones begin there, others are corrected."""
        if not masks:
            return
        embedding, frame = self._shown()
        seen = [name for name, rle in masks.items() if rle_area([rle])[0]]
        for name in masks.keys() - set(seen):
            known = self._objects.get(name, FollowedObject())
            self._objects[name] = replace(known, lost=max(known.lost, 1))
        if not seen:
            return
        full = decode_rle([masks[name] for name in seen], self.image_size)
        logits = self._predictor.mask_prompts(embedding, full)
        # Shares rather than a threshold: an object may be smaller than a low-resolution logit.
        covers = _covers((logits / (2 * CONFIDENT_LOGIT) + 0.5).clamp(0, 1), frame)
        usual = self._usual(embedding, frame, covers)
        for row, name in enumerate(seen):
            known = self._objects.get(name, FollowedObject())
            self._objects[name] = _given(known, View(frame, covers[row]), usual[row])

    def forget(self, ids: Iterable[int]) -> None:
        """Follow these objects no longer."""
        for name in ids:
            self._objects.pop(name, None)

    def _shown(self) -> tuple[ImageEmbedding, FrameCells]:
        if self._embedding is None or self._frame is None:
            raise ValueError("no frame is shown yet")
        return self._embedding, self._frame

    def _seen(self, known: FollowedObject, view: View) -> FollowedObject:
        """The object after a frame in which it was found."""
        assert known.appearance is not None
        first, recent = known.appearance
        now = appearance_of(view.frame.cells, view.cover[None])[0]
        recent = F.normalize(torch.lerp(recent, now, self._settings.recent_weight), dim=0)
        return replace(known, latest=view, appearance=torch.stack([first, recent]), lost=0)

    def _usual(self, embedding: ImageEmbedding, frame: FrameCells, covers: Tensor) -> Float[Tensor, "n 2"]:
        """Predicted IoU and stability score of the masks that the model answers to n given masks (n, h, w)."""
        prompts = mask_and_box(covers, embedding, self._predictor, self._settings.margin)
        predicted = self._predictor.predict(embedding, prompts, multimask_output=True)
        signs = measure(predicted, _prompted(prompts), appearance_of(frame.cells, covers), frame)
        best = choose(signs, self._settings)
        return signs[torch.arange(len(best), device=best.device), best, :2].clamp(min=_LEAST_USUAL)

    def _answer(
        self, embedding: ImageEmbedding, frame: FrameCells, known: Sequence[FollowedObject], carried: Tensor
    ) -> "Answers":
        """Prompt with the carried masks (n, h, w) of n objects, choose among the masks, and say which are there."""
        settings = self._settings
        prompts = mask_and_box(carried, embedding, self._predictor, settings.margin)
        predicted = self._predictor.predict(embedding, prompts, multimask_output=True)
        appearances = torch.stack([one.appearance.mean(0) for one in known if one.appearance is not None])
        usual = torch.stack([one.usual for one in known if one.usual is not None])
        lost = torch.tensor([one.lost > 0 for one in known], device=carried.device)
        signs = measure(predicted, _prompted(prompts), appearances, frame)
        best, rows = choose(signs, settings), torch.arange(len(known), device=carried.device)
        masks = replace(
            predicted,
            low_res_logits=predicted.low_res_logits[rows, best][:, None],
            predicted_iou=signs[rows, best, :1],
        )
        covers = _covers((masks.low_res_logits > 0).float(), frame)
        return Answers(masks, presence_of(signs[rows, best], usual, lost, settings), covers)


@dataclass(frozen=True, eq=False)
class Answers:
    """One mask for each of n prompted objects, its cover of cells, and how surely it is the object, 0 to 1."""

    masks: MaskPrediction
    presence: Float[Tensor, "n"]
    covers: Float[Tensor, "n h w"]


# ---- From frame to frame ----


def carry_masks(
    objects: Sequence[FollowedObject], frame: FrameCells, settings: PropagationSettings
) -> Float[Tensor, "n h w"]:
    """Where n objects may be in a frame, 0 to 1 for each cell.

    One that was in sight is carried from its latest frame, over a short way; one that is lost, from anywhere in the
    frames where it was given and where it was last seen.
    """
    height, width = frame.cells.shape[-2:]
    carried = frame.cells.new_zeros(len(objects), height, width)
    radius = max(1, round(settings.radius * max(height, width)))
    # Objects that were seen in the same frame share the comparison of its cells with those of the new frame.
    groups: dict[tuple[int, int | None], list[tuple[int, View]]] = {}
    for row, one in enumerate(objects):
        if one.latest is None or one.lost >= settings.searched_frames:
            continue
        views = (one.latest,) if not one.lost else (*one.given, one.latest)
        for view in views:
            groups.setdefault((id(view.frame), None if one.lost else radius), []).append((row, view))
    for (_, reach), members in groups.items():
        covers = torch.stack([view.cover for _, view in members])
        found = propagate_labels(members[0][1].frame.cells, covers, frame.cells, reach, settings)
        for (row, _), one_found in zip(members, found, strict=True):
            carried[row] = torch.maximum(carried[row], one_found)
    return carried


def propagate_labels(
    before: Float[Tensor, "c h w"],
    labels: Float[Tensor, "n h w"],
    after: Float[Tensor, "c h w"],
    radius: int | None,
    settings: PropagationSettings,
) -> Float[Tensor, "n h w"]:
    """Labels of the cells of one frame from those of another: a mean over the most similar cells.

    Args:
        before: cells of unit length that have labels.
        labels: of these, 0 to 1, for n objects.
        after: cells of unit length of the other frame.
        radius: in cells, along each side, from which labels are taken; None: from all.
        settings: say how many cells count, and how much.
    """
    height, width = after.shape[-2:]
    cosines = after.flatten(1).T @ before.flatten(1)  # (cells after, cells before)
    if radius is not None:
        cosines = cosines.masked_fill(~_are_near(height, width, radius, cosines.device), -torch.inf)
    nearest, index = cosines.topk(min(settings.nearest, cosines.shape[1]), dim=1)
    weights = (nearest / settings.temperature).softmax(1)
    return (labels.flatten(1)[:, index] * weights).sum(-1).unflatten(1, (height, width))


def _are_near(height: int, width: int, radius: int, device: torch.device) -> Bool[Tensor, "l l"]:
    """Which pairs of cells of two frames are at most `radius` rows and columns apart."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    near_rows, near_columns = ((side[:, None] - side).abs() <= radius for side in (rows, columns))
    return (near_rows[:, None, :, None] & near_columns[None, :, None, :]).flatten(2).flatten(0, 1)


def mask_and_box(
    carried: Float[Tensor, "n h w"], embedding: ImageEmbedding, predictor: Predictor, margin: float
) -> Prompts:
    """The prompts of n carried masks that are not empty: each mask as logits, and its box with a margin."""
    config = predictor.model.config
    height, width = carried.shape[-2:]
    grid = F.pad(carried[:, None], (0, config.grid_size - width, 0, config.grid_size - height))
    cover = F.interpolate(grid, scale_factor=_LOGITS, mode="bilinear", align_corners=False)
    cover = cover / cover.amax((1, 2, 3), keepdim=True)  # a single cell would vanish between its neighbours
    logits = CONFIDENT_LOGIT * (2 * cover - 1)
    inside = cover[:, 0] > 0.5
    boxes = masks_to_boxes(inside)
    boxes[:, 2:] += 1
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes += torch.cat([-sides[:, :2], sides[:, 2:]], dim=1) * margin
    scale = [
        original / resized * config.image_size / config.low_res_size
        for original, resized in zip(embedding.original_size[::-1], embedding.resized_size[::-1], strict=True)
    ]
    limits = embedding.original_size[::-1] * 2
    boxes = (boxes * boxes.new_tensor(scale * 2)).clamp(min=0).minimum(boxes.new_tensor(limits))
    return Prompts(boxes=boxes, masks=logits)


# ---- What is believed ----


def measure(
    predicted: MaskPrediction, expected: Bool[Tensor, "n 1 l l"], appearances: Float[Tensor, "n c"], frame: FrameCells
) -> Float[Tensor, "n m 4"]:
    """The signs by which m masks of each of n objects are judged, each from 0 to 1.

    They are predicted IoU, stability score, likeness to the object's appearance, and IoU with the expected mask.
    """
    logits = predicted.low_res_logits
    masks = logits > 0
    union = mask_area(masks | expected).clamp(min=1)
    agreement = mask_area(masks & expected) / union
    covers = _covers(masks.flatten(0, 1)[:, None].float(), frame)
    looks = appearance_of(frame.cells, covers).unflatten(0, masks.shape[:2])  # (n, m, c)
    likeness = (looks @ appearances[..., None])[..., 0]
    signs = [predicted.predicted_iou, stability_score(logits), likeness, agreement]
    return torch.stack([sign.float().clamp(0, 1) for sign in signs], dim=-1)


def choose(signs: Float[Tensor, "n m 4"], settings: PropagationSettings) -> Int64[Tensor, "n"]:
    """Which of its m masks is the best of each object, by predicted IoU and IoU with the expected mask."""
    predicted_iou, _, _, agreement = signs.unbind(-1)
    return torch.lerp(predicted_iou, agreement, settings.agreement_weight).argmax(1)


def presence_of(
    signs: Float[Tensor, "n 4"], usual: Float[Tensor, "n 2"], lost: Bool[Tensor, "n"], settings: PropagationSettings
) -> Float[Tensor, "n"]:
    """How surely n objects are in sight: the least of the signs, each moved so that its threshold is one half.

    Models differ in how high their predicted IoU and stability are, so these two count relative to what is usual.
    """
    signs = torch.cat([(signs[:, :2] / usual).clamp(max=1), signs[:, 2:]], dim=1)
    staying = (settings.predicted_iou, settings.stability, settings.likeness, settings.agreement)
    found = (settings.found_predicted_iou, settings.found_stability, settings.found_likeness, settings.found_agreement)
    thresholds = torch.where(lost[:, None], signs.new_tensor(found), signs.new_tensor(staying))
    above = 0.5 + 0.5 * (signs - thresholds) / (1 - thresholds)
    return torch.where(signs < thresholds, 0.5 * signs / thresholds, above).amin(1)


def appearance_of(cells: Float[Tensor, "c h w"], covers: Float[Tensor, "n h w"]) -> Float[Tensor, "n c"]:
    """The mean cell of n objects, of unit length; of those that its mask mostly covers, if there are any."""
    inner = (covers > 0.6).float()
    has_inner = inner.flatten(1).any(1)[:, None, None]
    return F.normalize(torch.einsum("chw,nhw->nc", cells, torch.where(has_inner, inner, covers)), dim=1)


def _covers(inside: Float[Tensor, "n 1 l l"], frame: FrameCells) -> Float[Tensor, "n h w"]:
    """How much of each visible cell n masks cover, by the cell that each covers most: small objects have one too."""
    height, width = frame.cells.shape[-2:]
    shares = F.avg_pool2d(inside, _LOGITS)[:, 0, :height, :width]
    return shares / shares.amax((1, 2), keepdim=True).clamp(min=1e-6)


def _prompted(prompts: Prompts) -> Bool[Tensor, "n 1 l l"]:
    assert prompts.masks is not None
    return prompts.masks > 0


def _frame_cells(number: int, embedding: ImageEmbedding, predictor: Predictor) -> FrameCells:
    patch = predictor.model.config.patch_size
    rows, columns = (-(-side // patch) for side in embedding.resized_size)
    cells = embedding.features[0, :, :rows, :columns].float().to(predictor.device)
    return FrameCells(number, F.normalize(cells - cells.mean((1, 2), keepdim=True), dim=0))


def _given(known: FollowedObject, view: View, usual: Float[Tensor, "2"]) -> FollowedObject:
    """The object after its mask was stated: what was found since is forgotten, but not where it was stated first."""
    earlier = [one for one in known.given[:1] if one.frame.number != view.frame.number]
    first = (*earlier, view)[0]
    looks = [appearance_of(one.frame.cells, one.cover[None])[0] for one in (first, view)]
    return FollowedObject(given=(*earlier, view), latest=view, appearance=torch.stack(looks), usual=usual)
