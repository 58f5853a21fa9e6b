import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from grounded.config import ScoringConfig
from grounded.errors import ConfigError
from grounded.models.clip import ClipEncoder
from grounded.models.dense_clip import DenseClip, DensePrompts, OpenClipEncoder, heat_prompts
from tests.data import PICNIC, disk, picnic_truth
from tests.grounded import builders

CONFIG = ScoringConfig(negatives=("background", "a wall"))
SIDE = 32
# Mean and standard deviation 0.5 keep the images of the tests between -1 and 1.
PREPROCESS = open_clip.image_transform(SIDE, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")


def random_encoder(**vision: object) -> ClipEncoder:
    """A small CLIP with random weights; keywords change its image tower."""
    config = builders.CLIP_CONFIG
    torch.manual_seed(0)
    model = open_clip.CLIP(**{**config, "vision_cfg": {**config["vision_cfg"], "layers": 2, **vision}}).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    return ClipEncoder(model, tokenizer, PREPROCESS, templates=("{}",))


@pytest.fixture(scope="module")
def dense() -> DenseClip:
    return DenseClip(random_encoder(), CONFIG)


@pytest.fixture(scope="module")
def bundled() -> DenseClip:
    return DenseClip(ClipEncoder.from_pretrained("bundled:clip", templates=("{}",)))


def random_image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        pytest.param(48, 64, (48, 64), id="landscape"),
        pytest.param(300, 150, (64, 32), id="portrait"),
        pytest.param(7, 7, (64, 64), id="small"),
        pytest.param(1, 500, (1, 64), id="thin"),
    ],
)
def test_maps_have_the_shape_of_the_random_image(dense: DenseClip, height: int, width: int, grid: tuple[int, int]):
    heat = dense.heat_maps(random_image(height, width), ["a cat", "a mug"])
    assert heat.shape == (2, *grid)
    assert (heat > 0).all() and (heat < 1).all()
    assert dense.heat_maps(random_image(height, width), []).shape == (0, *grid)


def test_other_phrases_change_nothing(dense: DenseClip):
    image = random_image(40, 60)
    together = dense.heat_maps(image, ["a cat", "a mug", "a dog"])
    for index, phrase in enumerate(["a cat", "a mug", "a dog"]):
        torch.testing.assert_close(dense.heat_maps(image, [phrase])[0], together[index], rtol=0, atol=1e-6)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize(
    "vision",
    [
        pytest.param({}, id="plain"),
        pytest.param({"ls_init_value": 0.5}, id="layer scale"),
        pytest.param({"pool_type": "avg", "final_ln_after_pool": True}, id="average pooling"),
        pytest.param({"patch_size": 2}, id="fine grid"),
        pytest.param({"layers": 3, "patch_size": 8}, id="three blocks"),
    ],
)
def test_towers_of_open_clip(vision: dict):
    heat = DenseClip(random_encoder(**vision), CONFIG).heat_maps(random_image(40, 60), ["a cat"])
    assert heat.shape == (1, 43, 64)
    assert heat.std() > 0


def test_patches_are_embedded_by_the_values_of_the_last_block():
    encoder = random_encoder(layers=2)
    dense = DenseClip(encoder, CONFIG)
    pixels = PREPROCESS(random_image(32, 32))[None]
    tower, block = encoder.model.visual, encoder.model.visual.transformer.resblocks[-1]
    captured = []
    hook = block.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
    with torch.no_grad():
        whole = encoder.model.encode_image(pixels, normalize=True)
        hook.remove()
        patches = []
        for token in captured[0][0, 1:]:  # attention among one token is its value path
            alone = block.ln_1(token[None, None])
            value, _ = block.attn(alone, alone, alone)
            patches.append(normalize(tower.ln_post(value[0, 0]) @ tower.proj, dim=0))
        odds = encoder.log_odds(torch.stack(patches), ["a cat"], CONFIG) + encoder.log_odds(whole, ["a cat"], CONFIG)
        expected = (odds / 2).sigmoid().reshape(1, 1, 2, 2)
        torch.testing.assert_close(dense._probabilities(pixels, ["a cat"]), expected, rtol=0, atol=1e-5)


def test_protocol(dense: DenseClip):
    assert isinstance(dense.encoder, OpenClipEncoder)


@pytest.mark.parametrize(
    ("vision", "found"),
    [
        pytest.param({"layers": [1, 1, 1, 1], "width": 8}, "ModifiedResNet", id="ResNet"),
        pytest.param({"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}, "TimmModel", id="timm"),
        pytest.param({"attentional_pool": True, "attn_pooler_heads": 2}, "got one with it", id="attention pooling"),
        pytest.param({"layers": 1}, "got 1 of ResidualAttentionBlock", id="one block"),
        pytest.param({"block_type": "custom"}, "CustomResidualAttentionBlock", id="custom blocks"),
    ],
)
def test_other_towers(vision: dict, found: str):
    encoder = random_encoder(**vision)
    with pytest.raises(ConfigError, match=f"dense-clip needs a vision transformer of open_clip .*{found}"):
        DenseClip(encoder, CONFIG)


def bumps(*places: tuple[float, float, float], rows: int = 48, columns: int = 64) -> torch.Tensor:
    """A heat map that is 0.01 but for bumps of (x, y, height)."""
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    heat = torch.full((rows, columns), 0.01)
    for center_x, center_y, height in places:
        heat = heat.maximum(height * torch.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / 18))
    return heat[None]


def foreground(prompts: DensePrompts) -> list[list[float]]:
    return prompts.points[0][prompts.labels[0] == 1].tolist()


@pytest.mark.parametrize(
    ("heat", "expected"),
    [
        pytest.param(bumps((10, 20, 0.8)), [[105, 205]], id="one"),
        pytest.param(bumps((10, 20, 0.6), (50, 30, 0.8)), [[505, 305], [105, 205]], id="two, the higher first"),
        pytest.param(bumps((10, 20, 0.3), (50, 30, 0.8)), [[505, 305]], id="a low one is left out"),
        pytest.param(bumps((48, 30, 0.8), (52, 30, 0.75)), [[485, 305]], id="near ones are one"),
        pytest.param(bumps((10, 20, 0.08)), [[105, 205]], id="heat is relative"),
    ],
)
def test_peaks_are_foreground(heat: torch.Tensor, expected: list[list[float]]):
    prompts = heat_prompts(heat, (480, 640))
    assert foreground(prompts) == expected
    for x, y in prompts.points[0][prompts.labels[0] == 0].tolist():
        assert heat[0, int(y / 10), int(x / 10)] == heat.min()
    assert (prompts.labels == 0).any()


def test_points_are_in_pixels_of_the_image():
    (point,) = foreground(heat_prompts(bumps((63, 47, 0.9)), (96, 640)))
    assert point == [635, 95]


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_map_has_no_background(value: float):
    prompts = heat_prompts(torch.full((1, 4, 64), value), (40, 640))
    assert (prompts.labels != 0).all()
    assert prompts.points.isfinite().all() and prompts.logits.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (2, 3)], ids=str)
def test_small_maps(shape: tuple[int, int]):
    prompts = heat_prompts(torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)), (10, 20))
    assert (prompts.labels == 1).any(dim=1).all()
    assert ((prompts.points > 0) & (prompts.points < torch.tensor([20, 10]))).all()


def test_the_coarse_mask_is_positive_around_the_peak():
    logits = heat_prompts(bumps((20, 20, 0.6)), (480, 640)).logits[0]
    mask = torch.from_numpy(disk(48, 64, 20, 20, 5))  # where the bump is above a quarter
    assert ((logits > 0) == mask).float().mean() > 0.99
    assert logits.max() == 8 and logits.min() == -8


def test_prompts_single_equals_batched():
    heat = torch.cat([bumps((10, 20, 0.8)), bumps((10, 20, 0.6), (50, 30, 0.8)), torch.zeros(1, 48, 64)])
    together = heat_prompts(heat, (480, 640))
    for index in range(len(heat)):
        single = heat_prompts(heat[index : index + 1], (480, 640))
        for name in ("points", "labels", "logits"):
            torch.testing.assert_close(getattr(single, name)[0], getattr(together, name)[index])


def test_no_maps():
    prompts = heat_prompts(torch.zeros(0, 48, 64), (480, 640))
    assert len(prompts.points) == len(prompts.labels) == len(prompts.logits) == 0
    assert prompts.points.shape[1:] == (prompts.labels.shape[1], 2)


def test_the_example(bundled: DenseClip):
    truth = picnic_truth()
    image = Image.open(PICNIC).convert("RGB")
    prompts = heat_prompts(bundled.heat_maps(image, list(truth)), (image.height, image.width))
    inside = {}
    for label, points, labels in zip(truth, prompts.points, prompts.labels, strict=True):
        mask = np.any(truth[label], axis=0)
        inside[label] = mask[int(points[0, 1]), int(points[0, 0])]
        assert all(not mask[int(y), int(x)] for x, y in points[labels == 0].tolist()), label
    assert inside["dog"]
    assert sum(inside.values()) >= len(inside) - 1
