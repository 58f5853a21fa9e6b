"""The generator against segment-anything 1.0 with the same random weights, and its result as a value."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam

from segany import automatic_mask_generator as module
from segany import deferred_masks
from segany.automatic_mask_generator import AutomaticMaskGenerator, AutomaticMasks
from segany.predictor import Predictor
from segany.utils.boxes import nms
from segany.utils.masks import mask_area, masks_to_boxes, remove_small_regions
from segany.utils.points import build_point_grid
from segany.utils.rle import decode_rle, encode_rle
from tests.segany.reference import SMALL, meta_sam, perturb, segany_like

# No filter. The logits of random weights are small, so the cut is moved by less than 1 to measure stability.
EVERYTHING = {
    "points_per_side": 6,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 0.05,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}


def draw_discs(height: int, width: int, count: int = 8) -> np.ndarray:
    generator = np.random.default_rng(3)
    image = np.full((height, width, 3), (90, 110, 80), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    for _ in range(count):
        centre_y, centre_x, radius = generator.integers((0, 0, 15), (height, width, 30))
        image[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = generator.integers(0, 256, 3)
    return image


IMAGE = draw_discs(240, 320)


def build_reference() -> Sam:
    """Random weights, chosen by their seed for masks that differ in size, stability and predicted IoU."""
    torch.manual_seed(1)
    sam = perturb(meta_sam(SMALL), std=0.15, seed=1)
    with torch.no_grad():
        spread_mask_sizes(sam)
    return sam


def spread_mask_sizes(sam: Sam) -> None:
    """Shift the logits of each mask output so that half of its masks cover less than 1% of the image.

    One upscaled channel is made constant; the weight that the last layer of a hypernetwork gives it is then a bias.
    """
    decoder = sam.mask_decoder
    decoder.output_upscaling[3].weight[:, 0] = 0
    decoder.output_upscaling[3].bias[0] = 4
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    points = torch.rand(16, 1, 2) * 240
    logits, _, _ = predictor.predict_torch(points, torch.ones(16, 1), multimask_output=True, return_logits=True)
    levels = logits.flatten(2)[..., ::7].quantile(0.99, dim=-1).median(dim=0).values
    for hypernetwork, level in zip(decoder.output_hypernetworks_mlps[1:], levels, strict=True):
        hypernetwork.layers[-1].bias[0] -= level / 4


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_reference()


@pytest.fixture(scope="module")
def predictor(sam) -> Predictor:
    return Predictor(segany_like(sam, SMALL))


def generate_reference(sam: Sam, **arguments) -> dict[str, np.ndarray]:
    """Records of segment-anything as arrays, boxes as xyxy."""
    records = SamAutomaticMaskGenerator(sam, **arguments).generate(IMAGE)
    boxes = np.array([[record["bbox"], record["crop_box"]] for record in records], dtype=np.float32).reshape(-1, 2, 4)
    boxes[..., 2:] += boxes[..., :2]
    return {
        "masks": np.array([record["segmentation"] for record in records]),
        "boxes": boxes[:, 0],
        "crop_boxes": boxes[:, 1],
        "points": np.array([record["point_coords"][0] for record in records]),
        "predicted_iou": np.array([record["predicted_iou"] for record in records]),
        # Of an empty mask the reference has nan.
        "stability_score": np.nan_to_num([record["stability_score"] for record in records]),
    }


def as_arrays(found) -> dict[str, np.ndarray]:
    names = ("masks", "boxes", "crop_boxes", "points", "predicted_iou", "stability_score")
    return {name: getattr(found, name).numpy() for name in names}


def in_fixed_order(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By crop, then point, then predicted IoU: an order which rounding does not change."""
    keys = [arrays["predicted_iou"], *arrays["points"].round(2).T, *arrays["crop_boxes"].T]
    order = np.lexsort(keys)
    return {name: values[order] for name, values in arrays.items()}


def is_doubtful(sam: Sam, crop_box: np.ndarray, point: np.ndarray, predicted_iou: float) -> np.ndarray:
    """Where the reference logit of one mask is so near zero that rounding may change its sign."""
    x0, y0, x1, y1 = crop_box.astype(int)
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE[y0:y1, x0:x1])
    logits, predictions, _ = predictor.predict((point - (x0, y0))[None], np.ones(1), return_logits=True)
    distance = np.abs(logits[np.abs(predictions - predicted_iou).argmin()])
    doubtful = np.zeros(IMAGE.shape[:2], dtype=bool)
    doubtful[y0:y1, x0:x1] = distance < 1e-3 * distance.max()
    return doubtful


def threshold_between(values: np.ndarray, quantile: float) -> float:
    """The middle of the widest gap near a quantile, so that rounding moves no value across it."""
    values = np.sort(values)
    centre, reach = int(quantile * len(values)), max(2, len(values) // 10)
    near = values[max(0, centre - reach) : centre + reach]
    gap = np.diff(near).argmax()
    return float((near[gap] + near[gap + 1]) / 2)


def assert_same(sam: Sam, own: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(own["points"], reference["points"], atol=1e-4)
    np.testing.assert_array_equal(own["crop_boxes"], reference["crop_boxes"])
    np.testing.assert_allclose(own["predicted_iou"], reference["predicted_iou"], atol=1e-4)
    np.testing.assert_allclose(own["stability_score"], reference["stability_score"], atol=1e-2)
    different = own["masks"] ^ reference["masks"]
    same = ~different.any(axis=(1, 2))
    for index in np.flatnonzero(~same):
        mask = (reference[name][index] for name in ("crop_boxes", "points", "predicted_iou"))
        assert not (different[index] & ~is_doubtful(sam, *mask)).any()
    np.testing.assert_array_equal(own["boxes"][same], reference["boxes"][same])
    assert same.mean() > 0.8  # of a dozen masks, two may have a doubtful pixel


@pytest.fixture(scope="module")
def find_unfiltered(sam) -> Callable[[int], dict[str, np.ndarray]]:
    """All masks that the reference finds without any filter, by the number of crop layers."""
    return cache(lambda layers: generate_reference(sam, **EVERYTHING, crop_n_layers=layers))


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["whole image", "crops"])
def candidates(request, find_unfiltered) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Arguments without any filter, and all masks that the reference finds with them."""
    return EVERYTHING | {"crop_n_layers": request.param}, find_unfiltered(request.param)


def test_same_candidates(sam, predictor, candidates):
    arguments, unfiltered = candidates
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE)
    assert len(found) > 10
    assert_same(sam, in_fixed_order(as_arrays(found)), in_fixed_order(unfiltered))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidates", "iou_quantile", "stability_quantile"),
    [
        pytest.param(0, 0.7, None, id="predicted IoU", marks=pytest.mark.long),
        pytest.param(0, None, 0.6, id="stability", marks=pytest.mark.long),
        pytest.param(0, 0.6, 0.5, id="both"),
        pytest.param(1, 0.6, 0.5, id="both, with crops"),
    ],
    indirect=["candidates"],
)
def test_same_filtered_candidates(sam, predictor, candidates, iou_quantile, stability_quantile):
    arguments, unfiltered = candidates
    if iou_quantile:
        arguments = arguments | {"pred_iou_thresh": threshold_between(unfiltered["predicted_iou"], iou_quantile)}
    if stability_quantile:
        threshold = threshold_between(unfiltered["stability_score"], stability_quantile)
        arguments = arguments | {"stability_score_thresh": threshold}
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE)
    assert 10 < len(found) < len(unfiltered["masks"])
    assert_same(sam, in_fixed_order(as_arrays(found)), in_fixed_order(generate_reference(sam, **arguments)))


@pytest.mark.slow
def test_same_masks_in_the_same_order_after_nms(sam, predictor, candidates):
    arguments, unfiltered = candidates
    arguments = arguments | {
        "pred_iou_thresh": threshold_between(unfiltered["predicted_iou"], 0.4),
        "box_nms_thresh": 0.7,
        "crop_nms_thresh": 0.5,
    }
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE)
    assert 5 < len(found) < len(unfiltered["masks"]) / 2
    assert_same(sam, as_arrays(found), generate_reference(sam, **arguments))


@pytest.fixture(scope="module")
def arguments() -> dict[str, float]:
    """Filters that leave a few dozen masks, some of them of crops."""
    filters = {"pred_iou_thresh": 0.2, "box_nms_thresh": 0.8, "crop_n_layers": 1}
    return EVERYTHING | {"points_per_side": 4} | filters


@pytest.fixture(scope="module")
def baseline(predictor, arguments):
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE)
    assert len(found) > 10
    return found


def assert_equal(actual, expected) -> None:
    """The same masks; predicted IoU may differ by rounding."""
    assert actual.rles == expected.rles
    assert torch.equal(actual.boxes, expected.boxes)
    assert torch.equal(actual.crop_boxes, expected.crop_boxes)
    assert torch.equal(actual.points, expected.points)
    assert torch.allclose(actual.predicted_iou, expected.predicted_iou, atol=1e-5)


def test_fields_describe_the_masks(baseline):
    masks = baseline.masks
    assert baseline.image_size == (240, 320)
    assert torch.equal(decode_rle(baseline.rles), masks)
    assert torch.equal(masks_to_boxes(masks)[baseline.areas > 0], baseline.boxes[baseline.areas > 0])
    assert torch.equal(masks.sum(dim=(1, 2)), baseline.areas)
    assert (baseline.predicted_iou > 0.2).all()
    x0, y0, x1, y1 = baseline.crop_boxes.unbind(-1)
    x, y = baseline.points.unbind(-1)
    assert ((x0 < x) & (x < x1) & (y0 < y) & (y < y1)).all()


def test_batch_size_does_not_matter(predictor, arguments, baseline):
    generator = AutomaticMaskGenerator(predictor, **arguments, points_per_batch=5)
    assert_equal(generator.generate(IMAGE), baseline)


def test_masks_drawn_one_by_one_are_the_same(predictor, arguments, baseline, monkeypatch):
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", {"cpu": 1})
    assert_equal(AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE), baseline)


def test_masks_decoded_again_are_the_same(predictor, arguments, baseline, monkeypatch):
    monkeypatch.setattr(deferred_masks, "MAX_STORED_FLOATS", 20_000)  # enough for some of the masks
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE)
    assert_equal(found, baseline)
    assert torch.equal(found.predicted_iou, baseline.predicted_iou)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 100])
def test_crops_encoded_together_are_the_same(predictor, arguments, baseline, monkeypatch, count):
    monkeypatch.setattr(module, "_CROPS_AT_ONCE", {"cpu": count})
    assert_equal(AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE), baseline)


def test_a_given_embedding_serves_the_whole_image(predictor, arguments, baseline):
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE, embedding=predictor.encode(IMAGE))
    assert_equal(found, baseline)


def test_pil_image_and_array_give_the_same(predictor, arguments, baseline):
    assert_equal(AutomaticMaskGenerator(predictor, **arguments).generate(Image.fromarray(IMAGE)), baseline)


def test_explicit_grids_equal_the_built_ones(predictor, arguments, baseline):
    grids = [build_point_grid(4).numpy(), build_point_grid(4)]
    generator = AutomaticMaskGenerator(predictor, **(arguments | {"points_per_side": None}), point_grids=grids)
    assert_equal(generator.generate(IMAGE), baseline)


def test_no_points(predictor, arguments):
    arguments = arguments | {"points_per_side": None, "crop_n_layers": 0}
    found = AutomaticMaskGenerator(predictor, **arguments, point_grids=[torch.zeros(0, 2)]).generate(IMAGE)
    assert len(found) == 0


def test_thinner_grids_in_crops(predictor, arguments):
    calls = []
    thinner = AutomaticMaskGenerator(predictor, **arguments, crop_n_points_downscale_factor=2)
    thinner.generate(IMAGE, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(16, 32), (20, 32), (24, 32), (28, 32), (32, 32)]


@pytest.mark.parametrize(
    ("threshold", "crop_layers", "min_area"),
    [
        ("pred_iou_thresh", 0, 0),
        ("pred_iou_thresh", 1, 0),
        ("stability_score_thresh", 0, 50),
        ("stability_score_thresh", 1, 50),
    ],
)
def test_nothing_found(predictor, threshold, crop_layers, min_area):
    arguments = EVERYTHING | {threshold: 100.0, "points_per_side": 2}
    generator = AutomaticMaskGenerator(predictor, **arguments, crop_n_layers=crop_layers, min_mask_region_area=min_area)
    found = generator.generate(IMAGE)
    assert len(found) == 0
    assert found.masks.shape == (0, 240, 320)


def test_small_regions_are_removed(predictor, arguments, baseline):
    min_area = 300
    found = AutomaticMaskGenerator(predictor, **arguments, min_mask_region_area=min_area).generate(IMAGE)
    cleaned, touched = remove_small_regions(baseline.masks, min_area)
    assert 0 < touched.sum() < len(baseline)
    boxes = masks_to_boxes(cleaned)
    kept = nms(boxes, (~touched).float(), 1.0)
    assert torch.equal(found.masks, cleaned[kept])
    assert torch.equal(found.boxes, boxes[kept])
    assert torch.equal(found.areas, cleaned[kept].sum(dim=(1, 2)))
    assert torch.equal(found.points, baseline.points[kept])


def test_duplicates_made_by_cleaning_are_removed(predictor, arguments):
    arguments = arguments | {"crop_nms_thresh": 0.5, "min_mask_region_area": IMAGE.size}
    found = AutomaticMaskGenerator(predictor, **arguments).generate(IMAGE)
    assert found.areas.tolist() == [240 * 320], "with every hole filled, all masks are the whole image"


def test_progress_bar(predictor, capsys):
    arguments = EVERYTHING | {"points_per_side": 2}
    generator = AutomaticMaskGenerator(predictor, **arguments)
    generator.generate(IMAGE)
    assert capsys.readouterr().err == ""
    generator.generate(IMAGE, progress=True)
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"points_per_side": None}, "exactly one of", id="no points"),
        pytest.param({"point_grids": [torch.zeros(1, 2)]}, "exactly one of", id="two kinds of points"),
        pytest.param(
            {"points_per_side": None, "point_grids": [torch.zeros(1, 2)], "crop_n_layers": 1},
            "each of 2 layers, got 1",
            id="too few grids",
        ),
        pytest.param({"points_per_batch": 0}, "at least 1, got 0", id="empty batches"),
        pytest.param({"crop_n_layers": -1}, "must not be negative, got -1", id="negative layers"),
    ],
)
def test_arguments_that_do_not_fit(predictor, arguments, message):
    with pytest.raises(ValueError, match=message):
        AutomaticMaskGenerator(predictor, **arguments)


def build_masks(count: int, height: int = 6, width: int = 8) -> AutomaticMasks:
    """Rectangles that grow from mask to mask."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for index in range(count):
        masks[index, : index + 1, : index + 2] = True
    return AutomaticMasks(
        rles=tuple(encode_rle(masks)),
        boxes=masks_to_boxes(masks),
        areas=mask_area(masks),
        predicted_iou=torch.arange(count) / 10,
        stability_score=torch.ones(count),
        points=torch.zeros(count, 2),
        crop_boxes=torch.tensor([0.0, 0.0, width, height]).expand(count, 4),
        image_size=(height, width),
    )


FOUR = build_masks(4)


@pytest.mark.parametrize(
    ("index", "areas"),
    [
        pytest.param(1, [6], id="integer"),
        pytest.param(-1, [20], id="negative integer"),
        pytest.param(slice(1, 3), [6, 12], id="slice"),
        pytest.param([3, 0], [20, 2], id="list of integers"),
        pytest.param(torch.tensor([2, 2]), [12, 12], id="integer tensor"),
        pytest.param(torch.tensor(2), [12], id="scalar tensor"),
        pytest.param(FOUR.areas > 5, [6, 12, 20], id="boolean tensor"),
        pytest.param((FOUR.areas > 50).numpy(), [], id="boolean array, nothing"),
        pytest.param([], [], id="empty list"),
    ],
)
def test_indexing(index, areas):
    chosen = FOUR[index]
    assert len(chosen) == len(areas)
    assert chosen.areas.tolist() == areas
    assert mask_area(chosen.masks).tolist() == areas
    assert torch.equal(masks_to_boxes(chosen.masks), chosen.boxes)
    assert chosen.image_size == (6, 8)


def test_iteration_ends():
    assert [len(one) for one in FOUR] == [1, 1, 1, 1]


def test_no_masks():
    empty = build_masks(0)
    assert len(empty) == 0
    assert empty.masks.shape == (0, 6, 8)


def test_concatenate_is_the_inverse_of_slicing():
    joined = AutomaticMasks.concatenate([FOUR[:1], FOUR[1:1], FOUR[1:]])
    assert joined.rles == FOUR.rles
    assert torch.equal(joined.boxes, FOUR.boxes)
    assert torch.equal(joined.predicted_iou, FOUR.predicted_iou)


def test_parts_must_be_of_one_image_size():
    with pytest.raises(ValueError, match=r"one image size, got \[\(6, 8\), \(7, 8\)\]"):
        AutomaticMasks.concatenate([FOUR, build_masks(2, height=7)])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"one length, got .*'rles': 3"):
        AutomaticMasks(**{**vars(FOUR), "rles": FOUR.rles[:3]})
