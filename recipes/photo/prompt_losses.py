"""The losses of Segment Anything's prompts: points, boxes, words and pairs of them, decoded together in one shape.

A batch asks for a fixed number of objects, each with one kind of prompt; a third of them goes on with a corrective
click. One shape and few launches keep a GPU busy.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from recipes.photo.augment import Batch, object_areas
from segany import SegAny
from segany.modeling.prompt_encoder import PADDING_LABEL, PromptEncoder, PromptTokens
from segany.modeling.prompt_maps import box_maps
from segany.training.losses import best_of_masks, iou_loss, mask_loss
from segany.utils.masks import masks_to_boxes
from segany.utils.points import random_error_point, random_point

KINDS = {"point": 0.28, "box": 0.22, "text": 0.16, "text + point": 0.14, "text + box": 0.2}  # shares of the prompts
MIN_AREA = 160  # pixels of the frame that an object must have to be asked for
JITTER = 0.05  # of a box's corners, in its sides; of four boxes in five


@dataclass(frozen=True, eq=False)
class AskedObjects:
    """k objects of a batch, each with the prompts of its kind.

    image    the row of its image
    kind     the row of its kind in `KINDS`
    whole    its mask in the frame
    truth    its mask at the size of low-resolution logits, 0 to 1
    points   one point in it, in pixels of the frame
    boxes    around it, jittered
    text     embedding of its name, of unit length
    use_point, use_box, use_text  which of them are given
    """

    image: Int64[Tensor, "k"]
    kind: Int64[Tensor, "k"]
    whole: Bool[Tensor, "k s s"]
    truth: Float[Tensor, "k l l"]
    points: Float[Tensor, "k 2"]
    boxes: Float[Tensor, "k 4"]
    text: Float[Tensor, "k d"]
    use_point: Bool[Tensor, "k"]
    use_box: Bool[Tensor, "k"]
    use_text: Bool[Tensor, "k"]


@torch.no_grad()
def ask_objects(
    batch: Batch, words: Float[Tensor, "v d"], prompts: int, low_res: int, generator: torch.Generator
) -> AskedObjects:
    """Draw objects, smaller ones nearly as often as large ones, and their prompts.

    A name alone is asked of objects that are the only ones of that name in their image; others are asked by a box or a
    point instead.
    """
    areas = object_areas(batch.labels)
    large = areas >= MIN_AREA
    weight = large * areas.clamp(max=8000) ** 0.25 / large.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    drawn = torch.multinomial(weight.flatten() + 1e-12, prompts, replacement=True, generator=generator)
    image, label = drawn // 256, drawn % 256
    kind = _kinds(prompts).to(image.device)
    whole = batch.labels[image] == label[:, None, None]
    name = batch.names[image, label]
    alike = ((batch.names[image] == name[:, None]) & large[image]).sum(dim=1)
    has_point, has_box, has_text = (kind == 0) | (kind == 3), (kind == 1) | (kind == 4), kind >= 2
    use_text = has_text & (name >= 0) & ((kind != 2) | (alike == 1))
    instead = ~has_point & ~has_box & ~use_text
    even = torch.arange(prompts, device=image.device) % 2 == 0
    points, _ = random_point(whole, generator)
    boxes = masks_to_boxes(whole) + torch.tensor([0, 0, 1, 1], device=image.device)
    return AskedObjects(
        image=image,
        kind=kind,
        whole=whole,
        truth=F.adaptive_avg_pool2d(whole.float()[:, None], low_res)[:, 0],
        points=points,
        boxes=_jitter(boxes, batch.labels.shape[-1], generator),
        text=words[name.clamp(min=0)],
        use_point=has_point | (instead & ~even),
        use_box=has_box | (instead & even),
        use_text=use_text,
    )


def _kinds(prompts: int) -> Int64[Tensor, "k"]:
    ends = torch.tensor(list(KINDS.values())).cumsum(0) * prompts
    return torch.bucketize(torch.arange(prompts) + 0.5, ends).clamp(max=len(KINDS) - 1)


def _jitter(boxes: Float[Tensor, "k 4"], side: int, generator: torch.Generator) -> Float[Tensor, "k 4"]:
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.randn(boxes.shape, device=boxes.device, generator=generator) * JITTER * sides
    moved = torch.rand(len(boxes), 1, device=boxes.device, generator=generator) < 0.8
    return (boxes + noise.clamp(-16, 16) * moved).clamp(0, side)


def prompt_losses(
    model: SegAny, features: Float[Tensor, "b c h w"], asked: AskedObjects, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the parts of the loss by name."""
    own, count = features[asked.image], len(asked.image)
    labels = torch.where(asked.use_point, 1, PADDING_LABEL)[:, None]
    points = asked.points[:, None]
    logits, ious = _decode(model, own, asked, points, labels, None, True)
    losses = mask_loss(logits, asked.truth)
    masks = losses[:, 0] + best_of_masks(losses[:, 1:])
    parts = {name: (masks * (asked.kind == row)).sum() / count for row, name in enumerate(KINDS)}
    parts["iou"] = iou_loss(ious, logits, asked.truth).mean()
    again = torch.arange(0, count, 3, device=features.device)
    shown = logits[again, ious[again, 1:].argmax(dim=1) + 1].detach()
    clicks, click_labels = random_error_point(shown > 0, asked.truth[again] > 0.5, generator)
    clicks = (clicks + 0.5) * (asked.whole.shape[-1] / shown.shape[-1]) - 0.5
    points = torch.cat([points[again], clicks[:, None].to(points)], dim=1)
    labels = torch.cat([labels[again], click_labels[:, None].to(labels)], dim=1)
    logits, ious = _decode(model, own[again], asked, points, labels, shown[:, None], False, again)
    truth = asked.truth[again]
    parts["click"] = 0.5 * mask_loss(logits, truth).mean() + 0.3 * iou_loss(ious, logits, truth).mean()
    return parts


def _decode(
    model: SegAny,
    features: Float[Tensor, "n c h w"],
    asked: AskedObjects,
    points: Float[Tensor, "n p 2"],
    labels: Int64[Tensor, "n p"],
    masks: Float[Tensor, "n 1 l l"] | None,
    multimask_output: bool,
    rows: Int64[Tensor, "n"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode prompts of all kinds at once; of a kind that is not given the tokens are marked as not valid."""
    encoder: PromptEncoder = model.prompt_encoder
    boxes, text, use_box, use_text = (
        one if rows is None else one[rows] for one in (asked.boxes, asked.text, asked.use_box, asked.use_text)
    )
    tokens, valid = all_tokens(encoder, points, labels, boxes, use_box, text, use_text)
    if masks is None:
        filled = encoder.mask_downscaling(box_maps(boxes, encoder.config.image_size, encoder.config.low_res_size))
        dense = torch.where(use_box[:, None, None, None], filled, encoder.no_mask_embed.weight[:, :, None, None])
    else:
        dense = encoder.mask_downscaling(masks)
    dense = dense + encoder.encode_clicks(points, labels)
    prompts = PromptTokens(sparse=tokens, dense=dense, valid=valid)
    logits, ious = model.mask_decoder(
        features, encoder.dense_position_code(), prompts, None if multimask_output else False
    )
    return logits, ious


def all_tokens(
    encoder: PromptEncoder,
    points: Float[Tensor, "n p 2"],
    labels: Int64[Tensor, "n p"],
    boxes: Float[Tensor, "n 4"],
    use_box: Bool[Tensor, "n"],
    text: Float[Tensor, "n d"],
    use_text: Bool[Tensor, "n"],
) -> tuple[Float[Tensor, "n t c"], Bool[Tensor, "n t"]]:
    """The tokens of points, the not-a-point token, two corners and a name, and which of them are given."""
    given = labels != PADDING_LABEL
    tokens = [
        encoder.encode_points(points, labels),
        encoder.not_a_point_embed.weight.expand(len(points), 1, -1),
        encoder.encode_boxes(boxes),
        encoder.encode_text(text[:, None]),
    ]
    no_box = (given.any(dim=1) & ~use_box)[:, None]
    valid = torch.cat([given, no_box, use_box[:, None].expand(-1, 2), use_text[:, None]], dim=1)
    return torch.cat(tokens, dim=1), valid
