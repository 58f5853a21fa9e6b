import pytest
import torch

from segany import PromptError, Prompts, SegAny
from segany.modeling.prompt_encoder import PositionCode
from tests.segany import reference
from tests.segany.reference import PROMPT_KINDS, SMALL, assert_close


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", PROMPT_KINDS)
@torch.no_grad()
def test_tokens_equal_the_reference(sam, model, kind, n):
    prompts = reference.random_prompts(kind, n, (256, 256), SMALL.low_res_size)
    sparse, dense = sam.prompt_encoder(**reference.sam_arguments(prompts))
    tokens = model.prompt_encoder(prompts)
    assert tokens.valid is None
    if sparse.shape[1]:
        assert_close(tokens.sparse, sparse, 1e-6)
    else:
        assert tokens.sparse.shape == sparse.shape
    assert_close(tokens.dense.expand_as(dense), dense, 1e-5)


def test_the_dense_embedding_is_shared_without_a_mask_prompt(model):
    assert model.prompt_encoder(Prompts(boxes=torch.rand(5, 4))).dense.shape[0] == 1


def test_dense_position_code_equals_the_reference(sam, model):
    assert_close(model.prompt_encoder.dense_position_code(), sam.prompt_encoder.get_dense_pe(), 1e-5)


@pytest.mark.parametrize("with_box", [False, True], ids=["points", "points and box"])
def test_only_padding_is_invalid(model, with_box):
    boxes = torch.rand(2, 4) if with_box else None
    prompts = Prompts(points=torch.rand(2, 3, 2), point_labels=[[1, 0, -1], [0, -1, -1]], boxes=boxes)
    valid = model.prompt_encoder(prompts).valid
    # After the points come two box corners, or one token that stands for the missing box.
    after = [True, True] if with_box else [True]
    assert valid.tolist() == [[True, True, False, *after], [True, False, False, *after]]


def test_no_prompts(model):
    tokens = model.prompt_encoder(Prompts(points=[], point_labels=[]))
    assert tokens.sparse.shape == (0, 1, SMALL.prompt_dim)


@pytest.mark.parametrize("t", [1, 3])
def test_text_tokens_depend_on_direction_only(text_model, t):
    text = torch.randn(2, t, 24)
    tokens = text_model.prompt_encoder(Prompts(text=text)).sparse
    assert tokens.shape == (2, t, SMALL.prompt_dim)
    assert_close(text_model.prompt_encoder(Prompts(text=7 * text)).sparse, tokens, 1e-5)
    with pytest.raises(AssertionError):
        assert_close(text_model.prompt_encoder(Prompts(text=-text)).sparse, tokens, 1e-1)


def test_text_follows_points_and_boxes(text_model):
    text, boxes = torch.randn(2, 1, 24), torch.rand(2, 4)
    both = text_model.prompt_encoder(Prompts(text=text, boxes=boxes)).sparse
    boxes_alone = text_model.prompt_encoder(Prompts(boxes=boxes)).sparse
    text_alone = text_model.prompt_encoder(Prompts(text=text)).sparse
    assert torch.equal(both, torch.cat([boxes_alone, text_alone], dim=1))


@pytest.mark.parametrize(
    ("fixture", "prompts", "message"),
    [
        ("model", Prompts(text=torch.zeros(1, 1, 24)), "takes no text prompt"),
        (
            "text_model",
            Prompts(text=torch.zeros(1, 1, 25)),
            r"text must be \(n, t, 24\) for this model, got \(1, 1, 25\)",
        ),
        ("model", Prompts(masks=torch.zeros(1, 1, 64, 32)), r"masks must be \(n, 1, 64, 64\) .*, got \(1, 1, 64, 32\)"),
    ],
    ids=["text", "text width", "mask size"],
)
def test_prompts_that_do_not_fit_the_model(request, fixture, prompts, message):
    encoder = request.getfixturevalue(fixture).prompt_encoder
    with pytest.raises(PromptError, match=message):
        encoder(prompts)


class TestPositionCode:
    @pytest.fixture
    def code(self) -> PositionCode:
        return PositionCode(64)

    def test_float32_under_autocast(self, code):
        xy = torch.rand(5, 2)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(code(xy), code(xy).float())
            inside = code(xy)
        assert torch.equal(inside, code(xy))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_frequencies_are_never_rounded(self, code, dtype):
        before = code.positional_encoding_gaussian_matrix.clone()
        code.to(dtype)
        assert torch.equal(code.positional_encoding_gaussian_matrix, before)

    def test_frequencies_move_with_the_model(self, code):
        assert code.to("meta").positional_encoding_gaussian_matrix.device.type == "meta"

    def test_frequencies_are_not_trained(self, code):
        assert list(code.parameters()) == []

    def test_scale_of_a_fresh_code(self):
        assert SegAny(SMALL).prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.std() == pytest.approx(
            1, abs=0.3
        )
