import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segany.modeling.relative_attention import (
    RelativeAttention,
    attend,
    augment,
    by_distance,
    chunked_attention,
    fused_attention,
    join_windows,
    plain_attention,
    split_windows,
)
from tests.segany.reference import assert_close, perturb

FORMS = {
    "attend": attend,
    "plain": plain_attention,
    "fused": fused_attention,
    "chunked": chunked_attention,
    "chunks of queries": lambda *operands: chunked_attention(*operands, scores_at_once=100),
    "chunks of heads": lambda *operands: chunked_attention(*operands, scores_at_once=3000),
}
# (batch, heads, side, head_dim)
SIZES = {
    "usual": (2, 3, 5, 8),
    "widths that kernels do not want": (1, 2, 7, 10),
    "one token": (2, 1, 1, 4),
    "no window": (0, 2, 3, 8),
}
# (height, width, side of a window, dim, heads)
GRIDS = {
    "padded windows": (10, 10, 4, 24, 3),
    "fitting windows": (8, 8, 4, 24, 3),
    "global": (6, 6, 6, 24, 2),
    "window larger than the grid": (3, 3, 5, 16, 1),
    "not square": (7, 10, 4, 20, 2),
}


def random_operands(batch: int, heads: int, side: int, head_dim: int, dtype=torch.float32) -> list[Tensor]:
    widths = (head_dim, head_dim, head_dim, side, side)
    return [torch.randn(batch, heads, side**2, width, dtype=dtype) for width in widths]


def straightforward(q: Tensor, k: Tensor, v: Tensor, row_scores: Tensor, column_scores: Tensor) -> Tensor:
    """The formula as it is written, with the bias of all pairs of tokens."""
    side = row_scores.shape[-1]
    token = torch.arange(side**2)
    bias = row_scores[..., token // side] + column_scores[..., token % side]
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias).softmax(dim=-1) @ v


def straightforward_module(attention: RelativeAttention, x: Tensor) -> Tensor:
    """Padding with zeros first, projections of all tokens, and one relative position for each pair of them."""
    batch, height, width, dim = x.shape
    side, heads = attention.side, attention.heads
    padded = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    out = torch.zeros_like(padded)
    token = torch.arange(side**2)
    row, column = (place[:, None] - place[None, :] + side - 1 for place in (token // side, token % side))
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = padded[:, top : top + side, left : left + side].reshape(batch, -1, dim)
            q, k, v = attention.qkv(window).reshape(batch, side**2, 3, heads, -1).permute(2, 0, 3, 1, 4)
            bias = torch.einsum("bnid,ijd->bnij", q, attention.rel_pos_h[row] + attention.rel_pos_w[column])
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias
            attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, side, side, dim)
            out[:, top : top + side, left : left + side] = attention.proj(attended)
    return out[:, :height, :width]


def random_attention(side: int, dim: int, heads: int) -> RelativeAttention:
    torch.manual_seed(0)
    return perturb(RelativeAttention(dim, heads, side), std=0.3)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@torch.no_grad()
def test_forms_equal_the_formula(form, size):
    operands = random_operands(*size)
    torch.testing.assert_close(form(*operands), straightforward(*operands), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@torch.no_grad()
def test_forms_in_bfloat16_stay_near(form):
    operands = random_operands(2, 3, 6, 8, torch.bfloat16)
    assert_close(form(*operands).float(), straightforward(*(operand.float() for operand in operands)), 0.03)


@torch.no_grad()
def test_augmented_products_are_exact():
    q, k, _, row_scores, column_scores = random_operands(2, 2, 3, 4)
    ones = torch.zeros_like(q), torch.zeros_like(k)  # nothing but the position is left
    wide_q, wide_k = augment(*ones, row_scores, column_scores)
    assert wide_q.shape[-1] % 8 == wide_k.shape[-1] % 8 == 0
    token = torch.arange(9)
    expected = row_scores[..., token // 3] + column_scores[..., token % 3]
    assert torch.equal(wide_q @ wide_k.transpose(-2, -1), expected)


@pytest.mark.parametrize(("height", "width", "side", "dim", "heads"), GRIDS.values(), ids=GRIDS.keys())
class TestModule:
    @pytest.mark.parametrize("training", [True, False])
    def test_equals_the_formula(self, height, width, side, dim, heads, training):
        attention, x = random_attention(side, dim, heads), torch.randn(2, height, width, dim)
        with torch.set_grad_enabled(training):
            assert_close(attention(x).detach(), straightforward_module(attention, x).detach(), 1e-5)

    def test_gradients_equal_those_of_the_formula(self, height, width, side, dim, heads):
        attention = random_attention(side, dim, heads).double()
        x = torch.randn(2, height, width, dim, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(2, height, width, dim, dtype=torch.float64)
        wanted = [x, *attention.parameters()]
        actual = torch.autograd.grad((attention(x) * weight).sum(), wanted)
        expected = torch.autograd.grad((straightforward_module(attention, x) * weight).sum(), wanted)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other)

    @torch.no_grad()
    def test_single_equals_batched(self, height, width, side, dim, heads):
        attention, x = random_attention(side, dim, heads), torch.randn(3, height, width, dim)
        assert_close(torch.cat([attention(one) for one in x.split(1)]), attention(x), 1e-5)

    @torch.no_grad()
    def test_bfloat16_stays_near(self, height, width, side, dim, heads):
        attention, x = random_attention(side, dim, heads), torch.randn(2, height, width, dim)
        expected = straightforward_module(attention, x)
        assert_close(attention.bfloat16()(x.bfloat16()).float(), expected, 0.05)


def test_autocast_trains_in_bfloat16():
    attention, x = random_attention(4, 24, 3), torch.randn(2, 10, 10, 24)
    expected = torch.autograd.grad(attention(x).square().mean(), attention.rel_pos_h)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(x)
    assert out.dtype == torch.bfloat16
    actual = torch.autograd.grad(out.float().square().mean(), attention.rel_pos_h)[0]
    assert_close(actual, expected, 0.1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (3, 13), (4, 4), (1, 1)])
def test_windows_round_trip(height, width):
    x = torch.randn(2, height, width, 5)
    windows = split_windows(x, 4, torch.zeros(5))
    assert windows.shape == (2 * -(-height // 4) * -(-width // 4), 4, 4, 5)
    assert torch.equal(join_windows(windows, height, width), x)


def test_windows_are_neighbouring_cells():
    x = torch.arange(36.0).reshape(1, 6, 6, 1)
    windows = split_windows(x, 4, torch.tensor([99.0]))
    assert torch.equal(windows[0, ..., 0], x[0, :4, :4, 0])
    assert torch.equal(windows[3, :2, :2, 0], x[0, 4:, 4:, 0])
    assert (windows[3, 2:] == 99).all()


def test_by_distance():
    table = torch.arange(5.0)[:, None]  # distances -2..2
    assert by_distance(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
