"""Interactive training of Segment Anything on annotated images (Kirillov et al., 2023, appendix A): what a step sees.

Of each image some objects are drawn; each is asked for by a point, by a box with noise, or by a CLIP embedding, then by
clicks into the error of the last mask. Coordinates are those of the model frame, truths those of the low-resolution
masks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from grounded.training.data import TrainingData, TrainingImage, TrainingObject
from grounded.training.embeddings import Key
from segany import Prompts, SegAny, SegAnyConfig
from segany.training.rounds import interactive_rounds
from segany.utils.masks import masks_to_boxes
from segany.utils.points import interior_point, random_point
from segany.utils.rle import decode_rle
from segany.utils.transforms import ResizeFrame

Kind = Literal["point", "box", "text"]
NOISE = 0.1  # standard deviation of a box's sides, as a share of its size
LARGEST_NOISE = 0.02  # of the model frame; 20 of 1024 pixels


@dataclass(frozen=True, kw_only=True)
class InteractiveSettings:
    """What a step sees."""

    kinds: tuple[Kind, ...] = ("point", "box")  # of the first prompt, in equal shares
    images: int = 4  # a step and process
    objects: int = 4  # of each image, drawn with repetition
    rounds: int = 4  # most rounds with each prompt: the first prompt, then clicks; 1 to this many, equally often
    middle_share: float = 0.5  # of the clicks: into the middle of the error, where people click
    flip: bool = True  # show half of the images mirrored


@dataclass(frozen=True, eq=False)
class InteractiveBatch:
    """n prompts on b images."""

    inputs: Float[Tensor, "b c h w"]  # embeddings, or pixels where the image encoder learns
    image_ids: tuple[int, ...]  # n
    truths: Float[Tensor, "n l l"]
    boxes: Float[Tensor, "n 4"]
    text: Float[Tensor, "n 1 d"] | None
    rounds: int
    seed: int


def make_batch(
    step: int,
    data: TrainingData,
    config: SegAnyConfig,
    settings: InteractiveSettings,
    read_input: Callable[[Key], Tensor],
    read_text: Callable[[Key, int, np.random.Generator], Tensor] | None = None,
    seed: Sequence[int] = (0,),
) -> InteractiveBatch:
    """Return the batch of a step: a pure function of step and seed.

    Args:
        step: number of the step.
        data: images that all have objects.
        config: of the model.
        settings: what a step sees.
        read_input: the embedding or the pixels of an image.
        read_text: the CLIP embedding (d,) of an object, by its index in the image; for text prompts.
        seed: of the training and of this process.
    """
    rng = np.random.default_rng([*seed, step])
    inputs, image_ids, truths, texts = [], [], [], []
    for row in range(settings.images):
        image = data.images[rng.integers(len(data.images))]
        key = image, bool(settings.flip and rng.random() < 0.5)
        inputs.append(read_input(key))
        for index in rng.choice(len(image.objects), settings.objects):
            image_ids.append(row)
            truths.append(low_res_truth(key, image.objects[index], config))
            if read_text is not None:
                texts.append(read_text(key, int(index), rng))
    stacked = torch.stack(truths)
    return InteractiveBatch(
        inputs=torch.stack(inputs),
        image_ids=tuple(image_ids),
        truths=stacked,
        boxes=noisy_boxes(stacked, config, rng),
        text=torch.stack(texts)[:, None] if texts else None,
        rounds=int(rng.integers(1, settings.rounds + 1)),
        seed=int(rng.integers(1 << 62)),
    )


def low_res_truth(key: Key, one: TrainingObject, config: SegAnyConfig) -> Float[Tensor, "l l"]:
    """The share of each low-resolution pixel of the model frame that an object covers."""
    image, mirrored = key
    assert one.mask is not None  # of checked data
    mask = decode_rle([one.mask])[0]
    return low_res_mask(mask.flip(-1) if mirrored else mask, ResizeFrame.fit(image.size, config.image_size), config)


def low_res_mask(mask: Bool[Tensor, "height width"], frame: ResizeFrame, config: SegAnyConfig) -> Float[Tensor, "l l"]:
    """A mask of the original image at the resolution of the low-resolution logits, 0 to 1."""
    step = config.image_size // config.low_res_size
    resized = F.interpolate(mask[None, None].float(), frame.resized_size, mode="bilinear", antialias=True)
    height, width = frame.resized_size
    padded = F.pad(resized, (0, config.image_size - width, 0, config.image_size - height))
    return F.avg_pool2d(padded, step)[0, 0].clamp(0, 1)


def is_visible(image: TrainingImage, one: TrainingObject, config: SegAnyConfig) -> bool:
    """Whether an object is at least about a pixel large in the predicted masks."""
    scale = config.low_res_size / max(image.size)
    x0, y0, x1, y1 = one.box
    return (x1 - x0) * (y1 - y0) * scale**2 >= 1


def noisy_boxes(truths: Float[Tensor, "n l l"], config: SegAnyConfig, rng: np.random.Generator) -> Float[Tensor, "n 4"]:
    """Boxes around truths in the model frame, each side moved by a tenth of the box's size, or a fiftieth of the frame.

    A truth that is empty at this resolution has the box of its best pixel.
    """
    scale = config.image_size / truths.shape[-1]
    shown = truths >= truths.amax((1, 2), keepdim=True).clamp(max=0.5)
    boxes = (masks_to_boxes(shown) + torch.tensor([0, 0, 1, 1])) * scale
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.from_numpy(rng.standard_normal(tuple(boxes.shape))).float() * NOISE * size
    largest = LARGEST_NOISE * config.image_size
    return (boxes + noise.clamp(-largest, largest)).clamp(0, config.image_size)


def losses(
    model: SegAny, features: Float[Tensor, "b c h w"], batch: InteractiveBatch, settings: InteractiveSettings
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the losses of each round of each kind of prompt; their graphs meet in nothing but `features`.

    Each prompt weighs the same, and a round as much as the others of it.
    """
    generator = torch.Generator(features.device).manual_seed(batch.seed)
    total = len(batch.truths)
    for number, kind in enumerate(settings.kinds):
        rows = torch.arange(number, total, len(settings.kinds))
        if not len(rows):
            continue
        rows = rows.to(features.device)
        truths = batch.truths[rows]
        own = features[torch.tensor(batch.image_ids, device=features.device)[rows]]
        prompts = first_prompts(kind, batch, rows, model.config, generator)
        rounds = interactive_rounds(model, own, prompts, truths, batch.rounds, generator, settings.middle_share)
        for index, answer in enumerate(rounds):
            weight = len(rows) / total / batch.rounds
            name = kind if index == 0 else f"{kind} and clicks"
            yield {f"{name}, masks": weight * answer.mask, f"{name}, predicted IoU": weight * answer.iou}


def first_prompts(
    kind: Kind, batch: InteractiveBatch, rows: Tensor, config: SegAnyConfig, generator: torch.Generator
) -> Prompts:
    """The first prompts of some rows of a batch."""
    if kind == "box":
        return Prompts(boxes=batch.boxes[rows])
    if kind == "text":
        assert batch.text is not None
        return Prompts(text=batch.text[rows])
    truths = batch.truths[rows]
    pixels, labels = random_point(truths >= truths.amax((1, 2), keepdim=True).clamp(max=0.5), generator)
    scale = config.image_size / truths.shape[-1]
    return Prompts(points=(pixels[:, None] + 0.5) * scale - 0.5, point_labels=labels[:, None])


def to_device(batch: InteractiveBatch, device: torch.device) -> InteractiveBatch:
    """The batch on a device."""
    return InteractiveBatch(
        inputs=batch.inputs.to(device),
        image_ids=batch.image_ids,
        truths=batch.truths.to(device),
        boxes=batch.boxes.to(device),
        text=None if batch.text is None else batch.text.to(device),
        rounds=batch.rounds,
        seed=batch.seed,
    )


# ---- Measuring ----


def measure(
    model: SegAny,
    data: TrainingData,
    kinds: Sequence[Kind],
    read_features: Callable[[TrainingImage], Tensor],
    read_text: Callable[[TrainingObject], Tensor] | None = None,
    most: int = 200,
) -> dict[str, float]:
    """Return the mean IoU of the masks of held-out objects, by kind of prompt, at the size of the images.

    A box is answered by the single mask; a point, the interior one, and a text by the most confident of several. Texts
    are asked for objects whose class names nothing else in their image, or for all where there are none.

    Args:
        model: to be measured.
        data: held out; images that all have objects.
        kinds: of prompts.
        read_features: the embedding (c, h, w) of an image.
        read_text: the embedding (d,) of an object's class.
        most: objects that are measured, the first ones.
    """
    ious: dict[str, list[float]] = {kind: [] for kind in kinds}
    device = next(model.parameters()).device
    unique = any(is_alone(image, one) for image in data.images for one in image.objects)
    count = 0
    for image in data.images:
        objects = image.objects[: most - count]
        count += len(objects)
        if not objects:
            break
        frame = ResizeFrame.fit(image.size, model.config.image_size)
        features = read_features(image)[None].to(device)
        truths = decode_rle([one.mask for one in objects if one.mask is not None]).to(device)
        for kind in kinds:
            rows = [i for i, one in enumerate(objects) if kind != "text" or not unique or is_alone(image, one)]
            if not rows:
                continue
            own = truths[rows]
            prompts = _clean_prompts(kind, own, [objects[i] for i in rows], frame, read_text)
            logits, predicted_iou = model.decode(features, prompts.to(device), multimask_output=kind != "box")
            best = logits[torch.arange(len(rows)), predicted_iou.argmax(1)][:, None]
            masks = frame.restore_masks(best.float())[:, 0]
            union = (masks | own).sum((1, 2)).clamp(min=1)
            ious[kind] += ((masks & own).sum((1, 2)) / union).tolist()
    return {f"{kind} IoU": float(np.mean(values)) for kind, values in ious.items() if values}


def is_alone(image: TrainingImage, one: TrainingObject) -> bool:
    """Whether the class of an object names no other object of its image."""
    return sum(other.label == one.label for other in image.objects) == 1


def _clean_prompts(
    kind: Kind,
    truths: Bool[Tensor, "n h w"],
    objects: Sequence[TrainingObject],
    frame: ResizeFrame,
    read_text: Callable[[TrainingObject], Tensor] | None,
) -> Prompts:
    """Prompts without noise, in the model frame."""
    if kind == "text":
        assert read_text is not None
        return Prompts(text=torch.stack([read_text(one) for one in objects])[:, None])
    if kind == "box":
        boxes = masks_to_boxes(truths) + torch.tensor([0, 0, 1, 1], device=truths.device)
        return Prompts(boxes=frame.resize_boxes(boxes.float()))
    points = frame.resize_points(interior_point(truths))[:, None]
    return Prompts(points=points, point_labels=torch.ones(len(points), 1, dtype=torch.int64))
