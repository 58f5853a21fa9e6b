import pytest
import torch
from PIL import Image

import segany
from grounded.data.protocols import DensePrompts
from grounded.errors import ConfigError
from grounded.experiments.text import PROMPT_KINDS, TextPrompting, _make_prompts, segment_text
from segany.utils.points import interior_point
from segany.utils.rle import encode_rle, rle_iou


class Embeddings:
    """Gives each phrase a vector of unit length."""

    dim = 512

    def encode(self, phrases: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.ones(len(phrases), self.dim), dim=1)


def dense() -> DensePrompts:
    """Prompts whose foreground points are in both disks, and one of the background."""
    points, labels = torch.tensor([[[30.0, 40], [75, 30], [5, 5]]]).repeat(2, 1, 1), torch.tensor([[1, 1, 0]] * 2)
    return DensePrompts(points, labels, torch.zeros(2, 8, 8))


@pytest.mark.parametrize("is_dense", [False, True], ids=["adapter", "dense"])
def test_a_mask_for_each_object_and_kind(
    predictor: segany.Predictor, disks: tuple, embedding: segany.ImageEmbedding, is_dense: bool
):
    truths = disks[1]
    points, boxes = interior_point(truths), segany.utils.masks.masks_to_boxes(truths).float()
    width = predictor.model.config.text_dim
    text = dense() if is_dense else torch.nn.functional.normalize(torch.ones(2, width), dim=1)
    found = segment_text(predictor, embedding, text, points, boxes)
    assert tuple(found) == PROMPT_KINDS
    for kind, rles in found.items():
        iou = rle_iou(rles, encode_rle(truths)).diagonal()
        assert len(iou) == 2 and ("text" in kind or iou.min() > 0.5), (kind, iou)


def test_beside_a_box_its_own_points_are_kept(predictor: segany.Predictor, embedding: segany.ImageEmbedding):
    boxes = torch.tensor([[12.0, 22, 48, 58], [63, 18, 87, 42]])
    prompts = _make_prompts("box + text", predictor, embedding, dense(), torch.zeros(2, 2), boxes)
    assert prompts.masks is None and prompts.point_labels is not None
    assert prompts.point_labels.tolist() == [[1, -1, 0], [-1, 1, 0]]


def test_phrases_reach_the_segmenter_in_one_way():
    image = Image.new("RGB", (8, 8))
    assert TextPrompting(encoder=Embeddings()).prompts(image, ["a", "b"]).shape == (2, 512)
    with pytest.raises(ConfigError, match="either"):
        TextPrompting()
