"""The one-stage detector on the embeddings of the bundled segmenter, with weights that tell what must come out."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.config import DetectorConfig, PipelineConfig, load, override
from grounded.errors import CheckpointError, ConfigError
from grounded.models import build, detectors
from grounded.models.clip import ClipEncoder
from grounded.models.detectors.one_stage import OneStage
from grounded.models.detectors.one_stage_head import (
    FILE,
    Cells,
    OneStageConfig,
    OneStageHead,
    cell_boxes,
    load_head,
    save_head,
)
from grounded.pipeline import Pipeline
from segany import Predictor

NAMES = ("a dog", "a lemon")
REACH = 0.05  # of a cell's box to each side, in sides of the model frame


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return build.load_clip(load("tiny"), torch.device("cpu"))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build.load_segmenter(load("tiny"), torch.device("cpu"))


@pytest.fixture(scope="module", params=[0, 3], ids=["plain", "refined"])
def head(request: pytest.FixtureRequest, clip: ClipEncoder) -> OneStageHead:
    return random_head(OneStageConfig(text_dim=clip.dim, points=request.param))


def random_head(config: OneStageConfig) -> OneStageHead:
    torch.manual_seed(0)
    head = OneStageHead(config).eval()
    if head.refinement is not None:  # as made, it changes nothing
        for layer in (head.refinement.word, head.refinement.sides, head.refinement.quality):
            torch.nn.init.normal_(layer.weight, std=0.01)
    return head


def made_head(clip: ClipEncoder, phrase: str, quality: float = 8.0) -> OneStageHead:
    """Sees a phrase in every cell, in a box of its own around the cell."""
    head = OneStageHead(OneStageConfig(text_dim=clip.dim)).eval()
    with torch.no_grad():
        for layer in (head.word, head.sides, head.quality):
            layer.weight.zero_()
        head.word.bias.copy_(clip.encode([phrase])[0])
        head.sides.bias.fill_(math.log(REACH))
        head.quality.bias.fill_(quality)
        head.scale.fill_(3.0)
        head.bias.fill_(-15.0)
    return head


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 240, 3), np.uint8))


def test_boxes_lie_around_their_cells(clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    config = DetectorConfig(kind="one-stage", nms_threshold=1.0, max_detections=10_000)
    detector = OneStage(made_head(clip, "a dog"), predictor, clip, config=config)
    found = detector.detect_embedded(predictor.encode(image), ["a dog", "a lemon"])
    assert set(found.phrase_ids.tolist()) == {0} and found.scores[:, 0].min() > 0.95
    side = 2 * REACH * image.width
    inner = found.boxes[(found.boxes > 1).all(1) & (found.boxes < [239, 119, 239, 119]).all(1)]
    np.testing.assert_allclose(inner[:, 2:] - inner[:, :2], side, atol=0.01)
    grid = predictor.model.config.grid_size
    centres = (inner[:, :2] + inner[:, 2:]) / 2 / image.width * grid - 0.5
    np.testing.assert_allclose(centres, centres.round(), atol=0.01)
    assert (found.boxes >= 0).all() and (found.boxes <= [240, 120, 240, 120]).all()


def test_scores_are_the_phrase_times_quality(clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    config = DetectorConfig(kind="one-stage", box_threshold=0.0)
    detector = OneStage(made_head(clip, "a dog", quality=0.0), predictor, clip, config=config)
    found = detector.detect_embedded(predictor.encode(image), ["a dog"])
    likely = torch.sigmoid(torch.tensor(math.exp(3.0) - 15.0)).item()
    np.testing.assert_allclose(found.score, likely * 0.5, atol=1e-4)


def test_overlapping_cells_are_one_detection(clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    detector = OneStage(
        made_head(clip, "a dog"), predictor, clip, config=DetectorConfig(kind="one-stage", nms_threshold=0.3)
    )
    found = detector.detect_embedded(predictor.encode(image), ["a dog"])
    assert 5 < len(found) <= 100
    assert len(detector.detect_embedded(predictor.encode(image), [])) == 0


def test_detecting_encodes_by_itself(head: OneStageHead, clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    detector = OneStage(head, predictor, clip, config=DetectorConfig(kind="one-stage", box_threshold=0.0))
    both = detector.detect([image, image], [NAMES, ("a cat",)])
    alone = detector.detect_embedded(predictor.encode(image), NAMES)
    np.testing.assert_array_equal(both[0].boxes, alone.boxes)
    assert both[1].scores.shape[1] == 1


def test_a_cell_may_answer_to_several_phrases(clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    config = DetectorConfig(kind="one-stage", max_detections=1000)
    detector, embedding = OneStage(made_head(clip, "a dog"), predictor, clip, config=config), predictor.encode(image)
    alone = detector.detect_embedded(embedding, ["a dog"])
    twice = detector.detect_embedded(embedding, ["a dog", "a dog"])
    for phrase in (0, 1):
        np.testing.assert_allclose(twice[twice.phrase_ids == phrase].boxes, alone.boxes)
    across = replace(config, cross_phrase_nms=0.5)
    once = OneStage(made_head(clip, "a dog"), predictor, clip, config=across).detect_embedded(embedding, ["a dog"] * 2)
    assert len(once) <= len(alone) < len(twice)


def test_objects_without_names(clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    head = made_head(clip, "a dog", quality=1.0)
    detector = OneStage(head, predictor, clip, config=DetectorConfig(kind="one-stage"))
    embedding = predictor.encode(image)
    objects = detector.detect_objects(embedding, 5)
    assert len(objects) == 5 and set(objects.phrase_ids.tolist()) == {0}
    np.testing.assert_allclose(objects.score, 1 / (1 + math.exp(-1)), rtol=1e-5)
    assert len(detector.detect_objects(embedding, 10_000)) > 5


def test_the_fallback_on_objects(clip: ClipEncoder, predictor: Predictor, image: Image.Image):
    config = override(
        load("tiny"),
        detector={"kind": "one-stage", "checkpoint": "none"},
        mode="box",
        filtering={"enabled": False},
        fallback={"source": "objects", "fallback_threshold": 0.0, "max_objects": 3},
    )
    detector = OneStage(made_head(clip, "a dog"), predictor, clip, config=replace(config.detector, max_detections=2))
    pipeline = Pipeline(detector, None, predictor, config, build.region_scorer(clip, config))
    found = pipeline.segment(image, ["a dog", "a lemon"])
    assert set(found.labels[found.sources == "detector"]) == {"a dog"}
    lemons = found[found.labels == "a lemon"]
    assert 0 < len(lemons) <= 3 and set(lemons.sources.tolist()) == {"automatic"}
    with pytest.raises(ConfigError, match="needs a detector of kind one-stage, got kind grounding-dino"):
        override(load("tiny"), fallback={"source": "objects"})


def test_a_phrase_does_not_change_the_score_of_another(
    head: OneStageHead, clip: ClipEncoder, predictor: Predictor, image: Image.Image
):
    cells = head(predictor.encode(image).features)
    words = cells.embeddings[0]
    together, alone = head.logits(words, clip.encode(NAMES)), head.logits(words, clip.encode(NAMES[:1]))
    torch.testing.assert_close(together[:, :1], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(len(words)))


def test_other_phrases_change_no_detection(
    head: OneStageHead, clip: ClipEncoder, predictor: Predictor, image: Image.Image
):
    config = DetectorConfig(kind="one-stage", box_threshold=1e-6, max_detections=10_000)
    detector, embedding = OneStage(head, predictor, clip, config=config), predictor.encode(image)
    alone, together = (detector.detect_embedded(embedding, names) for names in (NAMES[:1], NAMES))
    own = together[together.phrase_ids == 0]
    assert 0 < len(own) == len(alone) < len(together)
    np.testing.assert_allclose(own.boxes, alone.boxes, atol=1e-2)
    np.testing.assert_allclose(own.scores[:, 0], alone.scores[:, 0], rtol=1e-3)


def test_refined_boxes_move_by_their_sides():
    """As made, a refinement changes nothing; then its answers are in sides of each box."""
    config = OneStageConfig(points=3)
    head, features = OneStageHead(config).eval(), torch.randn(2, config.dim, 4, 6)
    cells, rows = head(features), torch.tensor([[0, 5, 23], [7, 7, 1]])
    for before, after in zip(cells.at(rows), head.refine(features, cells, rows)[-1], strict=True):
        torch.testing.assert_close(before, after)
    assert head.refinement is not None
    torch.nn.init.constant_(head.refinement.sides.bias, 0.5)
    boxes = cells.at(rows).boxes
    for refined in head.refine(features, cells, rows):
        boxes = boxes + 0.5 * (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
        torch.testing.assert_close(refined.boxes, boxes)


def test_a_refinement_looks_at_its_box():
    """What the embedding shows elsewhere makes no difference, on a map that is not square either."""
    config = OneStageConfig(points=3)
    head = random_head(config)
    assert head.refinement is not None
    cells = Cells(torch.ones(1, 1, config.text_dim), torch.tensor([[[0.25, 0.25, 0.5, 0.5]]]), torch.zeros(1, 1))
    features = torch.randn(1, config.dim, 8, 16)
    near, far = features.clone(), features.clone()
    near[..., 5, 6], far[..., 1, 12] = 9.0, 9.0  # the box covers rows and columns 4 to 7
    plain, seen, unseen = (head.refinement(one, cells).boxes for one in (features, near, far))
    torch.testing.assert_close(plain, unseen)
    assert not torch.allclose(plain, seen)


def test_cells_of_a_map_that_is_not_square():
    reaches = torch.full((1, 4, 2, 4), 0.125)
    boxes = cell_boxes(reaches)[0]
    torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0.0, 0.25, 0.25]))
    torch.testing.assert_close(boxes[7], torch.tensor([0.75, 0.25, 1.0, 0.5]))


def test_a_saved_head_is_the_same(head: OneStageHead, clip: ClipEncoder, predictor: Predictor, tmp_path: Path):
    save_head(head, NAMES, clip.encode(NAMES), tmp_path / FILE)
    loaded, names, embeddings = load_head(tmp_path)
    assert names == NAMES and loaded.config == head.config
    torch.testing.assert_close(embeddings, clip.encode(NAMES), atol=1e-3, rtol=0)
    for key, value in head.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value.half().float())
    config = DetectorConfig(kind="one-stage", checkpoint=str(tmp_path))
    built = detectors.build(config, segmenter=predictor, text_encoder=clip)
    assert isinstance(built, OneStage) and built.names == NAMES
    assert detectors.locate(config) == tmp_path


def test_a_phrase_that_was_not_learnt_is_noted(head: OneStageHead, clip: ClipEncoder, predictor: Predictor):
    detector = OneStage(head, predictor, clip, NAMES, clip.encode(NAMES))
    assert detector.note_unread(["a dog"]) == ()
    far = torch.nn.functional.normalize(torch.randn(2, clip.dim, generator=torch.Generator().manual_seed(1)), dim=1)
    (note,) = OneStage(head, predictor, clip, NAMES, far).note_unread(["a dog"])
    assert note.startswith("the detector has not learnt 'a dog'; closest: ") and "may be wrong" in note


def test_the_pipeline_encodes_an_image_once(
    clip: ClipEncoder, predictor: Predictor, image: Image.Image, monkeypatch: pytest.MonkeyPatch
):
    detector = OneStage(
        made_head(clip, "a dog"), predictor, clip, config=DetectorConfig(kind="one-stage", max_detections=2)
    )
    calls, encode = [], Predictor.encode
    monkeypatch.setattr(Predictor, "encode", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k))
    pipeline = Pipeline(detector, None, predictor, override(load("tiny"), mode="box", filtering={"enabled": False}))
    found = pipeline.segment(image, "a dog")
    assert calls == [1] and set(found.sources.tolist()) == {"detector"}
    (batched,) = pipeline.segment_batch([image], "a dog")
    assert batched.rles == found.rles and calls == [1, 1]


def test_what_does_not_fit_is_said(head: OneStageHead, clip: ClipEncoder, predictor: Predictor, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"width 7, got a text encoder of width {clip.dim}"):
        OneStage(OneStageHead(OneStageConfig(text_dim=7)), predictor, clip)
    with pytest.raises(ConfigError, match="of 64 channels, got a segmenter with 128"):
        OneStage(OneStageHead(OneStageConfig(dim=64, text_dim=clip.dim)), predictor, clip)
    with pytest.raises(CheckpointError, match=FILE):
        detectors.locate(DetectorConfig(kind="one-stage", checkpoint=str(tmp_path)))
    (tmp_path / FILE).write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="segmenter of kind segany"):
        detectors.build(DetectorConfig(kind="one-stage", checkpoint=str(tmp_path)))
    with pytest.raises(CheckpointError, match="not a one-stage detector"):
        load_head(tmp_path)


def test_clip_is_loaded_for_it():
    config = override(PipelineConfig(), mode="box", filtering={"enabled": False}, fallback={"source": "none"})
    assert not config.needs_clip
    assert override(config, detector={"kind": "one-stage"}).needs_clip
