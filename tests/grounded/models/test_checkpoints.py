import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from grounded import config
from grounded.config import PipelineConfig
from grounded.errors import CheckpointError, ConfigError
from grounded.models.checkpoints import (
    PARTS,
    VIDEO,
    fetch,
    hash_checkpoints,
    offered_parts,
    resolve_models,
    used_parts,
)
from grounded.models.clip import ClipEncoder
from grounded.pipeline import Pipeline
from segany.hub import split_revision
from tests.grounded import builders
from tests.grounded.conftest import SEGMENTER, random_image
from tests.grounded.models import sam2_models
from tests.hub import COMMIT, fill_cache, nobody, serve, use_hub

REPOSITORIES = {
    "detector": "IDEA-Research/grounding-dino-tiny",
    "clip": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "segmenter": "facebook/sam-vit-base",
}
# The commits at which the preset "base" asks for them.
COMMITS = {part: split_revision(getattr(config.load("base"), part).checkpoint)[1] for part in PARTS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with small models of random weights in the layout of the published ones. Not to be changed."""
    from tests.segany.reference import hugging_face_sam

    root = tmp_path_factory.mktemp("published")
    builders.save_detector(root / "detector", family="grounding-dino")
    hugging_face_sam(SEGMENTER).save_pretrained(root / "segmenter")
    (root / "clip").mkdir()
    # A ViT-B-32 is too large for a test, and it is not loaded here.
    save_file({"weight": np.zeros(3, np.float32)}, root / "clip" / "open_clip_model.safetensors")
    return {part: root / part for part in PARTS}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in offline mode."""
    use_hub(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


def fill(cache: Path, part: str, folder: Path) -> Path:
    """Put the files of a part of the preset "base" into the cache, at its commit."""
    return fill_cache(cache, REPOSITORIES[part], folder, commit=COMMITS[part])


def test_bundled_weights_are_present(cache: Path):
    parts = fetch("tiny")
    assert [part.part for part in parts] == list(PARTS)
    for part in parts:
        assert not part.downloaded
        assert part.checkpoint.startswith("bundled:")
        assert part.path.exists()
        assert part.bytes > 100_000
    assert parts[2].files == ("tiny.safetensors",)
    assert not cache.exists()


def test_local_folders_are_present(folders: dict[str, Path], cache: Path, tmp_path: Path):
    settings = config.override(config.load("base"), **{part: {"checkpoint": str(folders[part])} for part in PARTS[::2]})
    detector, segmenter = fetch(settings, parts=("detector", "segmenter"))
    assert (detector.path, segmenter.path) == (folders["detector"], folders["segmenter"])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(detector.files)
    assert segmenter.bytes == sum(file.stat().st_size for file in folders["segmenter"].iterdir())
    assert fetch(settings, parts=()) == []


@pytest.mark.parametrize("name", ["base", "large", "fast"])
def test_offline_one_line_names_all_that_is_missing(name: str, cache: Path):
    with pytest.raises(CheckpointError, match="offline mode is on") as error:
        fetch(name)
    message, settings = str(error.value), config.load(name)
    assert "\n" not in message
    assert f"detector {settings.detector.checkpoint} (config.json, model.safetensors or" in message
    assert f"segmenter {settings.segmenter.checkpoint} (config.json, model.safetensors or" in message
    assert "clip" not in message  # which the preset does not use
    assert 'detector={"checkpoint": PATH}' in message


def test_offline_it_is_said_what_a_local_copy_is(cache: Path):
    with pytest.raises(CheckpointError) as error:
        fetch("mobile", PARTS)
    assert (
        "a folder with config.json, model.safetensors, preprocessor_config.json, tokenizer.json as detector, "
        "a folder with open_clip_config.json and open_clip_model.safetensors as clip, "
        "the file mobile_sam.pt as segmenter: " in str(error.value)
    )


def test_no_connection_is_reported_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    use_hub(monkeypatch, cache, nobody())
    fetch("tiny")  # so that libraries are imported
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="there is no connection to the hub"):
        fetch("base")
    assert time.monotonic() - start < 10


def test_what_is_in_the_cache_is_not_missing(folders: dict[str, Path], cache: Path):
    fill(cache, "detector", folders["detector"])
    with pytest.raises(CheckpointError, match=r"clip laion/.*segmenter facebook/sam-vit-base") as error:
        fetch("base", PARTS)
    assert "IDEA-Research" not in str(error.value)


def test_a_filled_cache_is_present_and_loads_offline(folders: dict[str, Path], cache: Path):
    snapshots = {part: fill(cache, part, folders[part]) for part in PARTS}
    parts = fetch("base", PARTS)
    assert {part.part: part.path for part in parts} == snapshots
    assert {part.part: part.commit for part in parts} == COMMITS
    assert not any(part.downloaded for part in parts)
    pipeline = Pipeline.from_config("base", box_threshold=0.0, device="cpu")
    assert pipeline.models["detector"] == f"{REPOSITORIES['detector']}@{COMMITS['detector']}"
    assert len(pipeline.segment(random_image(), "a dog. cat")) > 0


@pytest.mark.parametrize("offline", [True, False], ids=["offline mode", "no connection"])
def test_clip_of_the_cache_loads_without_the_hub(
    offline: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_hub(monkeypatch, cache, None if offline else nobody())
    fill_cache(cache, "owner/clip", builders.save_clip(tmp_path / "clip"))
    start = time.monotonic()
    assert ClipEncoder.from_pretrained("owner/clip").dim == 16
    assert time.monotonic() - start < 10  # a second, or half a minute for each file that the client looks for again


def test_download(folders: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch):
    with serve({REPOSITORIES[part]: folders[part] for part in PARTS}, COMMITS.values()) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        parts = fetch("base")
        assert [part.part for part in parts] == ["detector", "segmenter"]  # CLIP, 605 MB, is not used by the preset
        parts = fetch("base", PARTS)
        assert [part.part for part in parts if part.downloaded] == ["clip"]
        assert set(fetched) == {file.name for part in PARTS for file in folders[part].iterdir()}
        fetched.clear()
        assert fetch("base", PARTS, verify=True) == [
            replace(part, downloaded=False, verified=part.files) for part in parts
        ]
        assert fetched == []


def test_damage_in_the_cache(folders: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Seen only by comparing with the hash: the length and the header are those of the whole file."""
    with serve({REPOSITORIES["segmenter"]: folders["segmenter"]}, COMMITS.values()) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        (segmenter,) = fetch("base", ("segmenter",))
        assert segmenter.verified == segmenter.files
        weights = segmenter.path / "model.safetensors"
        whole = weights.read_bytes()
        damaged = whole[:-16] + bytes(byte ^ 255 for byte in whole[-16:])
        weights.write_bytes(damaged)
        fetched.clear()
        assert fetch("base", ("segmenter",))[0].verified == ()
        assert (weights.read_bytes() == damaged, fetched) == (True, [])
        (again,) = fetch("base", ("segmenter",), verify=True)
        assert again == replace(segmenter, downloaded=False)
        assert (weights.read_bytes() == whole, fetched) == (True, ["model.safetensors"])
        weights.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: .*cannot be fetched again, ") as error:
        fetch("base", ("segmenter",), verify=True)
    assert "\n" not in str(error.value)
    assert weights.read_bytes() == damaged


def test_what_a_result_was_made_with(cache: Path, tmp_path: Path):
    settings = config.override(
        config.load("tiny"),
        detector={"checkpoint": "owner/detector"},
        clip={"checkpoint": "owner/clip@v1"},
        segmenter={"checkpoint": "owner/sam/sam.pt"},
    )
    as_configured = {"detector": "owner/detector", "clip": "owner/clip@v1", "segmenter": "owner/sam/sam.pt"}
    assert resolve_models(settings) == as_configured
    fill_cache(cache, "owner/detector", builders.save_detector(tmp_path / "detector"))
    fill_cache(cache, "owner/clip", builders.save_clip(tmp_path / "clip"), revision="v1", commit="a" * 40)
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam" / "sam.pt").touch()
    fill_cache(cache, "owner/sam", tmp_path / "sam")
    assert resolve_models(settings) == {
        "detector": f"owner/detector@{COMMIT}",
        "clip": f"owner/clip@{'a' * 40}",
        "segmenter": f"owner/sam/sam.pt@{COMMIT}",
    }
    assert resolve_models(config.load("tiny")) == config.load("tiny").models
    assert resolve_models(config.override(settings, mode="box", filtering={"enabled": False}))["clip"] is None


def test_one_file_of_a_repository(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repository = tmp_path / "repository"
    repository.mkdir()
    torch.save({}, repository / "mobile_sam.pt")
    (repository / "README.md").write_text("not needed")
    with pytest.raises(CheckpointError, match=r"segmenter dhkim2810/MobileSAM \(mobile_sam\.pt\)"):
        fetch("mobile", parts=("segmenter",))
    with serve({"dhkim2810/MobileSAM": repository}) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        (segmenter,) = fetch("mobile", parts=("segmenter",))
        assert segmenter.downloaded
        assert segmenter.files == ("mobile_sam.pt",)
        assert fetched == ["mobile_sam.pt"]


def test_sam2_for_images_and_clips(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    section = {"kind": "sam2", "checkpoint": "owner/sam2"}
    settings = config.override(config.load("tiny"), segmenter=section, video=section)
    assert offered_parts(settings) == (*PARTS, VIDEO) and VIDEO in used_parts(settings)
    assert offered_parts(config.load("tiny")) == PARTS
    with pytest.raises(CheckpointError, match=r"segmenter owner/sam2 \(config\.json, .*; video owner/sam2 \(") as error:
        fetch(settings)
    assert "a folder with config.json and model.safetensors or one of Meta's .pt files as video" in str(error.value)
    folder = sam2_models.save("sam2", tmp_path / "sam2")
    with serve({"owner/sam2": folder}) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        segmenter, video = fetch(settings, ("segmenter", VIDEO))
    assert sorted(set(fetched)) == list(segmenter.files) == list(video.files) == ["config.json", "model.safetensors"]
    assert segmenter.downloaded and segmenter.verified == segmenter.files
    use_hub(monkeypatch, cache)
    assert resolve_models(settings)["segmenter"] == f"owner/sam2@{segmenter.commit}"
    assert hash_checkpoints(settings)["segmenter"] != hash_checkpoints(config.load("tiny"))["segmenter"]


def test_kind_of_the_detector_tells_its_files(cache: Path):
    settings = config.override(config.load("tiny"), detector={"kind": "owl", "checkpoint": "owner/owl"})
    with pytest.raises(CheckpointError, match=r"owner/owl \(config\.json, .*vocab\.json\)"):
        fetch(settings)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("model.safetensors", cut, id="weights cut short"),
        pytest.param("model.safetensors", lambda file: file.write_text("version of a pointer"), id="no weights"),
        pytest.param("config.json", cut, id="JSON cut short"),
        pytest.param("config.json", lambda file: file.write_bytes(b"\xff\xfe"), id="no text"),
    ],
)
def test_damaged_files_are_named(name: str, damage, folders: dict[str, Path], cache: Path):
    damaged = fill(cache, "segmenter", folders["segmenter"]) / name
    damage(damaged)
    with pytest.raises(CheckpointError, match=f"{damaged} is damaged") as error:
        fetch("base", parts=("segmenter",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        pytest.param("zip", True, id="zip archive"),
        pytest.param("cut", False, id="zip archive cut short"),
        pytest.param(b"\x80\x02}q\x00.", True, id="old format"),
        pytest.param(b"version of a pointer", False, id="text"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_files_of_pytorch(content: str | bytes, whole: bool, tmp_path: Path):
    path = tmp_path / "sam.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    if content == "cut":
        cut(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    settings = config.override(config.load("tiny"), segmenter={"checkpoint": str(path)})
    if whole:
        assert fetch(settings, parts=("segmenter",))[0].files == ("sam.pth",)
    else:
        with pytest.raises(CheckpointError, match=r"sam\.pth is damaged"):
            fetch(settings, parts=("segmenter",))


def test_weights_in_several_files(tmp_path: Path):
    folder = builders.save_detector(tmp_path / "detector")
    part = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": part}}))
    settings = config.override(config.load("tiny"), detector={"checkpoint": str(folder)})
    assert part in fetch(settings, parts=("detector",))[0].files
    (folder / part).unlink()
    with pytest.raises(CheckpointError, match=f"it names {part}, which is missing"):
        fetch(settings, parts=("detector",))


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        pytest.param({"detector": {"checkpoint": "bundled:none"}}, ConfigError, "no bundled weights", id="bundled"),
        pytest.param({"detector": {"kind": "dowsing"}}, ConfigError, "kind must be one of", id="kind"),
        pytest.param(
            {"detector": {"kind": "groundingdino-py", "checkpoint": "/no/file.pth"}},
            CheckpointError,
            "/no/file.pth",
            id="file of another kind",
        ),
        pytest.param({"segmenter": {"checkpoint": "/no/file.pth"}}, CheckpointError, "no such checkpoint", id="file"),
        pytest.param({"clip": {"checkpoint": "ViT-B-32/no-tag"}}, CheckpointError, "laion2b_s34b_b79k", id="tag"),
    ],
)
def test_checkpoints_that_are_not_there(overrides: dict, error: type[Exception], message: str, cache: Path):
    with pytest.raises(error, match=message):
        fetch(config.override(config.load("tiny"), **overrides))


def test_unknown_part():
    with pytest.raises(ValueError, match="parts must be among detector, clip, segmenter and video, got 'eyes'"):
        fetch("tiny", parts=("eyes",))


def test_hashes_of_bundled_weights():
    found = hash_checkpoints(config.load("tiny"))
    assert sorted(found) == ["clip", "detector", "segmenter"]
    assert len({*found.values()}) == 3 and {len(one) for one in found.values()} == {16}
    assert hash_checkpoints(config.load("tiny")) == found
    without_clip = config.override(config.load("tiny"), mode="box", filtering={"enabled": False})
    assert sorted(hash_checkpoints(without_clip)) == ["detector", "segmenter"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("open_clip_model.safetensors", True, id="weights"),
        pytest.param("open_clip_config.json", True, id="config"),
        pytest.param("new.json", True, id="another file of the model"),
        pytest.param("train.log", False, id="a log"),
    ],
)
def test_hashes_of_a_folder(name: str, changes: bool, random_config: PipelineConfig, tmp_path: Path):
    clip = shutil.copytree(random_config.clip.checkpoint, tmp_path / "clip")
    settings = config.override(random_config, mode="text", clip={"checkpoint": str(clip)})
    before = hash_checkpoints(settings)
    assert before == hash_checkpoints(config.override(random_config, mode="text"))  # wherever the folder is
    with (clip / name).open("ab") as file:
        file.write(b" ")
    after = hash_checkpoints(settings)
    assert (before["clip"] != after["clip"]) is changes
    assert before["segmenter"] == after["segmenter"]


def test_no_hash_of_an_absent_checkpoint(
    random_config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_hub(monkeypatch, tmp_path / "cache")
    settings = config.override(
        random_config,
        mode="box+text",
        clip={"checkpoint": "owner/clip"},
        detector={"checkpoint": str(tmp_path / "gone")},
        segmenter={"checkpoint": "bundled:other"},
    )
    assert hash_checkpoints(settings) == {}
    fill_cache(tmp_path / "cache", "owner/clip", builders.save_clip(tmp_path / "clip"))
    assert list(hash_checkpoints(settings)) == ["clip"]
