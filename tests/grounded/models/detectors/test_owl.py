from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Owlv2Processor, OwlViTProcessor

from grounded.config import DetectorConfig
from grounded.errors import CheckpointError, ConfigError, GroundedError, PromptError
from grounded.models.detectors.checkpoint import OWL, load_checkpoint
from grounded.models.detectors.owl import Owl, fill_template
from tests.grounded import builders
from tests.grounded.conftest import random_image
from tests.grounded.models.detectors import tiny_models

ALL_QUERIES = DetectorConfig(kind="owl", box_threshold=0.0, nms_threshold=1.0, phrase_templates=("{}",))
PROCESSORS = {"owlvit": OwlViTProcessor, "owlv2": Owlv2Processor}


@pytest.fixture(scope="module", params=PROCESSORS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_owl(tmp_path_factory.mktemp(family), family)


@cache
def shared(folder: Path) -> Owl:
    """A detector for several tests."""
    return Owl.from_pretrained(folder, ALL_QUERIES)


@pytest.mark.parametrize("size", [(60, 80), (80, 45), (64, 64)], ids=str)
def test_detections_are_those_of_the_library(family: str, folder: Path, size: tuple[int, int]):
    """Scores and boxes as they follow from the model, the processor and the post-processing of `transformers`."""
    phrases, image = ["a cat", "dog", "a red mug"], random_image(*size)
    model, image_processor, tokenizer = load_checkpoint(folder, family=OWL)
    processor = PROCESSORS[family](image_processor, tokenizer)
    inputs = processor(text=[phrases], images=image, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    expected = image_processor.post_process_object_detection(output, threshold=0.0, target_sizes=[size])[0]
    order = expected["scores"].argsort(descending=True)
    (found,) = shared(folder).detect([image], [phrases])
    inside = (expected["boxes"][order][:, :2] < torch.tensor(size).flip(0)).all(1)  # OWLv2 also proposes its padding
    assert inside.sum() >= 8
    expected_order = order[inside]
    np.testing.assert_allclose(found.scores, output.logits[0].sigmoid()[expected_order], atol=1e-5)
    assert found.phrase_ids.tolist() == expected["labels"][expected_order].tolist()
    limit = torch.tensor([size[1], size[0]] * 2)
    np.testing.assert_allclose(found.boxes, expected["boxes"][expected_order].clamp(min=0).minimum(limit), atol=0.01)


@pytest.mark.parametrize("size", [(100, 200), (200, 100)], ids=["wide", "tall"])
def test_padding_does_not_move_boxes(size: tuple[int, int], tmp_path: Path):
    """A network that proposes its patches: its patches must lie where they are in the image."""
    detector = Owl.from_pretrained(tiny_models.save_owl(tmp_path, "owlv2"), ALL_QUERIES)
    with torch.no_grad():
        # Then the sigmoid of the bias alone is left: boxes of a patch's size at a patch's lower right corner.
        for parameter in detector.model.box_head.dense2.parameters():
            parameter.zero_()
    (found,) = detector.detect([random_image(*size)], [["a cat"]])
    frame = np.array([size[1], size[0]])
    # 4 x 4 patches of 50 pixels on a square of 200. Centers at 50, 100, 150 and 200, which is the border.
    corners = np.array([(x, y) for x in (50, 100, 150, 200) for y in (50, 100, 150, 200)])
    inside = corners[(corners - 25 < frame).all(axis=1)]
    expected = np.concatenate([inside - 25, np.minimum(inside + 25, frame)], axis=1)
    assert len(found) == len(expected) == 8
    key = np.lexsort(found.boxes.round().T)
    np.testing.assert_allclose(found.boxes[key], expected[np.lexsort(expected.T)], atol=0.1)


def test_the_padding_is_not_found(tmp_path: Path):
    """A box beyond the image is no detection, whatever its score."""
    detector = Owl.from_pretrained(tiny_models.save_owl(tmp_path, "owlv2"), ALL_QUERIES)
    (found,) = detector.detect([random_image(20, 200)], [["a cat"]])
    assert (found.boxes[:, 3] <= 20).all() and (found.boxes[:, 1] < 20).all()


def test_phrases_do_not_influence_each_other(folder: Path):
    detector = shared(folder)
    (one,) = detector.detect([random_image()], [["dog"]])
    (many,) = detector.detect([random_image()], [["a cat", "dog", *(f"a red mug {i}" for i in range(100))]])
    assert many.scores.shape[1] == 102
    key, other = (np.lexsort(found.boxes.T) for found in (one, many))
    np.testing.assert_allclose(many.boxes[other], one.boxes[key], atol=0.01)
    np.testing.assert_allclose(many.scores[other, 1], one.scores[key, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("template", "phrase", "text"),
    [
        ("a photo of a {}", "dog", "a photo of a dog"),
        ("a photo of a {}", "a dog", "a photo of a dog"),
        ("a photo of a {}", "The red mug", "a photo of a red mug"),
        ("a photo of a {}", "apple", "a photo of a apple"),
        ("a photo of {}", "a dog", "a photo of a dog"),
        ("a {} in a scene", "an apple", "a apple in a scene"),
        ("{}", "a dog", "a dog"),
        ("a photo of a {}", "a", "a photo of a a"),
        ("a photo of a {}", "ant hill", "a photo of a ant hill"),
    ],
)
def test_fill_template(template: str, phrase: str, text: str):
    assert fill_template(template, phrase) == text


def test_phrases_are_sent_in_templates(folder: Path):
    """Letters are tokens of the small vocabulary, of which 14 are left for a text."""
    bare, filled = shared(folder), Owl.from_pretrained(folder, replace(ALL_QUERIES, phrase_templates=("its {}",)))
    both = Owl.from_pretrained(folder, replace(ALL_QUERIES, phrase_templates=("its {}", "{}")))
    expected, plain = bare._embed_phrases(["its dog", "dog"])
    torch.testing.assert_close(filled._embed_phrases(["dog"])[0], expected)
    torch.testing.assert_close(
        both._embed_phrases(["dog"])[0], torch.nn.functional.normalize(expected + plain, dim=0), rtol=0, atol=1e-5
    )
    # In the template it would be too long.
    torch.testing.assert_close(filled._embed_phrases(["x" * 13]), bare._embed_phrases(["x" * 13]))


def test_the_defaults_are_the_published_ones(folder: Path):
    detector = Owl.from_pretrained(folder, DetectorConfig(kind="owl"))
    assert (detector.config.threshold, detector.config.templates) == (0.1, ("a photo of a {}",))
    (found,) = detector.detect([random_image()], [["dog", "a dog"]])
    assert (found.score >= 0.1).all()
    np.testing.assert_array_equal(found.scores[:, 0], found.scores[:, 1])


def test_a_phrase_twice(folder: Path):
    (found,) = shared(folder).detect([random_image()], [["dog", "a cat", "dog"]])
    np.testing.assert_array_equal(found.scores[:, 0], found.scores[:, 2])


def test_the_longest_phrase(folder: Path):
    """16 tokens with the start and the end; each letter is a token of the small vocabulary."""
    assert len(shared(folder).detect([random_image()], [["x" * 14]])[0])
    with pytest.raises(PromptError, match=r"at most 14 tokens, got 15: 'x{15}'"):
        shared(folder).detect([random_image()], [["dog", "x" * 15]])


def test_tiny_and_thin_images(folder: Path):
    images = [Image.new("RGB", size) for size in ((1, 1), (3, 3), (400, 1), (3, 400))]
    for found in shared(folder).detect(images, [["a cat"]] * len(images)):
        assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


def test_half_precision(folder: Path):
    detector = Owl.from_pretrained(folder, ALL_QUERIES, dtype=torch.bfloat16)
    (found,) = detector.detect([random_image()], [["a cat"]])
    assert detector.model.dtype == torch.bfloat16
    assert found.boxes.dtype == found.scores.dtype == np.float32


def test_nan_is_an_error(folder: Path):
    detector = Owl.from_pretrained(folder, ALL_QUERIES)
    with torch.no_grad():
        detector.model.class_head.dense0.bias.fill_(torch.nan)
    with pytest.raises(GroundedError, match=r"not a number in torch\.float32"):
        detector.detect([random_image()], [["a cat"]])


def test_the_size_of_images_is_fixed(folder: Path):
    with pytest.raises(ConfigError, match="image_size must be null for this detector, which sees 64 pixels"):
        Owl.from_pretrained(folder, DetectorConfig(image_size=96))


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture):
    Owl.from_pretrained(str(folder))
    assert capfd.readouterr() == ("", "")


def test_processors_in_the_form_of_the_hub(family: str, folder: Path, tmp_path: Path):
    """One file for both processors, as newer versions save them."""
    model, image_processor, tokenizer = load_checkpoint(folder, family=OWL)
    model.save_pretrained(tmp_path)
    PROCESSORS[family](image_processor, tokenizer).save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), PROCESSORS[family])
    (found,) = Owl.from_pretrained(tmp_path, ALL_QUERIES).detect([random_image()], [["a cat"]])
    (expected,) = shared(folder).detect([random_image()], [["a cat"]])
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)


def test_missing_file(tmp_path: Path):
    tiny_models.save_owl(tmp_path, "owlvit")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; an OWL-ViT folder holds"):
        Owl.from_pretrained(tmp_path)


def test_a_folder_of_another_family(tmp_path: Path):
    with pytest.raises(CheckpointError, match="must hold a model of type owlvit or owlv2, got mm-grounding-dino"):
        Owl.from_pretrained(builders.save_detector(tmp_path))
