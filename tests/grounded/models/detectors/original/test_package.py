import importlib
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from grounded.config import DetectorConfig
from grounded.errors import CheckpointError, ConfigError
from grounded.models import detectors
from grounded.models.detectors.original import package as groundingdino_py
from grounded.models.detectors.original.checkpoint import SWIN_B_COGCOOR, SWIN_T_OGC, Architecture
from tests.grounded import builders
from tests.grounded.conftest import random_image
from tests.grounded.models.detectors import tiny_models

ALL_QUERIES = DetectorConfig(box_threshold=0.0, nms_threshold=1.0, image_size=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_original(tmp_path_factory.mktemp("original"))


def prompt(*phrases: str) -> list[int]:
    tokens = builders.bert_tokenizer()(" . ".join(phrases) + " .")["input_ids"]
    assert tokens[0] == 101 and tokens[-2:] == [1012, 102]
    return tokens


@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_the_network_for_the_joined_text(checkpoint: Path):
    """As they follow from the original network for the original kind of caption."""
    phrases = ["a cat", "zebra", "hot dog"]
    detector = groundingdino_py.load(checkpoint, ALL_QUERIES)
    (found,) = detector.detect([random_image()], [phrases])
    pixels = detector._preprocess([random_image()], size={"height": 64, "width": 85}, do_pad=False)
    with torch.inference_mode():
        output = detector.model.network(pixels, captions=[prompt(*phrases)])
    probabilities = output["pred_logits"][0].sigmoid()
    # "zebra" is not in the small vocabulary and read as 5 letters; "a" does not count in the mean.
    expected = torch.stack([probabilities[:, span].mean(1) for span in (slice(2, 3), slice(4, 9), slice(10, 12))], 1)
    best = torch.stack([probabilities[:, span].amax(1) for span in (slice(1, 3), slice(4, 9), slice(10, 12))], 1)
    order = expected.amax(dim=1).argsort(descending=True)
    np.testing.assert_allclose(found.scores, expected[order], atol=1e-5)
    assert found.phrase_ids.tolist() == expected[order].argmax(dim=1).tolist()
    own_best = best[order, expected[order].argmax(dim=1)]
    np.testing.assert_allclose(found.best_token_scores, own_best, atol=1e-5)


def test_prompts_of_a_batch_do_not_mix(checkpoint: Path):
    model = groundingdino_py.load(checkpoint, ALL_QUERIES).model
    prompts = [prompt("a cat"), prompt("dog", "a red mug"), prompt("a cat")]
    length = max(map(len, prompts))
    ids = torch.tensor([tokens + [0] * (length - len(tokens)) for tokens in prompts])
    mask = torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in prompts])
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = model(pixels, ids, mask)
        for i, tokens in enumerate(prompts):
            alone = model(pixels[i : i + 1], torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.long))
            torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.pred_boxes[i], alone.pred_boxes[0], atol=1e-5, rtol=0)


def test_weights_are_those_of_the_file(checkpoint: Path):
    stored = torch.load(checkpoint, weights_only=True)["model"]
    network = groundingdino_py.load(checkpoint).model.network
    assert {f"module.{name}" for name in network.state_dict()} == stored.keys()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, stored[f"module.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize("head", ["bbox_embed", "transformer.decoder.bbox_embed"])
def test_one_name_of_the_box_head_is_enough(checkpoint: Path, tmp_path: Path, head: str):
    stored = torch.load(checkpoint, weights_only=True)["model"]
    one = {name: value for name, value in stored.items() if not name.startswith(f"module.{head}.")}
    assert len(one) < len(stored)
    network = groundingdino_py.load(tiny_models.save_pth(tmp_path, one)).model.network
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, stored[f"module.{name}"], rtol=0, atol=0)


def test_missing_and_misshapen_weights_are_named(checkpoint: Path, tmp_path: Path):
    stored = torch.load(checkpoint, weights_only=True)["model"]
    cut = {name: value for name, value in stored.items() if name != "module.feat_map.weight"}
    with pytest.raises(CheckpointError, match=r"tiny\.pth lack feat_map\.weight"):
        groundingdino_py.load(tiny_models.save_pth(tmp_path / "cut", cut))
    bent = {**stored, "module.transformer.level_embed": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"another shape for transformer\.level_embed"):
        groundingdino_py.load(tiny_models.save_pth(tmp_path / "bent", bent))


def test_a_checkpoint_of_another_model(tmp_path: Path):
    tiny_models.original_network()
    path = tiny_models.save_pth(tmp_path, {"image_encoder.pos_embed": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        groundingdino_py.load(path)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [(SWIN_T_OGC, "GroundingDINO_SwinT_OGC"), (SWIN_B_COGCOOR, "GroundingDINO_SwinB_cfg")],
    ids=["Swin-T", "Swin-B"],
)
def test_published_networks_are_as_the_package_configures_them(architecture: Architecture, config: str):
    tiny_models.original_network()
    published = vars(importlib.import_module(f"groundingdino.config.{config}"))
    ours = {**groundingdino_py._FIXED, **asdict(architecture)}
    different = {name for name in ours.keys() & published.keys() if ours[name] != published[name]}
    assert different <= {"backbone", "use_checkpoint", "use_transformer_ckpt"}
    # What it reads besides: the loss, and the batch size of training.
    trained = {name for name in published if not name.startswith("_")} - ours.keys()
    assert trained == {"batch_size", "dn_label_coef", "dn_bbox_coef"}


def test_the_package_is_left_as_it_was():
    tiny_models.original_network()
    package = groundingdino_py._import_package()
    names = [
        (package.network, "BertModelWarper"),
        (package.tokenizing, "get_tokenlizer"),
        (package.tokenizing, "get_pretrained_language_model"),
        (package.backbone, "build_swin_transformer"),
    ]
    before = [getattr(module, name) for module, name in names]
    assert all(value.__module__.startswith("groundingdino.") for value in before)
    groundingdino_py.build_network(tiny_models.TINY)
    assert [getattr(module, name) for module, name in names] == before
    with pytest.raises(ZeroDivisionError):  # heads of no width: the package fails inside the adapter
        groundingdino_py.build_network(Architecture(**{**vars(tiny_models.TINY), "num_heads": (0, 1, 1, 1)}))
    assert [getattr(module, name) for module, name in names] == before


def test_loading_and_searching_print_nothing(
    checkpoint: Path, capfd: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
):
    groundingdino_py.load(checkpoint, ALL_QUERIES).detect([random_image()], [["a cat"]])
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_package_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tiny_models.save_pth(tmp_path, {})
    monkeypatch.setitem(sys.modules, "groundingdino", None)  # as if it were not installed
    with pytest.raises(ConfigError, match="kind groundingdino-py needs the original package") as error:
        detectors.build(DetectorConfig(kind="groundingdino-py", checkpoint=str(path)))
    for advice in ('pip install "grounded-segany[groundingdino]"', "grounded convert-checkpoint"):
        assert advice in str(error.value)


def test_a_tokenizer_that_is_named(checkpoint: Path, tmp_path: Path):
    moved = Path(shutil.copy(checkpoint, tmp_path / "tiny.pth"))
    shutil.copy(checkpoint.with_suffix(".json"), tmp_path)
    with pytest.raises(CheckpointError, match=r"no tokenizer for .*tiny\.pth"):
        groundingdino_py.load(moved)
    vocabulary = tiny_models.save_vocabulary(tmp_path / "bert")
    assert groundingdino_py.load(moved, tokenizer=vocabulary).tokenizer("dog")["input_ids"] == [101, 9, 102]
