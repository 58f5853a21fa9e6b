"""Absorbed attention against the plain `Attention` that it rearranges."""

import pytest
import torch
from torch import nn

from segany.fast.absorbed_attention import (
    ImageToTokenAttention,
    SharedImage,
    TokenToImageAttention,
    is_absorbing_cheaper,
    multiply_by_head,
)
from segany.modeling.mask_decoder import Attention
from tests.segany import reference
from tests.segany.reference import assert_close

DIM, HEADS, INNER, CELLS = 32, 4, 16, 50


@pytest.fixture(scope="module")
def attention() -> Attention:
    torch.manual_seed(0)
    return reference.perturb(Attention(DIM, HEADS, INNER), 0.3)


@pytest.fixture(scope="module")
def code() -> torch.Tensor:
    return torch.randn(CELLS, DIM, generator=torch.Generator().manual_seed(1))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def both_ways(attention: Attention, norm: nn.LayerNorm, code: torch.Tensor):
    """Token-to-image and image-to-token attention with the same weights."""
    return (
        TokenToImageAttention(attention, code, torch.float32),
        ImageToTokenAttention(attention, norm, code, torch.float32),
    )


def shared_image(
    token_to_image: TokenToImageAttention, image_to_token: ImageToTokenAttention, cells: torch.Tensor
) -> SharedImage:
    keys, queries = token_to_image.scores.project_image(cells[0]), image_to_token.scores.project_image(cells[0])
    return SharedImage(cells, keys, token_to_image.project_values(cells[0]), queries)


@pytest.fixture(scope="module")
def norm() -> nn.LayerNorm:
    return reference.perturb(nn.LayerNorm(DIM), 0.3)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@torch.no_grad()
def test_token_to_image_attention(attention, norm, code, shared, n):
    token_to_image, image_to_token = both_ways(attention, norm, code)
    tokens, cells = random(n, 3, DIM), random(1 if shared else n, CELLS, DIM)
    image = shared_image(token_to_image, image_to_token, cells) if shared else cells
    assert_close(token_to_image(tokens, image), attention(tokens, cells + code, cells), 1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["all valid", "padded"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@torch.no_grad()
def test_image_to_token_attention(attention, norm, code, shared, n, padded):
    token_to_image, image_to_token = both_ways(attention, norm, code)
    keys, values, cells = random(n, 3, DIM), random(n, 3, DIM) + 1, random(1 if shared else n, CELLS, DIM)
    valid = torch.tensor([True, True, False]).expand(n, -1) if padded else None
    expected = norm(cells + attention(cells + code, keys, values, valid))
    image = shared_image(token_to_image, image_to_token, cells) if shared else cells.clone()
    assert_close(image_to_token(image, keys, values, valid), expected, 1e-5)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_products_by_head(n):
    x, y = random(n, HEADS, 3, 5), random(HEADS, 5, 7)
    product = multiply_by_head(x, y)
    assert product.is_contiguous()
    assert_close(product, x @ y, 1e-6)


@pytest.mark.parametrize(("tokens", "expected"), [(1, True), (3, True), (4, False), (40, False)])
def test_absorbing_is_cheaper_for_few_tokens(attention, tokens, expected):
    assert is_absorbing_cheaper(tokens, attention) == expected
