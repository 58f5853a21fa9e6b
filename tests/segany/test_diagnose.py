"""Files given by mistake are told by what they are."""

import io
import json
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import segany
from segany import CheckpointError
from segany.diagnose import SEGMENT_ANYTHING, describe_file, network_of
from tests.data import ROOT

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 375042383\n"
DAMAGED = "damaged or cut off after"


def saved(tensors, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer, **options)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def scripted() -> bytes:
    """What `torch.jit.save` writes, as far as its names tell it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
        archive.writestr("model/code/__torch__.py", b"")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("sam.pth"))
    return buffer.getvalue()


STATE = {"mask_decoder.iou_token.weight": torch.zeros(40, 40)}

FILES = {
    "empty": ("a.pth", b"", "is empty: download it again"),
    "page": ("a.pth", b"\n<!DOCTYPE html><html>...", "is an HTML page, not weights: the download needs a login"),
    "page in capitals": ("a.safetensors", b"<HTML><head>", "is an HTML page"),
    "refusal of a bucket": ("a.pth", b"<?xml version='1.0'?><Error>", "is an XML message, not weights"),
    "refusal in JSON": ("a.pth", b'{"error": "gated"}', "is JSON text, not weights"),
    "text": ("a.safetensors", b"Entry not found", "is text, not weights: it begins with 'Entry not found'"),
    "Git LFS": ("a.safetensors", LFS, r"is a Git LFS pointer, not the weights of 375 MB .*: run `git lfs pull`"),
    "git-annex": ("a.pth", b"/annex/objects/SHA256E-s3--1.pth\n", "is a git-annex pointer"),
    "tar": ("a.pth", tarred(), "is a gzip archive: unpack it"),
    "zip of weights": (
        "a.pth",
        zipped("sam/sam_vit_b.pth"),
        r"is a zip archive that holds sam/sam_vit_b\.pth: unpack it",
    ),
    "other zip": ("a.pth", zipped("a.txt", "b.txt"), "is a zip archive of 2 other files, not PyTorch weights"),
    "TorchScript": ("a.pt", scripted(), "is a TorchScript archive, which carries code"),
    "ONNX by name": ("sam.onnx", b"\x01\x02\x03\xff", "is an ONNX graph, not PyTorch weights"),
    "ONNX by contents": ("a.pth", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0\xff", "is an ONNX graph"),
    "TensorRT": ("a.engine", b"\x00\x01\x02\xff", "is a TensorRT engine, not PyTorch weights"),
    "Core ML": ("a.mlmodel", b"\x08\x01\x12\xff", "is a Core ML model"),
    "TensorFlow Lite": ("a.pt", b"\x1c\x00\x00\x00TFL3\xff\xff", "is a TensorFlow Lite model"),
    "Keras": ("a.pth", b"\x89HDF\r\n\x1a\n", r"is a Keras \(HDF5\) file"),
    "image": ("a.pth", b"\x89PNG\r\n\x1a\n\x00", "is a PNG image"),
    "half of a file": ("a.pth", saved(STATE)[:2000], DAMAGED),
    "half of an old file": ("a.pth", saved(STATE, _use_new_zipfile_serialization=False)[:60], DAMAGED),
    "pieces": ("a.pth", saved(STATE)[:200] + b"\xff" * 100, DAMAGED),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES.keys())
def test_files_that_are_no_weights(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        segany.load(tmp_path / name)
    assert "\n" not in str(error.value)
    assert describe_file(tmp_path / name, SEGMENT_ANYTHING) in str(error.value)


def test_half_of_safetensors_tells_how_much_is_there(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=rf"is cut off: it has {len(content) - 100:,} of {len(content):,} bytes"):
        segany.load(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(content[:50])
    with pytest.raises(CheckpointError, match=DAMAGED):
        segany.load(tmp_path / "a.safetensors")


def test_bytes_at_random_are_one_sentence(tmp_path):
    (tmp_path / "a.pth").write_bytes(bytes(range(129, 256)) * 9)
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        segany.load(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


NETWORKS = {
    "SAM 2": ["image_encoder.trunk.blocks.0.norm1.weight", "sam_mask_decoder.iou_token.weight"],
    "SAM 3": ["detector.backbone.language_backbone.encoder.x", "detector.backbone.vision_backbone.trunk.x"],
    "Grounding DINO": ["module.transformer.encoder.fusion_layers.0.gamma_v", "module.bert.embeddings.x"],
    "OWL-ViT or OWLv2": ["owlv2.vision_model.embeddings.class_embedding", "box_head.dense0.weight"],
    "CLIP": ["visual.transformer.resblocks.0.ln_1.weight", "logit_scale"],
    "YOLO": ["model.model.0.conv.weight", "model.model.2.cv1.conv.weight"],
    "a torchvision or Detectron2 detector": ["backbone.body.conv1.weight", "roi_heads.box_predictor.cls_score.weight"],
    "a ResNet": ["layer1.0.conv1.weight", "fc.weight"],
    "a language model": ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"],
    SEGMENT_ANYTHING: ["module.sam.mask_decoder.iou_token.weight"],
}


@pytest.mark.parametrize(("network", "names"), NETWORKS.items(), ids=NETWORKS.keys())
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_networks_are_named(network, names, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    state = {name: torch.zeros(2) for name in names}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    assert network_of(names) == network
    assert describe_file(path).startswith(f"holds {network}")
    if network != SEGMENT_ANYTHING:
        with pytest.raises(CheckpointError, match=f"holds {network}"):
            segany.load(path)


def test_a_pickled_yolo_is_known_by_its_class(tmp_path):
    """Ultralytics saves the whole object; nothing of it is built here."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"model": 3}))) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            pickled = b"\x80\x02}X\x05\x00\x00\x00modelcultralytics.nn.tasks\nDetectionModel\n)\x81s."
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    (tmp_path / "yolo11n.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"yolo11n\.pt holds YOLO"):
        segany.load(tmp_path / "yolo11n.pt")


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("sam2_video", "holds SAM 2, another architecture"),
        ("grounding-dino", "holds Grounding DINO, which belongs to the detector"),
        ("owlv2", "holds OWL-ViT or OWLv2, which belongs to the detector"),
        ("siglip", "holds CLIP, which belongs to the clip section"),
        ("llama", "no model.safetensors"),
    ],
)
def test_folders_of_other_models(model_type, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(CheckpointError, match=message):
        segany.load(tmp_path)


def test_nothing_is_said_against_the_right_weights(tmp_path):
    bundled = ROOT / "segany" / "weights" / "tiny.safetensors"
    assert describe_file(bundled, SEGMENT_ANYTHING) is None
    assert describe_file(bundled) == "holds Segment Anything, which belongs to the segmenter"
    assert describe_file(tmp_path / "absent.pth") is None
    assert describe_file(tmp_path) is None


class TestBundledModels:
    """The detector and the CLIP that grounded brings are recognised."""

    @pytest.mark.parametrize(
        ("folder", "network"),
        [
            ("detector", "Grounding DINO"),
            ("photo-detector", "a one-stage detector"),
            ("clip", "CLIP"),
            ("photo-clip", "CLIP"),
        ],
    )
    def test_by_their_tensors(self, folder, network):
        files = list((ROOT / "grounded" / "weights" / folder).rglob("*.safetensors"))
        if not files:
            pytest.skip(f"no bundled {folder}")
        for file in files:
            assert describe_file(file).startswith(f"holds {network}"), file
