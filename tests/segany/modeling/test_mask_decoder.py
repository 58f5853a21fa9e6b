import pytest
import torch

from segany import Prompts
from tests.segany import reference
from tests.segany.reference import PROMPT_KINDS, SMALL, assert_close


@pytest.fixture(scope="module")
def features():
    return torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(3))


def predict(sam, features, prompts, multimask_output):
    """What the reference says."""
    sparse, dense = sam.prompt_encoder(**reference.sam_arguments(prompts))
    return sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output)


@pytest.mark.parametrize("multimask_output", [True, False], ids=["several masks", "one mask"])
@pytest.mark.parametrize("kind", PROMPT_KINDS)
@torch.no_grad()
def test_answers_equal_the_reference(sam, model, features, kind, multimask_output):
    prompts = reference.random_prompts(kind, 3, (256, 256), SMALL.low_res_size)
    expected_logits, expected_iou = predict(sam, features, prompts, multimask_output)
    logits, predicted_iou = model.decode(features, prompts, multimask_output)
    assert_close(logits, expected_logits)
    assert_close(predicted_iou, expected_iou)


@torch.no_grad()
def test_all_outputs_are_the_single_one_then_the_others(model, features):
    prompts = reference.random_prompts("points", 2, (256, 256), SMALL.low_res_size)
    everything, single, several = (model.decode(features, prompts, which) for which in (None, False, True))
    for part in range(2):  # logits, then predicted IoU
        assert_close(everything[part], torch.cat([single[part], several[part]], dim=1), 1e-5)


@pytest.mark.parametrize("kind", PROMPT_KINDS)
@torch.no_grad()
def test_single_equals_batched(model, features, kind):
    prompts = reference.random_prompts(kind, 4, (256, 256), SMALL.low_res_size)
    batched, _ = model.decode(features, prompts, None)
    assert_close(torch.cat([model.decode(features, prompt, None)[0] for prompt in prompts]), batched, 1e-5)


@pytest.mark.parametrize("with_box", [False, True], ids=["points", "points and box"])
@torch.no_grad()
def test_padded_points_take_no_part(model, features, with_box):
    points, labels, boxes = torch.rand(2, 2, 2) * 256, torch.tensor([[1, 0], [0, 1]]), torch.rand(2, 4) * 256
    box_fields = {"boxes": boxes} if with_box else {}
    plain = model.decode(features, Prompts(points=points, point_labels=labels, **box_fields), None)
    padding = torch.tensor([[[0.0, 0.0], [99.0, 7.0]]]).expand(2, -1, -1)
    padded_prompts = Prompts(
        points=torch.cat([points, padding], dim=1),
        point_labels=torch.cat([labels, torch.full((2, 2), -1)], dim=1),
        **box_fields,
    )
    padded = model.decode(features, padded_prompts, None)
    assert_close(padded[0], plain[0], 1e-5)
    assert_close(padded[1], plain[1], 1e-5)


@torch.no_grad()
def test_ragged_points_answer_like_each_list_alone(model, features):
    lists = [[[10.0, 20.0]], [[30.0, 40.0], [50.0, 60.0], [70.0, 80.0]]]
    ragged = Prompts(
        points=[lists[0] + [[0.0, 0.0]] * 2, lists[1]],
        point_labels=[[1, -1, -1], [1, 0, 1]],
    )
    alone = [Prompts(points=[lists[0]], point_labels=[[1]]), Prompts(points=[lists[1]], point_labels=[[1, 0, 1]])]
    expected = torch.cat([model.decode(features, prompts, None)[0] for prompts in alone])
    assert_close(model.decode(features, ragged, None)[0], expected, 1e-5)
