"""SAM-HQ against the public implementations with the same random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import segany
from segany import AutomaticMaskGenerator, CheckpointError, ImageEmbedding, Predictor, Prompts, SegAny
from tests.segany import reference_hq
from tests.segany.reference import assert_close, random_prompts, sam_arguments
from tests.segany.reference_hq import SMALL_HQ, SMALL_HQ_TINY, SamAutomaticMaskGenerator, SamPredictor


@pytest.fixture(scope="module")
def sam_hq():
    torch.manual_seed(0)
    return reference_hq.sam_hq(SMALL_HQ)


@pytest.fixture(scope="module")
def model(sam_hq):
    return hq_like(sam_hq, SMALL_HQ)


@pytest.fixture(scope="module")
def tiny_sam_hq():
    torch.manual_seed(0)
    return reference_hq.sam_hq(SMALL_HQ_TINY)


@pytest.fixture
def file(sam_hq, tmp_path):
    """A checkpoint as the authors of SAM-HQ publish them."""
    torch.save(sam_hq.state_dict(), tmp_path / "sam_hq_vit_small.pth")
    return tmp_path / "sam_hq_vit_small.pth"


def hq_like(sam_hq, config) -> SegAny:
    model = SegAny(config).eval()
    state = {key: value for key, value in sam_hq.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(state)
    return model


@torch.no_grad()
def package_decode(sam_hq, features, early, prompts, multimask_output, hq_token_only=False):
    sparse, dense = sam_hq.prompt_encoder(**sam_arguments(prompts))
    return sam_hq.mask_decoder(
        image_embeddings=features,
        image_pe=sam_hq.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
        hq_token_only=hq_token_only,
        interm_embeddings=early,
    )


@torch.no_grad()
@pytest.mark.parametrize("multimask_output", [False, True], ids=["single", "multimask"])
@pytest.mark.parametrize("kind", ["points", "box", "points and mask"])
def test_masks_equal_the_package(sam_hq, model, kind, multimask_output):
    token_only = hq_like(sam_hq, replace(SMALL_HQ, hq_token_only=True))
    pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    theirs, early = sam_hq.image_encoder(pixels)
    features, hq_features = model.encode_image_hq(pixels)
    assert_close(features, theirs)
    prompts = random_prompts(kind, 3, (256, 256), SMALL_HQ.low_res_size)
    for ours in (model, token_only):
        logits, predicted_iou = ours.decode(features, prompts, multimask_output, hq_features)
        expected = package_decode(sam_hq, theirs, early, prompts, multimask_output, ours is token_only)
        assert_close(logits, expected[0])
        assert_close(predicted_iou, expected[1])
        assert logits.shape == (3, 1, 64, 64)


@torch.no_grad()
@pytest.mark.slow
def test_tiny_vit_equals_the_package(tiny_sam_hq, tmp_path, drawing):
    torch.save(tiny_sam_hq.state_dict(), tmp_path / "sam_hq_vit_tiny.pth")
    model = segany.load(tmp_path / "sam_hq_vit_tiny.pth")
    assert model.config == SMALL_HQ_TINY
    predictor, theirs = Predictor(model), SamPredictor(tiny_sam_hq)
    theirs.set_image(drawing)
    point = np.array([[50.0, 40.0]])
    for multimask_output in (False, True):
        _, predicted_iou, low_res = theirs.predict(point, np.array([1]), multimask_output=multimask_output)
        prompts = Prompts(points=point[None], point_labels=[[1]])
        prediction = predictor.predict(predictor.encode(drawing), prompts, multimask_output)
        assert_close(prediction.low_res_logits[0], torch.as_tensor(low_res))
        assert_close(prediction.predicted_iou[0], torch.as_tensor(predicted_iou))


def use_image_of_transformer(theirs) -> None:
    """Upscale what the two-way transformer made of the image, as the package does.

    transformers 5.24 drops it and upscales the image embedding as it was, with rows and columns exchanged.
    """
    image = []
    decoder = theirs.mask_decoder
    decoder.transformer.register_forward_hook(lambda module, inputs, outputs: image.append(outputs[1]))
    decoder.upscale_conv1.register_forward_pre_hook(
        lambda module, inputs: image.pop().flatten(0, 1).transpose(1, 2).reshape(inputs[0].shape)
    )


@torch.no_grad()
def test_transformers_gives_the_same(tmp_path):
    theirs = reference_hq.hugging_face_sam_hq(SMALL_HQ)
    theirs.save_pretrained(tmp_path)
    use_image_of_transformer(theirs)
    model = segany.load(tmp_path)
    assert model.config == SMALL_HQ
    pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    embeddings, early = theirs.get_image_embeddings(pixels)
    features, hq_features = model.encode_image_hq(pixels)
    assert_close(features, embeddings)
    prompts = random_prompts("points and box", 3, (256, 256), SMALL_HQ.low_res_size)
    for token_only in (False, True):
        model.mask_decoder.hq_token_only = token_only
        for multimask_output in (False, True):
            logits, predicted_iou = model.decode(features, prompts, multimask_output, hq_features)
            expected = theirs(
                image_embeddings=embeddings,
                intermediate_embeddings=early,
                input_points=prompts.points[None],
                input_labels=prompts.point_labels[None],
                input_boxes=prompts.boxes[None],
                multimask_output=multimask_output,
                hq_token_only=token_only,
            )
            # Of several masks transformers gives all, sorted by predicted IoU; the package and segany give the best.
            assert_close(logits, expected.pred_masks[0][:, :1])
            assert_close(predicted_iou, expected.iou_scores[0][:, :1])


class TestPredictor:
    @pytest.mark.parametrize("kind", ["points", "box", "points and mask"])
    @pytest.mark.parametrize("multimask_output", [False, True], ids=["single", "multimask"])
    def test_equals_the_model_and_the_package(self, sam_hq, model, drawing, kind, multimask_output):
        predictor, theirs = Predictor(model), SamPredictor(sam_hq)
        theirs.set_image(drawing)
        embedding = predictor.encode(drawing)
        prompts = random_prompts(kind, 2, drawing.shape[:2], SMALL_HQ.low_res_size)
        prediction = predictor.predict(embedding, prompts, multimask_output, chunk=1)
        frame = prediction.frame
        in_frame = Prompts(
            points=None if prompts.points is None else frame.resize_points(prompts.points),
            point_labels=prompts.point_labels,
            boxes=None if prompts.boxes is None else frame.resize_boxes(prompts.boxes),
            masks=prompts.masks,
        )
        logits, predicted_iou = package_decode(
            sam_hq, theirs.features, theirs.interm_features, in_frame, multimask_output
        )
        assert_close(prediction.low_res_logits, logits, 1e-3)
        assert_close(prediction.predicted_iou, predicted_iou)

    def test_deferred_masks_are_those_of_predict(self, model, drawing):
        predictor = Predictor(model)
        embedding = predictor.encode(drawing)
        prompts = random_prompts("points", 5, drawing.shape[:2], SMALL_HQ.low_res_size)
        whole = predictor.predict(embedding, prompts)
        for first, part in zip((0, 3), predictor.predict_deferred(embedding, prompts, chunk=3), strict=True):
            some = torch.zeros_like(part.predicted_iou, dtype=torch.bool)
            some[1] = True
            (logits,) = part.low_res_logits(some)
            height, width = logits.shape
            assert height < whole.low_res_logits.shape[2]  # the image is wider than high
            assert_close(logits, whole.low_res_logits[first + 1, 0, :height, :width])

    def test_no_prompts(self, model, drawing):
        predictor = Predictor(model)
        prediction = predictor.predict(predictor.encode(drawing), Prompts(boxes=np.zeros((0, 4))))
        assert prediction.masks.shape == (0, 1, 90, 140)

    def test_an_embedding_is_saved_with_its_features(self, model, drawing, tmp_path):
        predictor = Predictor(model)
        embedding = predictor.encode(drawing)
        embedding.save(tmp_path / "embedding.safetensors")
        loaded = ImageEmbedding.load(tmp_path / "embedding.safetensors").to("cpu")
        boxes = Prompts(boxes=[[10, 10, 90, 80]])
        expected = predictor.predict(embedding, boxes).low_res_logits
        assert torch.equal(predictor.predict(loaded, boxes).low_res_logits, expected)

    def test_a_batch_equals_single_images(self, model, drawing):
        predictor = Predictor(model)
        images = [drawing, drawing[:40]]
        for one, image in zip(predictor.encode_batch(images), images, strict=True):
            assert_close(one.hq_features, predictor.encode(image).hq_features)

    def test_bfloat16(self, file, model, drawing):
        boxes = Prompts(boxes=[[10, 10, 90, 80]])
        half, whole = Predictor(segany.load(file, dtype="bfloat16")), Predictor(model)
        expected = whole.predict(whole.encode(drawing), boxes).low_res_logits
        assert_close(half.predict(half.encode(drawing), boxes).low_res_logits, expected, 0.1)

    def test_features_are_required(self, model):
        features = model.encode_image(torch.zeros(1, 3, 256, 256))
        with pytest.raises(ValueError, match="SAM-HQ needs the HQ features of the image"):
            model.decode(features, Prompts(boxes=[[0, 0, 9, 9]]), False)


def test_segment_everything_equals_the_package(sam_hq, model, drawing):
    settings = {"points_per_side": 4, "pred_iou_thresh": -10.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9}
    theirs = SamAutomaticMaskGenerator(sam_hq, **settings).generate(drawing)
    ours = AutomaticMaskGenerator(Predictor(model), **settings).generate(drawing)
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(
        sorted(ours.predicted_iou.tolist()), sorted(mask["predicted_iou"] for mask in theirs), rtol=1e-3, atol=1e-3
    )


@torch.no_grad()
def test_early_features_of_a_tiny_vit():
    """Those of the second stage, at the resolution of the image embedding."""
    model = SegAny(replace(SMALL_HQ_TINY, image_size=256)).eval()
    features, hq_features = model.encode_image_hq(torch.randn(2, 3, 256, 256))
    assert features.shape == (2, 64, 16, 16)
    assert hq_features.shape == (2, 8, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hq": False, "hq_token_only": True}, "hq_token_only is an option of SAM-HQ"),
        ({"global_blocks": ()}, "global_blocks is empty"),
    ],
)
def test_configurations_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL_HQ, **changes)


def test_a_plain_model_has_the_fingerprint_that_it_always_had():
    """New fields of the configuration are left out where they are off: stored embeddings and records stay valid."""
    assert not {"hq", "hq_token_only"} & segany.load("tiny").config.to_dict().keys()


class TestFiles:
    def test_loads_with_the_configuration_of_its_shapes(self, file, model):
        loaded = segany.load(file)
        assert loaded.config == SMALL_HQ
        assert loaded.fingerprint() == model.fingerprint()

    def test_token_only_is_an_option(self, file, tmp_path):
        loaded = segany.load(file, hq_token_only=True)
        assert loaded.mask_decoder.hq_token_only
        segany.save(loaded, tmp_path / "model.safetensors", torch.float32)
        assert segany.load(tmp_path / "model.safetensors").config == replace(SMALL_HQ, hq_token_only=True)

    def test_token_only_is_for_sam_hq(self):
        with pytest.raises(CheckpointError, match="hq_token_only is an option of SAM-HQ, but hq is off"):
            segany.load("tiny", hq_token_only=True)

    def test_a_decoder_as_the_training_code_saves_it(self, sam_hq, file, model, tmp_path):
        """Upon a Segment Anything, the decoder alone makes a SAM-HQ."""
        plain = {key: value for key, value in sam_hq.state_dict().items() if "mask_decoder" not in key}
        other = reference_hq.meta_sam(replace(SMALL_HQ, hq=False)).mask_decoder.state_dict()
        torch.save(
            plain | {f"mask_decoder.{key}": value for key, value in other.items()}, tmp_path / "sam_vit_small.pth"
        )
        torch.save(sam_hq.mask_decoder.state_dict(), tmp_path / "epoch_11.pth")
        loaded = segany.load(tmp_path / "sam_vit_small.pth", decoder=tmp_path / "epoch_11.pth")
        assert loaded.fingerprint() == model.fingerprint()
