"""Masks that are alike in the latent space of a segmenter (Segment Anything, appendix D: probing the latent space).

The embedding of a mask is the image embedding averaged over it; alike are two masks whose embeddings have a high
cosine. The paper encodes a crop around each mask and its mirror image; by default the embedding of the whole image is
used, which costs nothing more and sees all objects at their own scale.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity

from grounded.errors import PromptError
from grounded.stages.segment import encode_masks
from segany import ImageEmbedding, Predictor, Prompts
from segany.precision import own_precision
from segany.utils.rle import RLE, decode_rle, rle_area, rle_boxes, rle_iou

_MASKS_AT_ONCE = 16  # decoded at full size
_MARGIN = 0.1  # of a crop around a mask, as a share of the longer side of its box
_SAME_IOU = 0.5  # with the query, of masks that show the same object


@dataclass(frozen=True, eq=False)
class SimilarMasks:
    """n masks of an image and how alike each is to the query, the most alike first."""

    query: RLE
    rles: tuple[RLE, ...]
    cosines: Float32[np.ndarray, "n"]


@own_precision()
@torch.no_grad()
def similar_masks(
    segmenter: Predictor,
    image: Image.Image,
    embedding: ImageEmbedding,
    query: RLE,
    candidates: Sequence[RLE],
    crops: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SimilarMasks:
    """Compare masks of an image with one of them.

    Args:
        segmenter: which made the embedding.
        image: upright RGB.
        embedding: of the image.
        query: the mask in question, with at least one pixel.
        candidates: masks to compare; those that are nearly the query, and those without a pixel, are left out.
        crops: encode a crop around each mask and its mirror image, as the paper does, instead of pooling `embedding`.
        progress: called with (masks done, masks in all) while crops are encoded.
    """
    is_other = (rle_iou(candidates, [query])[:, :1] < _SAME_IOU).all(axis=1) & (rle_area(candidates) > 0)
    others = [candidates[i] for i in np.flatnonzero(is_other).tolist()]
    masks = [query, *others]
    if crops:
        rows = []
        for number, rle in enumerate(masks, 1):
            rows.append(_embed_crop(segmenter, image, rle))
            if progress is not None:
                progress(number, len(masks))
        embeddings = torch.stack(rows)
    else:
        parts = [decode_rle(masks[start : start + _MASKS_AT_ONCE]) for start in range(0, len(masks), _MASKS_AT_ONCE)]
        embeddings = torch.cat([pool_embedding(segmenter, embedding, part) for part in parts])
    cosines = cosine_similarity(embeddings[1:], embeddings[:1]).cpu()
    order = torch.argsort(cosines, descending=True, stable=True)
    return SimilarMasks(query, tuple(others[i] for i in order.tolist()), cosines[order].numpy())


def pool_embedding(
    segmenter: Predictor, embedding: ImageEmbedding, masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n c"]:
    """Return the image embedding averaged over each of n masks of the original size, which have a pixel each.

    A cell counts by the share of it that the mask covers; of a mask that is smaller than a low-resolution pixel the
    nearest cell counts.
    """
    features = embedding.features[0].to(segmenter.device).float()  # (c, gh, gw)
    logits = segmenter.mask_prompts(embedding, masks)  # (n, 1, l, l), positive inside
    inside = (logits > 0) | (logits >= logits.amax(dim=(2, 3), keepdim=True))
    weights = avg_pool2d(inside.float(), logits.shape[-1] // features.shape[-1])[:, 0]  # (n, gh, gw)
    sums = torch.einsum("nhw,chw->nc", weights, features)
    return sums / weights.sum(dim=(1, 2))[:, None]


def _embed_crop(segmenter: Predictor, image: Image.Image, rle: RLE) -> Float[Tensor, "c"]:
    """Return the embedding of a mask by a crop around it, averaged over the crop and its mirror image."""
    x0, y0, x1, y1 = rle_boxes([rle])[0].tolist()
    margin = _MARGIN * max(x1 - x0, y1 - y0)
    left, top = max(0, math.floor(x0 - margin)), max(0, math.floor(y0 - margin))
    corners = (left, top, min(image.width, math.ceil(x1 + margin)), min(image.height, math.ceil(y1 + margin)))
    crop, mask = image.crop(corners), decode_rle([rle])[:, top : corners[3], left : corners[2]]
    embeddings = segmenter.encode_batch([crop, ImageOps.mirror(crop)])
    pairs = zip(embeddings, (mask, mask.flip(2)), strict=True)
    pooled = [pool_embedding(segmenter, embedding, part) for embedding, part in pairs]
    return torch.cat(pooled).mean(dim=0)


@own_precision()
@torch.no_grad()
def prompted_mask(segmenter: Any, embedding: Any, prompts: Prompts) -> RLE:
    """Return the best-scored mask of one prompt.

    Raises:
        PromptError: it has no pixel.
    """
    (rle,) = encode_masks(segmenter.predict(embedding, prompts, multimask_output=True).best())
    if not rle_area([rle])[0]:
        raise PromptError("the segmenter gives an empty mask for this point or box: choose another one")
    return rle
