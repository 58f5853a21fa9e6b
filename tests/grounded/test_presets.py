import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from grounded import config
from grounded.cli.main import main
from grounded.pipeline import Pipeline
from segany.hub import split_revision
from tests.grounded import builders
from tests.grounded.conftest import SEGMENTER, random_image
from tests.hub import nobody, use_hub

PUBLISHED = ("base", "large", "fast")


@pytest.mark.parametrize("name", config.preset_names())
def test_presets_load_and_are_commented(name: str):
    settings = config.load(name)
    assert config.from_dict(settings.to_dict()) == settings
    folder = Path(config.__file__).parents[1] / "configs"
    assert (folder / f"{name}.yaml").read_text().startswith("# ")


def test_sizes():
    base, large, fast = map(config.load, PUBLISHED)
    assert "tiny" in base.detector.checkpoint and "base" in large.detector.checkpoint
    assert split_revision(base.segmenter.checkpoint)[0] == "facebook/sam-vit-base"
    assert split_revision(large.segmenter.checkpoint)[0] == "facebook/sam-vit-huge"
    assert fast.detector.image_size == 480
    for preset in (base, large, fast):
        assert preset.prompting.text_prompt == "dense-clip"  # published weights have no text prompt of their own
    checkpoints = {(preset.detector.checkpoint, preset.segmenter.checkpoint) for preset in (base, fast)}
    assert len(checkpoints) == 1  # so that fast needs no download of its own


@pytest.mark.parametrize("name", [name for name in config.preset_names() if name not in ("photo", "tiny")])
def test_repositories_are_pinned_to_commits(name: str):
    settings = config.load(name)
    # Of these no commit is known here.
    unknown = ("dhkim2810/MobileSAM/mobile_sam.pt", "facebook/sam2.1-hiera-base-plus")
    for checkpoint in (settings.detector.checkpoint, settings.clip.checkpoint, settings.segmenter.checkpoint):
        _, revision = split_revision(checkpoint)
        if checkpoint in unknown:
            assert revision is None
        else:
            assert revision is not None and re.fullmatch("[0-9a-f]{40}", revision)


@pytest.mark.parametrize("offline", [True, False], ids=["offline mode", "no connection"])
def test_without_weights_the_command_line_says_so_at_once(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import grounded.models.detectors.grounding_dino  # noqa: F401  (what takes seconds is not what is measured)

    use_hub(monkeypatch, tmp_path / "cache", None if offline else nobody())
    random_image().save(tmp_path / "image.png")
    start = time.monotonic()
    arguments = ["segment", str(tmp_path / "image.png"), "a dog", "--config", "base", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert time.monotonic() - start < 10
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "offline mode is on" in result.stderr if offline else "there is no connection" in result.stderr
    for part in ("IDEA-Research/grounding-dino-tiny", "config.json", "model.safetensors", "preprocessor_config.json"):
        assert part in result.stderr
    assert 'detector={"checkpoint": FOLDER}' in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_run_with_local_folders(name: str, tmp_path: Path):
    from tests.segany.reference import hugging_face_sam

    hugging_face_sam(SEGMENTER).save_pretrained(tmp_path / "segmenter")
    pipeline = Pipeline.from_config(
        name,
        detector={
            "checkpoint": str(builders.save_detector(tmp_path / "detector", family="grounding-dino")),
            "box_threshold": 0.0,
            "image_size": 64,
        },
        clip={"checkpoint": str(builders.save_clip(tmp_path / "clip"))},
        segmenter={"checkpoint": str(tmp_path / "segmenter")},
        device="cpu",
    )
    image = random_image()
    instances = pipeline.segment(image, "a dog. the red mug")
    assert len(instances) > 0
    assert instances.masks.shape == (len(instances), 60, 80)
    assert set(instances.labels) <= {"a dog", "the red mug"}
    assert (instances.label_map() > 0).any()
    (again,) = pipeline.segment_batch([image], ["a dog. the red mug"])
    assert again.rles == instances.rles


def test_sam2_is_one_repository_for_images_and_clips():
    settings = config.load("sam2")
    assert settings.segmenter.kind == settings.video.kind == "sam2"
    assert settings.segmenter.checkpoint == settings.video.checkpoint
