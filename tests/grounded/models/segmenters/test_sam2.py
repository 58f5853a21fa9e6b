"""SAM 2 as a segmenter for images, beside transformers' own processor and network."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import segany
from grounded import config
from grounded.config import PipelineConfig, SegmenterConfig
from grounded.data.protocols import MaskPromptable, Segmenter
from grounded.errors import ConfigError, ImageError, PromptError
from grounded.interactive.correct import candidates, correct
from grounded.models import segmenters
from grounded.models.segmenters.sam2 import Sam2Embedding, Sam2Segmenter
from grounded.pipeline import Pipeline
from segany import ForeignEmbeddingError, Prompts
from tests.grounded.conftest import random_image
from tests.grounded.models import sam2_models

IMAGE = random_image(60, 90)
POINTS, BOX = [[20.0, 30.0], [70.0, 10.0]], [10.0, 12.0, 60.0, 50.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam2_models.save("sam2", tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Sam2Segmenter:
    built = segmenters.build(SegmenterConfig(kind="sam2", checkpoint=str(folder)))
    assert isinstance(built, Sam2Segmenter)
    return built


@pytest.fixture(scope="module")
def embedding(segmenter: Sam2Segmenter) -> Sam2Embedding:
    return segmenter.encode(IMAGE)


def test_it_is_a_segmenter_that_takes_masks(segmenter: Sam2Segmenter, embedding: Sam2Embedding):
    assert isinstance(segmenter, Segmenter) and isinstance(segmenter, MaskPromptable)
    assert embedding.original_size == (60, 90)


@pytest.mark.parametrize("multimask_output", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"input_points": [[POINTS]], "input_labels": [[[1, 0]]]}, {"points": [POINTS], "point_labels": [[1, 0]]}),
        ({"input_boxes": [[BOX]]}, {"boxes": [BOX]}),
        (
            {"input_points": [[POINTS]], "input_labels": [[[1, 0]]], "input_boxes": [[BOX]]},
            {"points": [POINTS], "point_labels": [[1, 0]], "boxes": [BOX]},
        ),
    ],
    ids=["points", "a box", "points and a box"],
)
def test_it_equals_transformers(
    theirs: dict, ours: dict, multimask_output: bool, segmenter: Sam2Segmenter, embedding: Sam2Embedding
):
    processor = transformers.Sam2Processor(transformers.Sam2ImageProcessor(size={"height": 64, "width": 64}))
    inputs = processor(images=IMAGE, return_tensors="pt", **theirs)
    with torch.no_grad():
        output = segmenter.model(
            **{name: value for name, value in inputs.items() if name != "original_sizes"},
            multimask_output=multimask_output,
        )
    masks = processor.post_process_masks(output.pred_masks, inputs["original_sizes"])[0]
    found = segmenter.predict(embedding, Prompts(**ours), multimask_output)
    assert found.masks.shape == (1, 3 if multimask_output else 1, 60, 90)
    torch.testing.assert_close(found.low_res_logits, output.pred_masks[0])
    torch.testing.assert_close(found.predicted_iou, output.iou_scores[0])
    assert (found.masks != masks).sum() <= 2  # rounding, where a logit is nearly zero


def test_mask_prompts_equal_transformers(segmenter: Sam2Segmenter, embedding: Sam2Embedding):
    first = segmenter.predict(embedding, Prompts(boxes=[BOX]), multimask_output=False)
    found = segmenter.predict(embedding, Prompts(boxes=[BOX], masks=first.low_res_logits), multimask_output=False)
    scale = torch.tensor([64 / 90, 64 / 60] * 2)
    with torch.no_grad():
        output = segmenter.model(
            image_embeddings=list(embedding.features),
            input_boxes=(torch.tensor([[BOX]]) * scale),
            input_masks=first.low_res_logits,
            multimask_output=False,
        )
    torch.testing.assert_close(found.low_res_logits, output.pred_masks[0])
    assert not torch.allclose(found.low_res_logits, first.low_res_logits)


class TestPredict:
    def test_one_by_one_equals_together(self, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        generator = torch.Generator().manual_seed(0)
        count = 20  # more than are decoded together
        prompts = Prompts(
            points=90 * torch.rand(count, 3, 2, generator=generator),
            point_labels=torch.randint(-1, 2, (count, 3), generator=generator),
            boxes=[BOX] * count,
            masks=torch.randn(count, 1, 16, 16, generator=generator),
        )
        together = segmenter.predict(embedding, prompts)
        for row in range(count):
            alone = segmenter.predict(embedding, prompts[row])
            torch.testing.assert_close(alone.low_res_logits, together[row].low_res_logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(alone.predicted_iou, together[row].predicted_iou, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("boxes", [None, [BOX]], ids=["points", "points and a box"])
    def test_padding_has_no_effect(self, boxes: list | None, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        plain = segmenter.predict(embedding, Prompts(points=[POINTS], point_labels=[[1, 0]], boxes=boxes))
        padded = [[[0.0, 0.0], POINTS[0], [50.0, 50.0], POINTS[1]]]
        found = segmenter.predict(embedding, Prompts(points=padded, point_labels=[[-1, 1, -1, 0]], boxes=boxes))
        assert torch.equal(found.low_res_logits, plain.low_res_logits)

    def test_points_that_are_all_padding(self, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        plain = segmenter.predict(embedding, Prompts(boxes=[BOX]))
        found = segmenter.predict(embedding, Prompts(points=[POINTS], point_labels=[[-1, -1]], boxes=[BOX]))
        assert torch.equal(found.low_res_logits, plain.low_res_logits)

    @pytest.mark.parametrize("multimask_output", [True, False])
    @pytest.mark.parametrize("fields", [{"boxes": []}, {"points": [], "point_labels": []}], ids=["boxes", "points"])
    def test_no_prompts(self, fields: dict, multimask_output: bool, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        found = segmenter.predict(embedding, Prompts(**fields), multimask_output)
        assert found.masks.shape == (0, 3 if multimask_output else 1, 60, 90)
        assert len(found.best()) == 0

    def test_the_best_of_three(self, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        found = segmenter.predict(embedding, Prompts(boxes=[BOX, BOX]))
        assert torch.equal(found.best().predicted_iou[:, 0], found.predicted_iou.amax(1))
        assert found[1].logits.shape == (1, 3, 60, 90)

    def test_text_is_refused(self, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        with pytest.raises(PromptError, match="SAM 2 has no text prompt"):
            segmenter.predict(embedding, Prompts(text=torch.zeros(1, 1, 4)))

    def test_an_embedding_of_another_model(self, segmenter: Sam2Segmenter, tmp_path: Path):
        other = Sam2Segmenter.from_pretrained(sam2_models.save("sam2", tmp_path, seed=1)).encode(IMAGE)
        with pytest.raises(ForeignEmbeddingError, match="the embedding was made by model"):
            segmenter.predict(other, Prompts(boxes=[BOX]))


class TestMaskPrompts:
    def test_a_mask_of_the_image(self, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        mask = torch.zeros(2, 60, 90, dtype=torch.bool)
        mask[1, :30] = True
        prompts = segmenter.mask_prompts(embedding, mask)
        assert prompts.shape == (2, 1, 16, 16)
        assert (prompts[0] < 0).all()
        assert (prompts[1, 0, :7] > 0).all() and (prompts[1, 0, 9:] < 0).all()

    @pytest.mark.parametrize("count", [0, 3])
    def test_coarse_logits(self, count: int, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        assert segmenter.mask_prompts(embedding, torch.zeros(count, 3, 5)).shape == (count, 1, 16, 16)

    def test_no_pixels(self, segmenter: Sam2Segmenter, embedding: Sam2Embedding):
        with pytest.raises(PromptError, match="at least one pixel each"):
            segmenter.mask_prompts(embedding, torch.zeros(1, 0, 4))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (40, 1)])
def test_images_of_any_shape(height: int, width: int, segmenter: Sam2Segmenter):
    embedding = segmenter.encode(Image.new("RGB", (width, height), "red"))
    found = segmenter.predict(embedding, Prompts(boxes=[[0, 0, width, height]]), multimask_output=False)
    assert found.masks.shape == (1, 1, height, width)


def test_what_is_no_image(segmenter: Sam2Segmenter, tmp_path: Path):
    with pytest.raises(ImageError):
        segmenter.encode(tmp_path / "absent.png")


def test_bfloat16_differs_a_little(folder: Path, embedding: Sam2Embedding):
    coarse = Sam2Segmenter.from_pretrained(folder, dtype="bfloat16").encode(IMAGE)
    assert all(map_.dtype == torch.float32 for map_ in coarse.features)
    assert not torch.equal(coarse.features[2], embedding.features[2])
    torch.testing.assert_close(coarse.features[2], embedding.features[2], atol=0.1, rtol=0.1)


def test_it_can_be_pickled(segmenter: Sam2Segmenter, embedding: Sam2Embedding):
    again = pickle.loads(pickle.dumps(segmenter))
    expected = segmenter.predict(embedding, Prompts(boxes=[BOX]))
    assert torch.equal(again.predict(again.encode(IMAGE), Prompts(boxes=[BOX])).low_res_logits, expected.low_res_logits)


@pytest.fixture(scope="module")
def pipeline(random_config: PipelineConfig, folder: Path) -> Pipeline:
    return Pipeline.from_config(random_config, segmenter={"kind": "sam2", "checkpoint": str(folder)})


class TestPipeline:
    """The stages work on it as on segany's own."""

    def test_boxes_become_masks(self, pipeline: Pipeline):
        found = pipeline.segment(IMAGE, "a cat, a dog")
        assert len(found) > 0
        assert all(tuple(rle["size"]) == (60, 90) for rle in found.rles)

    def test_refined_and_zoomed(self, pipeline: Pipeline):
        settings = {"refine_rounds": 2, "zoom": 2.0, "multimask_output": True, "min_mask_region_area": 4}
        assert len(pipeline.with_config(**settings).segment(IMAGE, "a cat")) > 0

    def test_corrections(self, pipeline: Pipeline):
        found = pipeline.segment(IMAGE, "a cat")
        corrected = correct(pipeline.segmenter, IMAGE, found, 0, [[20, 30]], [1])
        assert corrected.rles[0] != found.rles[0] and corrected.rles[1:] == found.rles[1:]
        assert len(candidates(pipeline.segmenter, IMAGE, "a cat", [[20, 30]])) == 3

    def test_text_needs_another_segmenter(self, random_config: PipelineConfig, folder: Path):
        with pytest.raises(ConfigError, match="this segmenter has no text prompt of its own"):
            Pipeline.from_config(random_config, mode="text", segmenter={"kind": "sam2", "checkpoint": str(folder)})

    def test_automatic_masks_need_another_segmenter(self, pipeline: Pipeline):
        with pytest.raises(ConfigError, match=r"need a segany\.Predictor, got Sam2Segmenter"):
            pipeline.everything(IMAGE)


@pytest.mark.parametrize("field", [{"decoder": "a.pth"}, {"adapter": "folder"}, {"hq_token_only": True}])
def test_additions_are_for_segany(field: dict):
    with pytest.raises(ConfigError, match=f"{next(iter(field))} is for kind segany, got it for kind sam2"):
        SegmenterConfig(kind="sam2", checkpoint="owner/name", **field)


def test_segany_stays_the_default():
    assert isinstance(segmenters.build(config.load("tiny").segmenter), segany.Predictor)


@pytest.mark.slow
def test_one_of_metas_files_equals_the_folder(tmp_path: Path):
    found = []
    for source in sam2_models.save_published_size(tmp_path):
        segmenter = Sam2Segmenter.from_pretrained(source)
        found.append(segmenter.predict(segmenter.encode(IMAGE), Prompts(boxes=[BOX])).low_res_logits)
    np.testing.assert_array_equal(found[0], found[1])
