from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from grounded import config
from grounded.config import ClipConfig, DetectorConfig, PipelineConfig, PromptingConfig, SegmenterConfig
from grounded.errors import ConfigError
from tests.data import ROOT


def write(folder: Path, text: str) -> Path:
    path = folder / "custom.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "configs").glob("*.yaml"))])
def test_presets_load(name: str):
    assert name in config.preset_names()
    assert isinstance(config.load(name), PipelineConfig)


def test_tiny_is_bundled_and_offline():
    tiny = config.load("tiny")
    checkpoints = [tiny.detector.checkpoint, tiny.clip.checkpoint, tiny.segmenter.checkpoint]
    assert checkpoints == ["bundled:detector", "bundled:clip", "bundled:tiny"]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(PipelineConfig(), id="defaults"),
        pytest.param(
            PipelineConfig(
                detector=DetectorConfig(
                    box_threshold=0.25, phrase_score="max", cross_phrase_nms=0.9, image_size=800, fast_attention=False
                ),
                clip=ClipConfig(checkpoint="local-dir:/models/clip", templates=("{}", "a photo of {}")),
                segmenter=SegmenterConfig(checkpoint="facebook/sam-vit-base", dtype="bfloat16"),
                prompting=PromptingConfig(mode="box+text", multimask_output=True, mask_nms_threshold=None),
                device="cuda:1",
            ),
            id="nothing as by default",
        ),
    ],
)
def test_yaml_round_trip(value: PipelineConfig, tmp_path: Path):
    assert config.load(write(tmp_path, value.to_yaml())) == value
    assert config.from_dict(value.to_dict()) == value
    assert config.load(value) is value


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}", "detector: {}"], ids=repr)
def test_absent_keys_keep_their_defaults(text: str, tmp_path: Path):
    assert config.load(write(tmp_path, text)) == PipelineConfig()


def test_whole_numbers_become_floats(tmp_path: Path):
    loaded = config.load(write(tmp_path, "detector: {box_threshold: 1, cross_phrase_nms: 0}"))
    assert [type(loaded.detector.box_threshold), type(loaded.detector.cross_phrase_nms)] == [float, float]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("detektor: {}", "unknown key detektor: expected one of detector, clip", id="unknown section"),
        pytest.param(
            "detector: {treshold: 1}", "unknown key detector.treshold: expected one of kind", id="unknown key"
        ),
        pytest.param("detector: {1: 2}", "unknown key detector.1", id="key is not a string"),
        pytest.param("detector: 3", "detector must be a mapping, got int 3", id="section is not a mapping"),
        pytest.param("- 1", "the file must be a mapping, got list", id="file is not a mapping"),
        pytest.param("device: 0", "device must be str, got int 0", id="number for a string"),
        pytest.param(
            "detector: {box_threshold: high}",
            "box_threshold must be float or null, got str 'high'",
            id="string for a number",
        ),
        pytest.param(
            "detector: {box_threshold: true}", "box_threshold must be float or null, got bool", id="bool for a number"
        ),
        pytest.param("detector: {nms_threshold: }", "nms_threshold must be float, got null", id="null for a number"),
        pytest.param("detector: {image_size: 1.5}", "image_size must be int or null, got float", id="float for an int"),
        pytest.param("detector: {phrase_score: median}", "must be one of mean, max, got str 'median'", id="choice"),
        pytest.param(
            "prompting: {mode: on}", "mode must be one of box, text, box.text, got bool", id="bool for a choice"
        ),
        pytest.param("prompting: {multimask_output: 1}", "multimask_output must be bool, got int", id="int for a bool"),
        pytest.param(
            "clip: {templates: a photo of}", "templates must be a list of str, got str", id="string for a list"
        ),
        pytest.param("clip: {templates: [1]}", r"clip.templates\[0\] must be str, got int 1", id="list of numbers"),
        pytest.param("clip: {templates: []}", "clip.templates must hold at least one template", id="no template"),
        pytest.param("clip: {templates: [a photo]}", "clip.templates must each contain {} exactly once", id="template"),
        pytest.param(
            "detector: {box_threshold: 1.5}", r"detector.box_threshold must lie in \[0, 1\]", id="out of range"
        ),
        pytest.param("detector: {box_threshold: .nan}", r"detector.box_threshold must lie in \[0, 1\]", id="nan"),
        pytest.param("detector: {max_detections: 0}", "detector.max_detections must be at least 1", id="not positive"),
        pytest.param("refinement: {zoom: 0.5}", r"refinement.zoom must lie in \[1, 20\], got 0.5", id="zoom"),
        pytest.param("scoring: {margin: -1}", "scoring.margin must not be negative, got -1", id="negative"),
        pytest.param("scoring: {temperature: 0}", "scoring.temperature must be positive, got 0", id="zero"),
        pytest.param("prompting: {mode: text, text_prompt: none}", "prompting.mode 'text' needs", id="no text prompt"),
        pytest.param("detector: {nms_threshold: 3, treshold: 1}", "unknown key detector.treshold", id="two faults"),
        pytest.param("detector: [", "is not valid YAML", id="not YAML"),
        pytest.param("!!python/object/apply:os.getcwd []", "is not valid YAML", id="code"),
    ],
)
def test_faults_name_key_and_file(text: str, message: str, tmp_path: Path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_constructor_checks_too():
    with pytest.raises(ConfigError, match=r"^box_threshold must lie in \[0, 1\], got 2$"):
        DetectorConfig(box_threshold=2)
    with pytest.raises(ConfigError, match=r"^box_threshold must lie in \[0, 1\], got 2$"):
        replace(DetectorConfig(), box_threshold=2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("huge", "no preset named 'huge': expected one of .*tiny", id="preset"),
        pytest.param("huge.yaml", "no such config file: huge.yaml", id="file"),
        pytest.param("folder/huge", "no such config file: folder/huge", id="file without suffix"),
        pytest.param(Path("tiny"), "no such config file: tiny", id="Path is never a preset"),
        pytest.param(".", "no such config file", id="folder"),
    ],
)
def test_missing(source: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        config.load(source)


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        pytest.param({}, ("device",), "auto", id="none"),
        pytest.param({"device": "cpu"}, ("device",), "cpu", id="top level"),
        pytest.param({"box_threshold": 0.7}, ("detector", "box_threshold"), 0.7, id="field of one section"),
        pytest.param({"mode": "text"}, ("prompting", "mode"), "text", id="choice"),
        pytest.param({"templates": ("{}",)}, ("clip", "templates"), ("{}",), id="tuple"),
        pytest.param({"clip": {"checkpoint": "x"}}, ("clip", "checkpoint"), "x", id="mapping of a section"),
        pytest.param({"segmenter": SegmenterConfig(dtype="float16")}, ("segmenter", "dtype"), "float16", id="section"),
    ],
)
def test_override(overrides: dict, key: tuple[str, ...], expected: object):
    value: object = config.override(PipelineConfig(), **overrides)
    for name in key:
        value = getattr(value, name)
    assert value == expected


def test_override_of_a_section_keeps_its_other_fields():
    start = PipelineConfig(detector=DetectorConfig(box_threshold=0.6))
    changed = config.override(start, detector={"checkpoint": "folder"}, nms_threshold=0.5)
    assert changed.detector == DetectorConfig(checkpoint="folder", box_threshold=0.6, nms_threshold=0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param({"treshold": 1}, "unknown field 'treshold'", id="unknown"),
        pytest.param({"checkpoint": "x"}, "'checkpoint' is a field of detector, clip, segmenter", id="shared name"),
        pytest.param({"detector": "x"}, "detector must be a mapping, got str 'x'", id="section is not a mapping"),
        pytest.param({"box_threshold": "x"}, "detector.box_threshold must be float or null, got str 'x'", id="type"),
        pytest.param({"box_threshold": -1}, r"detector.box_threshold must lie in \[0, 1\], got -1", id="range"),
    ],
)
def test_wrong_override(overrides: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        config.override(PipelineConfig(), **overrides)


@pytest.mark.parametrize(
    ("overrides", "detector", "text", "scores"),
    [
        pytest.param({}, True, False, False, id="box"),
        pytest.param({"mode": "text"}, False, True, False, id="text"),
        pytest.param({"mode": "box+text"}, True, True, False, id="box+text"),
        pytest.param({"filtering": {"enabled": True}}, True, False, True, id="filtering"),
        pytest.param({"fallback": {"source": "automatic"}}, True, False, True, id="automatic masks"),
        pytest.param({"fallback": {"source": "text"}}, True, True, True, id="text-prompted masks"),
    ],
)
def test_what_is_needed(overrides: dict, detector: bool, text: bool, scores: bool):
    settled = config.override(PipelineConfig(), **overrides)
    assert (settled.needs_detector, settled.needs_text_prompt, settled.needs_scores) == (detector, text, scores)


@pytest.mark.parametrize("overrides", [{"mode": "text"}, {"mode": "box+text"}, {"fallback": {"source": "text"}}])
def test_text_needs_a_way_in(overrides: dict):
    with pytest.raises(ConfigError, match="text_prompt"):
        config.override(PipelineConfig(), text_prompt="none", **overrides)


@pytest.mark.parametrize("checkpoint", ["folder", "owner/name", "local-dir:/x"])
def test_other_checkpoints_are_not_bundled(checkpoint: str):
    assert config.bundled_folder(checkpoint) is None
    assert config.bundled_name(checkpoint) is None


@pytest.mark.parametrize("name", ["none-such", "", "..", "../weights", "."])
def test_bundled_weights_that_are_not_there(name: str):
    with pytest.raises(ConfigError, match="no bundled weights named"):
        config.bundled_folder(f"bundled:{name}")


def test_every_field_is_explained():
    """A comment on the line of a field, or on the line before it, says why it has its value."""
    lines = Path(config.__file__).read_text().splitlines()
    keys = {key for section in PipelineConfig().to_dict().values() if isinstance(section, dict) for key in section}
    for key in keys:
        places = [i for i, line in enumerate(lines) if line.startswith(f"    {key}: ")]
        assert places, key
        for i in places:
            assert "  # " in lines[i] or lines[i - 1].startswith("    # "), lines[i]


def test_presets_state_known_keys_only():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) <= set(PipelineConfig().to_dict())


@pytest.mark.parametrize(
    ("text", "threshold", "templates"),
    [
        pytest.param("{}", 0.3, ("{}",), id="Grounding DINO"),
        pytest.param("{kind: groundingdino-py}", 0.3, ("{}",), id="the original package"),
        pytest.param("{kind: owl}", 0.1, ("a photo of a {}",), id="OWL"),
        pytest.param("{kind: owl, box_threshold: null, phrase_templates: null}", 0.1, ("a photo of a {}",), id="null"),
        pytest.param("{kind: owl, box_threshold: 0.0, phrase_templates: ['{}']}", 0.0, ("{}",), id="given"),
    ],
)
def test_defaults_of_a_kind_of_detector(text: str, threshold: float, templates: tuple[str, ...], tmp_path: Path):
    detector = config.load(write(tmp_path, f"detector: {text}")).detector
    assert (detector.threshold, detector.templates) == (threshold, templates)
    if detector.box_threshold is None:
        assert replace(detector, kind="grounding-dino").threshold == 0.3


def test_another_kind_of_detector_has_thresholds_of_its_own():
    base = config.load("base")
    assert base.detector.box_threshold == 0.3
    owl = config.override(base, detector={"kind": "owl", "checkpoint": "google/owlv2-base-patch16-ensemble"})
    assert owl.detector.threshold == 0.1
    assert config.override(base, detector={"kind": "owl", "box_threshold": 0.3}).detector.threshold == 0.3
    assert config.override(base, detector={"kind": "owl"}, box_threshold=0.2).detector.threshold == 0.2
    assert config.override(base, detector={"checkpoint": "folder"}).detector.threshold == 0.3
    templated = config.override(base, detector={"kind": "owl", "phrase_templates": ["{}"]})
    assert config.override(templated, detector={"kind": "grounding-dino"}).detector.templates == ("{}",)


def test_templates_of_a_detector_that_takes_none():
    with pytest.raises(ConfigError, match="phrase_templates are for kind owl, got them for kind grounding-dino"):
        DetectorConfig(phrase_templates=("{}",))
    with pytest.raises(ConfigError, match=r"phrase_templates must each contain \{\} exactly once, got 'a'"):
        DetectorConfig(kind="owl", phrase_templates=("a",))


def test_another_detector_switches_the_fallback_on_objects_off():
    photo = config.load("photo")
    assert photo.fallback.source == "objects"
    assert config.override(photo, mode="text").fallback.source == "objects"
    changed = config.override(photo, detector={"kind": "owl", "checkpoint": "somewhere"})
    assert changed.fallback.source == "none" and changed.detector.threshold == 0.1
