"""Absorbed attention against the plain `Attention` that it rearranges."""

import pytest
import torch
from torch import nn

from segany.fast.absorbed_attention import ImageToTokens, SharedImage, TokensToImage, by_head, pays
from segany.modeling.transformer import Attention
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


def shared_image(look: TokensToImage, write: ImageToTokens, cells: torch.Tensor) -> SharedImage:
    keys, queries = look.scores.project_image(cells[0]), write.scores.project_image(cells[0])
    return SharedImage(cells, keys, look.project_values(cells[0]), queries)


@pytest.fixture(scope="module")
def norm() -> nn.LayerNorm:
    return reference.perturb(nn.LayerNorm(DIM), 0.3)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@torch.no_grad()
def test_tokens_look_at_the_image(attention, norm, code, shared, n):
    look, write = TokensToImage(attention, code, torch.float32), ImageToTokens(attention, norm, code, torch.float32)
    tokens, cells = random(n, 3, DIM), random(1 if shared else n, CELLS, DIM)
    image = shared_image(look, write, cells) if shared else cells
    assert_close(look(tokens, image), attention(tokens, cells + code, cells), 1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["all valid", "padded"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@torch.no_grad()
def test_the_image_looks_at_tokens(attention, norm, code, shared, n, padded):
    look, write = TokensToImage(attention, code, torch.float32), ImageToTokens(attention, norm, code, torch.float32)
    keys, values, cells = random(n, 3, DIM), random(n, 3, DIM) + 1, random(1 if shared else n, CELLS, DIM)
    valid = torch.tensor([True, True, False]).expand(n, -1) if padded else None
    expected = norm(cells + attention(cells + code, keys, values, valid))
    image = shared_image(look, write, cells) if shared else cells.clone()
    assert_close(write(image, keys, values, valid), expected, 1e-5)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_products_by_head(n):
    x, y = random(n, HEADS, 3, 5), random(HEADS, 5, 7)
    product = by_head(x, y)
    assert product.is_contiguous()
    assert_close(product, x @ y, 1e-6)


@pytest.mark.parametrize(("tokens", "expected"), [(1, True), (3, True), (4, False), (40, False)])
def test_it_pays_for_few_tokens(attention, tokens, expected):
    assert pays(tokens, attention) == expected
