from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from grounded.config import ScoringConfig
from grounded.data.protocols import ImageTextEncoder, RegionScorer
from grounded.models.clip import ClipEncoder
from grounded.models.clip_scorer import ClipRegionScorer, square_crop
from segany.utils.rle import RLE, encode_rle
from tests.data import PICNIC, disk, picnic_truth
from tests.grounded import builders

PHRASES = ["a cat", "a red mug", "a dog"]
NEGATIVES = ("background", "a wall", "an object")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    """Random weights."""
    return ClipEncoder.from_pretrained(builders.save_clip(tmp_path_factory.mktemp("clip")), templates=("{}",))


@pytest.fixture(scope="module")
def scorer(encoder: ClipEncoder) -> ClipRegionScorer:
    return ClipRegionScorer(encoder, ScoringConfig(negatives=NEGATIVES))


@pytest.fixture(scope="module")
def bundled() -> ClipRegionScorer:
    return ClipRegionScorer(ClipEncoder.from_pretrained("bundled:clip", templates=("{}",)))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def rles(*masks: np.ndarray) -> list[RLE]:
    return encode_rle(np.stack(masks)) if masks else []


DISKS = rles(disk(40, 60, 20, 20, 9), disk(40, 60, 0, 39, 12), disk(40, 60, 50, 5, 3), np.ones((40, 60), bool))
EMPTY = rles(np.zeros((40, 60), bool))


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> RLE:
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return rles(mask)[0]


def test_protocols(encoder: ClipEncoder, scorer: ClipRegionScorer):
    assert isinstance(encoder, ImageTextEncoder)
    assert isinstance(scorer, RegionScorer)


@pytest.mark.parametrize("temperature", [None, 0.05], ids=["of the model", "given"])
def test_the_formula(encoder: ClipEncoder, image: Image.Image, temperature: float | None):
    scorer = ClipRegionScorer(
        encoder, ScoringConfig(negatives=NEGATIVES, temperature=temperature, synonym_similarity=1.0)
    )
    cosines = (scorer.embed(image, DISKS) @ encoder.encode([*PHRASES, *NEGATIVES]).T).double().numpy()
    scale = encoder.model.logit_scale.exp().item() if temperature is None else 1 / temperature
    exponentials = np.exp(cosines * scale)
    for column in range(len(PHRASES)):
        own = exponentials[:, column]
        expected = own / (own + exponentials[:, len(PHRASES) :].sum(axis=1))
        np.testing.assert_allclose(scorer.score(image, DISKS, PHRASES)[:, column], expected, rtol=1e-4)


@pytest.mark.parametrize("more", [["a dog"], [f"phrase {i}" for i in range(30)]], ids=["one", "many"])
def test_other_phrases_change_nothing(encoder: ClipEncoder, scorer: ClipRegionScorer, image: Image.Image, more):
    alone = scorer.score(image, DISKS, ["a cat"])
    # Without a cache: the phrase is embedded with the others.
    uncached = ClipEncoder(encoder.model, encoder.tokenizer, encoder.preprocess, encoder.templates)
    uncached.encode([*more, "a cat"])
    beside = ClipRegionScorer(uncached, scorer.config).score(image, DISKS, [*more, "a cat"])
    assert np.array_equal(alone[:, 0], beside[:, -1])


def test_negatives_that_mean_the_same_do_not_compete(encoder: ClipEncoder, image: Image.Image):
    def score(*negatives: str) -> np.ndarray:
        config = ScoringConfig(negatives=negatives, synonym_similarity=0.9999)
        return ClipRegionScorer(encoder, config).score(image, DISKS, ["a cat"])

    np.testing.assert_allclose(score("a wall", "a cat"), score("a wall"), rtol=1e-5)
    assert (score("a wall") < 1).all()


def test_a_phrase_always_has_something_to_compete_with(encoder: ClipEncoder, image: Image.Image):
    """Where every negative is a synonym, the least similar one stays; otherwise everything would be the phrase."""
    scores = ClipRegionScorer(encoder, ScoringConfig(negatives=("a cat",))).score(image, DISKS, ["a cat"])
    np.testing.assert_allclose(scores, 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("masks", "phrases"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([], PHRASES, id="no masks"),
        pytest.param(DISKS, [], id="no phrases"),
        pytest.param(EMPTY, PHRASES, id="empty mask"),
        pytest.param([*DISKS, *EMPTY], PHRASES, id="both"),
    ],
)
def test_single_equals_batched(scorer: ClipRegionScorer, image: Image.Image, masks: list[RLE], phrases: list[str]):
    together = scorer.score(image, masks, phrases)
    assert together.shape == (len(masks), len(phrases))
    assert together.dtype == np.float32
    for row, mask in zip(together, masks, strict=True):
        np.testing.assert_allclose(scorer.score(image, [mask], phrases)[0], row, rtol=0, atol=1e-5)


def test_empty_masks_show_nothing(scorer: ClipRegionScorer, image: Image.Image):
    scores = scorer.score(image, [DISKS[0], *EMPTY, DISKS[1]], PHRASES)
    assert (scores[1] == 0).all() and (scores[[0, 2]] > 0).all()
    norms = scorer.embed(image, [*EMPTY, DISKS[0]]).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.0, 1.0]))


def test_more_masks_than_a_batch(scorer: ClipRegionScorer, image: Image.Image):
    embeddings = scorer.embed(image, DISKS[:2] * 40)
    torch.testing.assert_close(embeddings, embeddings[:2].repeat(40, 1), rtol=0, atol=1e-5)


def test_masks_of_another_size(scorer: ClipRegionScorer, image: Image.Image):
    with pytest.raises(ValueError, match=r"mask 1 must be \[40, 60\], got \[60, 40\]"):
        scorer.embed(image, [DISKS[0], rectangle(60, 40, 0, 0, 5, 5)])


RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (128, 128, 128)


def red_on_green(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
    pixels = np.full((height, width, 3), GREEN, np.uint8)
    pixels[y0:y1, x0:x1] = RED
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("box", "side", "colours"),
    [
        pytest.param((40, 40, 60, 50), 30, {(15, 15): RED, (2, 15): GREEN, (15, 2): GREEN}, id="inside"),
        pytest.param((0, 0, 20, 20), 30, {(2, 2): GREY, (15, 15): RED, (27, 27): GREEN}, id="corner"),
        pytest.param((80, 20, 100, 60), 60, {(30, 30): RED, (57, 30): GREY, (5, 30): GREEN}, id="right edge"),
        pytest.param((5, 30, 6, 31), 2, {}, id="one pixel"),
        pytest.param((0, 0, 100, 80), 150, {(75, 75): RED, (75, 5): GREY, (5, 75): GREY}, id="all"),
    ],
)
def test_crops_are_square(box: tuple[int, int, int, int], side: int, colours: dict):
    crop = square_crop(
        red_on_green(80, 100, *box), rectangle(80, 100, *box), ScoringConfig(background="keep", margin=0.25)
    )
    assert crop.size == (side, side)
    for place, colour in colours.items():
        assert crop.getpixel(place) == colour


@pytest.mark.parametrize("background", ["keep", "blur", "grey"])
def test_beyond_the_mask(background: str):
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = square_crop(
        Image.fromarray(stripes), rectangle(90, 90, 30, 30, 60, 60), ScoringConfig(background=background, margin=0.5)
    )
    pixels = np.asarray(crop).astype(int)
    assert pixels.shape == (60, 60, 3)
    np.testing.assert_array_equal(pixels[15:45, 15:45], stripes[30:60, 30:60])
    outside = pixels[2:13, 2:58]
    low, high = {"keep": (0, 200), "blur": (60, 140), "grey": (128, 128)}[background]
    assert low <= outside.min() and outside.max() <= high
    assert background == "blur" or (outside.min(), outside.max()) == (low, high)


def test_large_crops_are_made_smaller():
    box = (200, 100, 1400, 700)
    crop = square_crop(red_on_green(800, 2400, *box), rectangle(800, 2400, *box), ScoringConfig(background="grey"))
    assert crop.size[0] == crop.size[1] <= 512
    share = 1200 / 1560 * 600 / 1560  # of the square that is red
    assert np.mean(np.all(np.asarray(crop) == RED, axis=-1)) == pytest.approx(share, rel=0.05)


def test_the_example(bundled: ClipRegionScorer):
    truth = picnic_truth()
    labels = list(truth)
    image = Image.open(PICNIC).convert("RGB")
    scores = bundled.score(image, rles(*(masks[0] for masks in truth.values())), labels)
    assert [labels[i] for i in scores.argmax(axis=1)] == labels
    assert (scores.diagonal() > 0.5).all()
    dog = bundled.score(image, rles(truth["dog"][0]), ["a dog", *(f"a {label}" for label in labels if label != "dog")])
    assert dog[0].argmax() == 0
    sky = np.zeros((image.height, image.width), bool)
    sky[:80, 300:500] = True
    assert bundled.score(image, rles(sky), labels).max() < 0.2


@pytest.mark.parametrize("background", ["keep", "blur", "grey"])
def test_the_dog_on_every_background(bundled: ClipRegionScorer, background: str):
    scorer = ClipRegionScorer(bundled.encoder, ScoringConfig(background=background))
    image, dog = Image.open(PICNIC).convert("RGB"), picnic_truth()["dog"][0]
    scores = scorer.score(image, rles(dog), ["a dog", "a balloon", "a pizza"])
    assert scores[0, 0] > 0.5 > scores[0, 1:].max()


def test_folder_of_the_encoder_does_not_matter(tmp_path: Path, scorer: ClipRegionScorer, image: Image.Image):
    copy = ClipEncoder.from_pretrained(builders.save_clip(tmp_path / "copy"), templates=("{}",))
    again = ClipRegionScorer(copy, scorer.config).score(image, DISKS, PHRASES)
    np.testing.assert_array_equal(again, scorer.score(image, DISKS, PHRASES))
    assert copy.temperature == pytest.approx(1 / open_clip.CLIP(**builders.CLIP_CONFIG).logit_scale.exp().item(), 1e-3)
