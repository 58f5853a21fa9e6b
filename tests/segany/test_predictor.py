import dataclasses

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from segany import (
    PRESETS,
    ForeignEmbeddingError,
    ImageEmbedding,
    MaskPrediction,
    Predictor,
    PromptError,
    Prompts,
    SegAny,
)
from segany.errors import EmbeddingFileError
from segany.files import write_safetensors
from tests.data import disk
from tests.segany import reference
from tests.segany.reference import PROMPT_KINDS, SMALL, assert_close


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor(model)


@pytest.fixture(scope="module")
def embedding(predictor, drawing) -> ImageEmbedding:
    return predictor.encode(drawing)


@pytest.fixture(scope="module")
def boxes() -> Prompts:
    return reference.random_prompts("box", 5, (90, 140), SMALL.low_res_size)


@pytest.fixture(scope="module")
def prediction(predictor, embedding, boxes) -> MaskPrediction:
    return predictor.predict(embedding, boxes)


def assert_predictions_equal(
    ours: MaskPrediction, theirs: SamPredictor, prompts: Prompts, multimask_output: bool
) -> None:
    """Compare with the reference's predictor, prompt by prompt, from original pixels to full-size masks."""
    for index, prompt in enumerate(prompts):
        points = {} if prompt.points is None else {"point_coords": prompt.points[0].numpy()}
        labels = {} if prompt.point_labels is None else {"point_labels": prompt.point_labels[0].numpy()}
        masks = {} if prompt.masks is None else {"mask_input": prompt.masks[0].numpy()}
        box = {} if prompt.boxes is None else {"box": prompt.boxes[0].numpy()}
        logits, predicted_iou, low_res = theirs.predict(
            **points, **labels, **masks, **box, multimask_output=multimask_output, return_logits=True
        )
        prediction, logits = ours[index], torch.as_tensor(logits)
        assert_close(prediction.low_res_logits[0], torch.as_tensor(low_res))
        assert_close(prediction.predicted_iou[0], torch.as_tensor(predicted_iou))
        assert_close(prediction.logits[0], logits)
        certain = logits.abs() >= 1e-3 * logits.abs().max()
        assert torch.equal(prediction.masks[0][certain], (logits > 0)[certain])


@pytest.mark.parametrize("multimask_output", [True, False], ids=["several masks", "one mask"])
@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_predictions_equal_the_reference(sam, predictor, image, kind, multimask_output):
    theirs = SamPredictor(sam)
    theirs.set_image(image)
    embedding = predictor.encode(image)
    assert_close(embedding.features, theirs.get_image_embedding())
    prompts = reference.random_prompts(kind, 2, image.shape[:2], SMALL.low_res_size)
    prediction = predictor.predict(embedding, prompts, multimask_output)
    assert_predictions_equal(prediction, theirs, prompts, multimask_output)


@pytest.mark.slow
def test_full_size_predictions_equal_the_reference(drawing):
    """The published ViT-B sizes, with random weights."""
    torch.manual_seed(0)
    sam = reference.perturb(reference.meta_sam(PRESETS["vit_b"]), std=0.02)
    predictor, theirs = Predictor(reference.segany_like(sam, PRESETS["vit_b"])), SamPredictor(sam)
    theirs.set_image(drawing)
    embedding = predictor.encode(drawing)
    assert_close(embedding.features, theirs.get_image_embedding())
    for kind in PROMPT_KINDS:
        prompts = reference.random_prompts(kind, 1, (90, 140), 256)
        assert_predictions_equal(predictor.predict(embedding, prompts), theirs, prompts, multimask_output=True)


class TestEncode:
    def test_batch_equals_single(self, predictor, drawing):
        images = [drawing, drawing[:, :60], drawing[::-1].copy(), np.rot90(drawing).copy()]
        batch = predictor.encode_batch(images, batch_size=3)
        assert [one.original_size for one in batch] == [(90, 140), (90, 60), (90, 140), (140, 90)]
        for image, embedding in zip(images, batch, strict=True):
            single = predictor.encode(image)
            assert_close(embedding.features, single.features, 1e-5)
            assert (embedding.original_size, embedding.resized_size) == (single.original_size, single.resized_size)

    def test_no_images(self, predictor):
        assert predictor.encode_batch([]) == []


class TestPredict:
    @pytest.mark.parametrize("chunk", [1, 2, 5, 100])
    def test_chunks_do_not_change_predictions(self, predictor, embedding, boxes, chunk):
        whole, parts = predictor.predict(embedding, boxes), predictor.predict(embedding, boxes, chunk=chunk)
        assert_close(parts.low_res_logits, whole.low_res_logits, 1e-5)
        assert_close(parts.predicted_iou, whole.predicted_iou, 1e-5)

    @pytest.mark.parametrize(("multimask_output", "outputs"), [(True, 3), (False, 1)])
    def test_no_prompts(self, predictor, embedding, multimask_output, outputs):
        prediction = predictor.predict(embedding, Prompts(boxes=[]), multimask_output)
        assert len(prediction) == 0
        assert prediction.low_res_logits.shape == (0, outputs, 64, 64)
        assert prediction.masks.shape == (0, outputs, 90, 140)
        assert prediction.logits.shape == (0, outputs, 90, 140)
        assert prediction.best().masks.shape == (0, 1, 90, 140)

    def test_a_foreign_embedding_is_refused(self, embedding, boxes):
        torch.manual_seed(1)
        other = Predictor(SegAny(SMALL))
        with pytest.raises(ForeignEmbeddingError, match=rf"{embedding.fingerprint}.*{other.fingerprint}"):
            other.predict(embedding, boxes)

    def test_low_resolution_logits_are_mask_prompts(self, predictor, embedding, boxes):
        first = predictor.predict(embedding, boxes).best()
        second = predictor.predict(embedding, Prompts(boxes=boxes.boxes, masks=first.low_res_logits))
        assert second.low_res_logits.shape == (5, 3, 64, 64)


class TestMaskPrompts:
    @pytest.mark.parametrize("shape", [(90, 140), (14, 14), (400, 300)], ids=["full size", "heat map", "larger"])
    def test_are_accepted_as_prompts(self, predictor, embedding, boxes, shape):
        masks = predictor.mask_prompts(embedding, torch.randn(5, *shape))
        assert masks.shape == (5, 1, 64, 64)
        prediction = predictor.predict(embedding, Prompts(boxes=boxes.boxes, masks=masks))
        assert torch.isfinite(prediction.low_res_logits).all()

    def test_masks_come_back(self, predictor, embedding, prediction):
        masks = torch.from_numpy(np.stack([disk(90, 140, 60, 50, 25), disk(90, 140, 120, 20, 18)]))
        prompts = predictor.mask_prompts(embedding, masks)
        restored = dataclasses.replace(prediction.best()[:2], low_res_logits=prompts).masks[:, 0]
        assert ((restored & masks).sum((1, 2)) > 0.95 * (restored | masks).sum((1, 2))).all()

    def test_none(self, predictor, embedding):
        assert predictor.mask_prompts(embedding, torch.zeros(0, 90, 140)).shape == (0, 1, 64, 64)

    def test_masks_without_pixels_are_refused(self, predictor, embedding):
        with pytest.raises(PromptError, match=r"at least one pixel each, got \(2, 0, 140\)"):
            predictor.mask_prompts(embedding, torch.zeros(2, 0, 140))

    def test_a_foreign_embedding_is_refused(self, predictor, embedding):
        with pytest.raises(ForeignEmbeddingError):
            predictor.mask_prompts(dataclasses.replace(embedding, fingerprint="other"), torch.zeros(1, 90, 140))


class TestMaskPrediction:
    def test_masks_are_positive_logits(self, prediction):
        assert prediction.masks.dtype == torch.bool
        assert torch.equal(prediction.masks, prediction.logits > 0)

    def test_many_masks_are_restored_in_parts(self, prediction):
        many = prediction[torch.arange(5).repeat(8)]  # 120 masks
        assert torch.equal(many.masks, prediction.masks.repeat(8, 1, 1, 1))

    def test_best(self, prediction):
        best = prediction.best()
        assert torch.equal(best.predicted_iou[:, 0], prediction.predicted_iou.max(dim=1).values)
        chosen = prediction.predicted_iou.argmax(dim=1)
        assert torch.equal(best.masks[:, 0], prediction.masks[torch.arange(5), chosen])

    @pytest.mark.parametrize(
        ("index", "expected"),
        [(1, [1]), (slice(2, None), [2, 3, 4]), (np.array([True, False, False, True, False]), [0, 3]), ([], [])],
        ids=["integer", "slice", "mask", "empty"],
    )
    def test_indexing_selects_prompts(self, prediction, index, expected):
        chosen = prediction[index]
        assert len(chosen) == len(expected)
        assert torch.equal(chosen.low_res_logits, prediction.low_res_logits[expected])
        assert torch.equal(chosen.predicted_iou, prediction.predicted_iou[expected])


class TestImageEmbedding:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_file_round_trip(self, embedding, tmp_path, dtype):
        embedding = dataclasses.replace(embedding, features=embedding.features.to(dtype))
        embedding.save(tmp_path / "embedding.safetensors")
        loaded = ImageEmbedding.load(tmp_path / "embedding.safetensors")
        assert torch.equal(loaded.features, embedding.features)
        assert loaded.features.dtype == dtype
        for field in ("original_size", "resized_size", "fingerprint"):
            assert getattr(loaded, field) == getattr(embedding, field)
        assert [path.name for path in tmp_path.iterdir()] == ["embedding.safetensors"]

    def test_a_loaded_embedding_gives_the_same_masks(self, predictor, embedding, boxes, tmp_path):
        embedding.save(tmp_path / "embedding")
        loaded = ImageEmbedding.load(str(tmp_path / "embedding"))
        expected = predictor.predict(embedding, boxes).low_res_logits
        assert torch.equal(predictor.predict(loaded, boxes).low_res_logits, expected)

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda path: None, "cannot read image embedding"),
            (lambda path: path.write_bytes(b"no safetensors"), "cannot read image embedding"),
            (lambda path: write_safetensors(path, {"weight": torch.zeros(1)}, {}), "not an image embedding.*features"),
            (
                lambda path: write_safetensors(path, {"features": torch.zeros(1)}, {}),
                "not an image embedding.*fingerprint",
            ),
        ],
        ids=["absent", "garbage", "other tensors", "no metadata"],
    )
    def test_other_files_are_refused(self, tmp_path, write, message):
        path = tmp_path / "embedding.safetensors"
        write(path)
        with pytest.raises(EmbeddingFileError, match=message):
            ImageEmbedding.load(path)

    def test_to_moves_features(self, embedding):
        assert embedding.to("meta").features.device.type == "meta"
