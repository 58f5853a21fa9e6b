"""The CLIP of `photo` on drawn data: the crops it learns from, what it tells apart, its training, its folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F

from grounded.models.clip import ClipEncoder
from recipes.photo import clip_export
from recipes.photo.clip_crops import BACKGROUND, list_boxes, plan_crops
from recipes.photo.clip_export import export_clip
from recipes.photo.clip_features import BACKBONE, compute_features
from recipes.photo.clip_words import Words, find_rivals
from recipes.photo.measure_clip import measure_clip
from recipes.photo.train_clip import (
    ClipSettings,
    Examples,
    Projection,
    begin_with_classifier,
    clip_losses,
    measure,
    train_projection,
)
from recipes.photo.vocabulary import TEMPLATES, embed_names
from segany.utils.rle import decode_rle, encode_rle
from tests.grounded import builders
from tests.hub import use_hub

SIZE = 96, 128
RED, BLUE = (220, 30, 30), (30, 30, 220)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six drawings of one source with a red "dog" or a blue "car" in the upper left corner of a green field."""
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "car"}]
    for split in ("train", "voc-val"):
        (tmp_path / split).mkdir()
        images, annotations = [], []
        for number in range(6):
            pixels = np.full((*SIZE, 3), (60, 160, 60), np.uint8)
            pixels[4:36, 6:42] = RED if number % 2 else BLUE
            Image.fromarray(pixels).save(tmp_path / split / f"{number}.png")
            mask = np.zeros((1, *SIZE), bool)
            mask[0, 4:36, 6:42] = True
            entry = {"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1], "source": "voc"}
            images.append(entry)
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1 if number % 2 else 2,
                    "segmentation": encode_rle(mask)[0],
                    "bbox": [6, 4, 36, 32],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
        data = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    return tmp_path


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(BACKBONE).eval()


def make_words() -> Words:
    """Names "car", "dog" and "skirt", of which two are known in source 0 and one in source 1; one background."""
    embeddings = torch.eye(384)[:3]
    annotated = torch.tensor([[True, True, False], [False, False, True]])
    names = ("car", "dog", "skirt")
    rivals = find_rivals(names, embeddings, annotated)
    classes = F.normalize(torch.randn(1000, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    return Words(names, ("voc", "ccp"), embeddings, classes, torch.eye(384)[3:4], rivals, annotated)


def test_crops_are_drawn_alike_every_time(folder: Path):
    crops, again = plan_crops(folder, "train"), plan_crops(folder, "train")
    assert crops == again != plan_crops(folder, "train", seed=1)
    assert np.array_equal(np.asarray(crops[0].draw()), np.asarray(again[0].draw()))
    by_name = {name: [crop for crop in crops if crop.name == name] for name in ("dog", "car")}
    assert [len(found) for found in by_name.values()] == [9, 9], "three variants of each of the few boxes"
    assert len({crop.config for crop in by_name["dog"]}) > 3
    held = {crop.file for crop in crops if crop.is_held_out}
    assert len(held) == 1 and held.isdisjoint(crop.file for crop in crops if not crop.is_held_out)


def test_backgrounds_show_little_of_objects(folder: Path):
    found = [crop for seed in range(3) for crop in plan_crops(folder, "train", seed) if crop.name == BACKGROUND]
    assert found
    (mask,) = decode_rle([list_boxes(folder, "train")[0].rle]).numpy()
    for crop in found:
        (window,) = decode_rle([crop.rle]).numpy()
        assert (window & mask).sum() < 0.1 * window.sum()
        assert np.asarray(crop.draw()).shape[2] == 3


def test_boxes_are_cut_as_the_pipeline_cuts_them(folder: Path):
    crops = list_boxes(folder, "train")
    assert [crop.name for crop in crops] == ["car", "dog"] * 3 and crops[0].source == "voc"
    pixels = np.asarray(crops[1].draw())
    assert pixels.shape[0] == pixels.shape[1] >= 36 and tuple(pixels[len(pixels) // 2, len(pixels) // 2]) == RED
    assert list_boxes(folder, "train", smallest=36 * 32) == []


def test_rivals_of_a_name():
    names = ("couch", "sofa", "bag", "purse", "car")
    embeddings = F.normalize(torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 1, 0.2], [0, 0, 1]]), dim=1)
    annotated = torch.tensor([[True, False, True, False, True], [False, True, True, True, False]])
    rivals = find_rivals(names, embeddings, annotated)
    assert rivals[:, range(5), range(5)].all(), "a name is always among its own"
    assert not rivals[:, 0, 1].any(), "two words for the same"
    assert rivals[1, 2, 3], "alike, but this source tells them apart"
    assert not rivals[0, 2, 3], "alike, and this source does not know one of them"
    assert rivals[0, 4, 3], "unlike names are rivals everywhere"


def test_losses_of_right_and_wrong_embeddings():
    words, scale = make_words(), torch.tensor(30.0)
    taught = torch.full((1, 1000), 1e-3)

    def names_loss(axis: int, name: int, source: int) -> float:
        embedding = torch.eye(384)[axis : axis + 1]
        rows = torch.tensor([name]), torch.tensor([source])
        return float(clip_losses(embedding, scale, *rows, taught, words)["names"])

    car, skirt, background = 0, 2, 3
    assert names_loss(car, car, 0) < 1e-3 < 10 < names_loss(1, car, 0)
    assert names_loss(background, -1, 0) < 1e-3 < 10 < names_loss(car, -1, 0)
    assert names_loss(background, car, 0) > 10, "an object is no background"
    assert names_loss(skirt, -1, 0) < 2, "what the source does not annotate may lie in its backgrounds"


def test_the_beginning_follows_the_classifier(backbone: torch.nn.Module):
    projection, words = Projection(1280, scale=30), make_words()
    begin_with_classifier(projection, backbone.classifier, words.classes)
    features = F.normalize(backbone.classifier.weight[:50], dim=1).detach()
    with torch.no_grad():
        products = projection.linear(features) @ words.classes.T
        right = (products.argmax(dim=1) == backbone.classifier(features).argmax(dim=1)).float().mean()
    assert right > 0.9


def test_features_that_are_there_are_read(folder: Path, tmp_path: Path, backbone: torch.nn.Module):
    crops = list_boxes(folder, "train")[:2]
    features = compute_features(backbone, crops, tmp_path / "features")
    assert features.shape == (2, 1280) and not torch.equal(features[0], features[1])
    for crop in crops:
        crop.file.unlink()
    assert torch.equal(compute_features(backbone, crops, tmp_path / "features"), features)


def test_training_learns_names_and_backgrounds():
    words, projection = make_words(), Projection(1280, scale=30)
    generator = torch.Generator().manual_seed(0)
    names = torch.tensor([0, 1, -1]).repeat(8)
    features = torch.randn(3, 1280, generator=generator)[names]
    features = features + 0.1 * torch.randn(24, 1280, generator=generator)
    examples = Examples(features, names, torch.zeros(24, dtype=torch.long), torch.full((24, 1000), 1e-3))
    log = train_projection(projection, examples, words, ClipSettings(epochs=12, batch=12, teacher=0.1))
    assert log[-1]["names"] < 0.5 * log[0]["names"]
    figures = measure(projection, examples, words)
    assert figures["top-1, voc"] == figures["backgrounds told"] == figures["objects told"] == 1


def test_exported_folder_gives_the_sentence_embeddings(
    backbone: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import transformers

    text, out = tmp_path / "text", tmp_path / "clip"
    builders.bert_tokenizer().save_pretrained(text)
    size = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(builders.bert_vocabulary()), **size)
    transformers.BertModel(config).save_pretrained(text)
    projection = torch.nn.Linear(1280, clip_export.WIDTH)
    export_clip(out, backbone, projection, 3.0, text)
    moved = shutil.move(out, tmp_path / "moved")
    use_hub(monkeypatch, tmp_path / "cache")
    encoder = ClipEncoder.from_pretrained(moved, TEMPLATES)
    names = ["dog", "a very long red mug"]
    torch.testing.assert_close(encoder.encode(names), embed_names(names, str(text)), rtol=0, atol=2e-3)
    assert encoder.temperature == pytest.approx(np.exp(-3), rel=1e-3)
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    pixels = torch.from_numpy(np.array(image.resize((224, 224), resample=3))).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        features = backbone.global_pool(backbone.forward_features((pixels - 127) / 128))
        expected = F.normalize(projection(features), dim=1)
    torch.testing.assert_close(encoder.encode_images([image]), expected, rtol=0, atol=5e-3)


def test_measures_any_clip(folder: Path):
    figures = measure_clip(ClipEncoder.from_pretrained("bundled:clip", ("{}",)), folder, "voc-val", limit=4)
    assert figures["crops"] == figures["rare crops"] == 4 and figures["top-5"] == 1
    assert 0 <= figures["top-1"] == figures["rare top-1"] <= 1
