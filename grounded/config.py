"""Configuration of the pipeline: frozen dataclasses, one for each section, and the YAML presets that hold them.

Every field has a default that suits published weights, and a comment that gives the reason. A preset is a file in the
`configs` folder and is named without its suffix ("tiny"). Unknown keys, wrong types and values out of range are errors
that name the key and the file.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, field, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from grounded.errors import ConfigError, one_line
from grounded.utils.validation import Count, Fraction, TextTuple, checked_dataclass, read_as, typed_repr

Mode = Literal["box", "text", "box+text"]
TextPrompt = Literal["adapter", "dense-clip", "none"]
FallbackSource = Literal["none", "automatic", "text", "objects"]

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the presets inside the package; a clone and an editable install have them beside it.
_CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_BUNDLED = "bundled:"
DEFAULT_PRESET = "photo"
DEFAULT_VARIABLE = "GROUNDED_CONFIG"  # of the environment: another preset or file, for programs, commands and the app
# Of a score of Grounding DINO's best token and of OWL's phrase, in the examples of their authors.
_PUBLISHED_THRESHOLDS = {"grounding-dino": 0.3, "groundingdino-py": 0.3, "owl": 0.1}
_NAME = re.compile(r"[\w-]+")


@checked_dataclass
class DetectorConfig:
    """The open-vocabulary detector, and how its scores become detections."""

    kind: str = "grounding-dino"  # which file of grounded/models/detectors reads the checkpoint
    # bundled:NAME, a local folder, or a hub id, which may end in @ and a commit, tag or branch.
    checkpoint: str = "bundled:detector"
    tokenizer: str | None = None  # folder of the tokenizer of an original .pth file; None looks beside the file
    # Lowest score of the best token of a box's own phrase; None: as published for the kind, see `threshold`.
    box_threshold: Fraction | None = None
    # Over the tokens of a phrase that count: what ranks boxes and gives them to phrases, not what is thresholded. The
    # mean is the published COCO protocol, and tells "a red mug" from "a blue mug", unlike the best token, "mug".
    phrase_score: Literal["mean", "max"] = "mean"
    # What a phrase is put into, for kind owl alone; None: as published, see `templates`.
    phrase_templates: TextTuple | None = None
    nms_threshold: Fraction = 0.7  # box IoU within a phrase; high, since the detector is trained to find objects once
    cross_phrase_nms: Fraction | None = None  # box IoU across phrases; off: a wheel in a car is a second object
    image_size: Count | None = None  # shorter side in pixels; None keeps what the checkpoint was trained with
    max_detections: Count = 100  # per image, best first; bounds the masks that follow
    fast_attention: bool = True  # Grounding DINO's attention rearranged: faster, the same results but for rounding

    def __post_init__(self) -> None:
        if self.phrase_templates is not None:
            if self.kind != "owl":
                raise ConfigError(f"phrase_templates are for kind owl, got them for kind {self.kind}")
            _check_templates(self.phrase_templates, "phrase_templates")

    @property
    def works_on_embeddings(self) -> bool:
        """Whether it needs the segmenter, whose embeddings it reads, and CLIP, which embeds phrases for it."""
        return self.kind == "one-stage"

    @property
    def threshold(self) -> float:
        """`box_threshold`, or that of published examples for this kind."""
        default = _PUBLISHED_THRESHOLDS.get(self.kind, 0.3)
        return default if self.box_threshold is None else self.box_threshold

    @property
    def templates(self) -> tuple[str, ...]:
        """`phrase_templates`, or those of published examples for this kind; "{}" sends phrases as they are."""
        default = ("a photo of a {}",) if self.kind == "owl" else ("{}",)
        return default if self.phrase_templates is None else self.phrase_templates


@checked_dataclass
class ClipConfig:
    """The CLIP model: it embeds phrases for text prompts and for a one-stage detector, and it scores masks.

    Loaded only where one of these is in use, see `PipelineConfig.needs_clip`.
    """

    # bundled:NAME, a folder, MODEL/PRETRAINED tag of open_clip, or a hub id; the last two may end in @REVISION.
    checkpoint: str = "bundled:clip"
    # Averaged over a phrase; one plain template suits phrases that already are noun phrases with an article.
    templates: TextTuple = ("a photo of {}",)

    def __post_init__(self) -> None:
        _check_templates(self.templates, "templates")


@checked_dataclass
class SegmenterConfig:
    """The promptable segmentation model."""

    kind: Literal["segany", "sam2"] = "segany"  # segany reads Segment Anything, MobileSAM and SAM-HQ
    # bundled:tiny, a .pth, .pt or .safetensors file, a folder, a hub id, or a hub id and the name of a file in it; the
    # last two may end in @REVISION. Of kind sam2: a folder, a hub id, or a .pt file of Meta.
    checkpoint: str = "bundled:tiny"
    # auto: bfloat16 where the processor computes in it, several times as fast; its masks differ a little.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    compile: bool = False  # the image encoder, by torch.compile: minutes at the first image, worth it for thousands
    decoder: str | None = None  # a file with a mask decoder that was trained by itself, instead of the checkpoint's
    adapter: str | None = None  # a folder of peft or a SAM-LoRA file, merged into the checkpoint
    text_adapter: str | None = None  # a file with a text prompt that was trained for the checkpoint
    hq_token_only: bool = False  # for SAM-HQ: its own mask, instead of its sum with that of Segment Anything

    def __post_init__(self) -> None:
        for name in ("decoder", "adapter", "text_adapter", "hq_token_only"):
            if self.kind != "segany" and getattr(self, name):
                raise ConfigError(f"{name} is for kind segany, got it for kind {self.kind}")

    @property
    def additions(self) -> tuple[str, ...]:
        """The files that change the checkpoint."""
        return tuple(path for path in (self.decoder, self.adapter, self.text_adapter) if path is not None)


@checked_dataclass
class PromptingConfig:
    """What the segmenter is prompted with, and how its masks are filtered."""

    mode: Mode = "box"  # a box is the strongest prompt; text alone finds at most one mask per phrase
    # How a phrase reaches the segmenter: its embedding as a token, which needs weights that were trained for it, or
    # points and a coarse mask from CLIP's dense features, which needs none.
    text_prompt: TextPrompt = "adapter"
    multimask_output: bool = False  # a box is rarely ambiguous: the single output is trained for that case
    mask_nms_threshold: Fraction | None = 0.8  # mask IoU within a phrase: two boxes may still give the same mask
    # Share of the smaller mask that lies in a better one of the same phrase; off: a small dog before a big one is real.
    mask_containment_threshold: Fraction | None = None

    def __post_init__(self) -> None:
        if self.mode != "box" and self.text_prompt == "none":
            raise ConfigError(f"mode {self.mode!r} needs a text_prompt, got 'none'")


@checked_dataclass
class ScoringConfig:
    """How CLIP scores a mask for a phrase, for filtering and for the fallback."""

    background: Literal["keep", "blur", "grey"] = "blur"  # beyond the mask; blurred it neither distracts nor looks odd
    # Around the mask's box, as a share of its longer side; some context helps to recognise.
    margin: Annotated[float, Field(ge=0)] = 0.15
    # Of the softmax over cosines; None takes the one that CLIP was trained with.
    temperature: Annotated[float, Field(gt=0)] | None = None
    # What a phrase competes with. Fixed, so that one phrase never changes the score of another.
    negatives: TextTuple = (
        "background",
        "a texture",
        "a pattern",
        "a wall",
        "the floor",
        "the ground",
        "the sky",
        "water",
        "grass",
        "leaves",
        "a shadow",
        "a reflection",
        "a blurry picture",
        "text",
        "a part of something",
        "an object",
        "a thing",
    )
    # A negative that is so similar to the phrase means the same and does not compete with it. 0 is the median cosine of
    # two negatives and 1 equality, since how close unrelated texts are differs between CLIP models.
    synonym_similarity: Fraction = 0.85

    def __post_init__(self) -> None:
        if not self.negatives:
            raise ConfigError("negatives must hold at least one phrase, got none")


@checked_dataclass
class FilteringConfig:
    """CLIP's check of the detections: those that do not look like their phrase are dropped."""

    enabled: bool = False  # off: published detectors err less than CLIP does on small crops
    clip_threshold: Fraction = 0.3  # lowest CLIP score kept


@checked_dataclass
class RefinementConfig:
    """How the first mask of a detection is improved."""

    # Rounds of points that correct the mask; each costs one more decoding of every instance.
    refine_rounds: Annotated[int, Field(ge=0, le=8)] = 0
    # Side of the window in which an instance is segmented again, as a multiple of its box's longer side. Small objects
    # gain the most; each costs one more run of the image encoder. None: one run for the whole image.
    zoom: Annotated[float, Field(ge=1, le=20)] | None = None
    # Holes and islands of fewer pixels are removed; 0 leaves masks as they are.
    min_mask_region_area: Annotated[int, Field(ge=0)] = 0


@checked_dataclass
class FallbackConfig:
    """How masks are found for phrases that the detector missed."""

    # Which masks CLIP ranks: automatic ones, text-prompted ones, or those of objects that a one-stage detector finds
    # without names, which are few and cost next to nothing.
    source: FallbackSource = "none"
    fallback_threshold: Fraction = 0.6  # lowest CLIP score accepted: every mask of the image is a candidate
    points_per_side: Count = 16  # of the automatic mask generator; fine enough for what is worth naming
    pred_iou_thresh: Fraction = 0.8  # of the generator, below its default for ViT-H: CLIP checks every mask again
    stability_score_thresh: Fraction = 0.9  # likewise
    max_instances: Count = 10  # per phrase, best first
    max_objects: Count = 40  # without names, best first, for source objects


@checked_dataclass
class VideoConfig:
    """How objects are followed through clips. Read by `VideoPipeline` alone."""

    # segany and propagation work on the embeddings of the segmenter; propagation on those of any of kind segany.
    kind: Literal["segany", "propagation", "sam2", "edgetam", "sam3"] = "propagation"
    # bundled:tiny, a local folder or file, or a hub id. Of kind segany: trained for the segmenter. Kind propagation has
    # no weights and reads none.
    checkpoint: str = "bundled:tiny"
    key_frame_every: Count = 8  # frames; the detector looks for new objects on these, and after scene cuts
    scene_cut_threshold: Fraction = 0.35  # difference of two frames from which the later begins a scene; 1: never
    match_iou: Fraction = 0.5  # lowest mask IoU of a detected instance with the track that it continues
    found_again_cosine: Fraction = 0.8  # lowest cosine of CLIP embeddings of an instance and a lost track, to be one
    same_iou: Fraction = 0.8  # mask IoU above which two tracks of a phrase follow the same object
    presence_threshold: Fraction = 0.5  # lowest probability that an object is in sight, for its mask to be shown
    # Correct a track by the mask of its detection where the two differ more than this IoU; 1: always.
    correct_below_iou: Fraction = 0.75

    @property
    def weights(self) -> str | None:
        """`checkpoint`, or None for a kind that has no weights of its own."""
        return None if self.kind == "propagation" else self.checkpoint


@checked_dataclass
class PipelineConfig:
    """All sections, and the device: everything that a `Pipeline` is built from."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    filtering: FilteringConfig = field(default_factory=FilteringConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    fallback: FallbackConfig = field(default_factory=FallbackConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    device: str = "auto"  # "auto" takes the first CUDA device where there is one, else the CPU

    def __post_init__(self) -> None:
        if self.fallback.source == "text" and self.prompting.text_prompt == "none":
            raise ConfigError("fallback.source 'text' needs a prompting.text_prompt, got 'none'")
        if self.fallback.source == "objects" and not self.detector.works_on_embeddings:
            raise ConfigError(
                f"fallback.source 'objects' needs a detector of kind one-stage, got kind {self.detector.kind}"
            )

    @property
    def needs_detector(self) -> bool:
        """Whether boxes are prompted."""
        return self.prompting.mode != "text"

    @property
    def needs_text_prompt(self) -> bool:
        """Whether the segmenter is prompted with phrases."""
        return self.prompting.mode != "box" or self.fallback.source == "text"

    @property
    def needs_scores(self) -> bool:
        """Whether CLIP scores masks."""
        return self.filtering.enabled or self.fallback.source != "none"

    @property
    def needs_clip(self) -> bool:
        """Whether CLIP is used at all: also by a one-stage detector, whose phrases it embeds."""
        is_embedded = self.needs_detector and self.detector.works_on_embeddings
        return self.needs_text_prompt or self.needs_scores or is_embedded

    @property
    def models(self) -> dict[str, str | None]:
        """The checkpoint of each model, None for a model that is not used."""
        return {
            "detector": self.detector.checkpoint if self.needs_detector else None,
            "clip": self.clip.checkpoint if self.needs_clip else None,
            "segmenter": self.segmenter.checkpoint,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; `from_dict` reads them back."""
        sections = asdict(self)
        device = sections.pop("device")
        lists = {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
            for name, section in sections.items()
        }
        return {**lists, "device": device}

    def to_yaml(self) -> str:
        """Return the configuration as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def default_source() -> str:
    """The preset or file that is taken where none is named: that in `DEFAULT_VARIABLE`, or `DEFAULT_PRESET`."""
    return os.environ.get(DEFAULT_VARIABLE) or DEFAULT_PRESET


def load(source: str | PathLike[str] | PipelineConfig | None = None) -> PipelineConfig:
    """Read a preset by name ("tiny") or a YAML file by path; a `PipelineConfig` is returned as it is.

    A string of letters, digits, `_` and `-` is the name of a preset; anything else is a path. None is the default, see
    `default_source`.

    Raises:
        ConfigError: no such preset or file, or its contents are wrong.
    """
    if isinstance(source, PipelineConfig):
        return source
    path = _find(default_source() if source is None else source)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)}") from error
    return read_as(PipelineConfig, {} if data is None else data, where=str(path))


def from_dict(data: Mapping[str, Any], where: str = "config") -> PipelineConfig:
    """Build a configuration from nested mappings; absent keys keep their defaults. `where` starts error messages.

    Raises:
        ConfigError: unknown key, wrong type, or a value out of range.
    """
    return read_as(PipelineConfig, data, where)


def override(config: PipelineConfig, **overrides: Any) -> PipelineConfig:
    """Return `config` with fields replaced.

    An override is a field of one section by its own name (`box_threshold=0.4`, `mode="text"`), `device`, or a section
    with a mapping or a section value (`detector={"checkpoint": "folder"}`), which is needed for names that several
    sections share. With another `kind` of detector, its threshold and templates become the published ones unless they
    are overridden too, and a fallback on its objects is switched off.

    Raises:
        ConfigError: unknown or shared name, wrong type, or a value out of range.
    """
    data = config.to_dict()
    sections = {f.name: getattr(config, f.name) for f in fields(config) if is_dataclass(getattr(config, f.name))}
    given: set[str] = set(overrides)  # those and the fields of a detector section
    for name, value in overrides.items():
        if name in sections:
            changes = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            if not isinstance(changes, Mapping):
                raise ConfigError(f"overrides: {name} must be a mapping, got {typed_repr(value)}")
            data[name] = {**data[name], **changes}
            given |= set(changes) if name == "detector" else set()
        elif name in data:
            data[name] = value
        else:
            data[_find_section(name, sections)][name] = value
    if data["detector"]["kind"] != config.detector.kind:
        # Those of another kind mean nothing for this one.
        data["detector"] |= dict.fromkeys({"box_threshold", "phrase_templates"} - given)
        if data["fallback"]["source"] == "objects" == config.fallback.source:
            data["fallback"]["source"] = "none"  # unlike the one before, this kind may not find objects without names
    return from_dict(data, where="overrides")


def _check_templates(templates: tuple[str, ...], name: str) -> None:
    if not templates:
        raise ConfigError(f"{name} must hold at least one template, got none")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"{name} must each contain {{}} exactly once, got {template!r}")


def _find_section(name: str, sections: Mapping[str, Any]) -> str:
    """The one section that has a field of this name."""
    owners = [key for key, section in sections.items() if name in {f.name for f in fields(section)}]
    if not owners:
        raise ConfigError(f"overrides: unknown field {name!r}")
    if len(owners) > 1:
        example = f"{owners[0]}={{{name!r}: ...}}"
        raise ConfigError(f"overrides: {name!r} is a field of {', '.join(owners)}: write for instance {example}")
    return owners[0]


def bundled_folder(checkpoint: str) -> Path | None:
    """Return the folder of weights inside this package that `bundled:NAME` means, or None for other checkpoints.

    Raises:
        ConfigError: there are no bundled weights of that name.
    """
    name = bundled_name(checkpoint)
    if name is None:
        return None
    folder = _PACKAGE / "weights" / name
    if not _NAME.fullmatch(name) or not folder.is_dir():
        raise ConfigError(f"no bundled weights named {name!r}: expected a folder {folder}")
    return folder


def bundled_name(checkpoint: str) -> str | None:
    """Return NAME of `bundled:NAME`, or None for other checkpoints."""
    return checkpoint.removeprefix(_BUNDLED) if checkpoint.startswith(_BUNDLED) else None


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that are shipped, sorted."""
    return tuple(sorted(path.stem for path in _preset_folder().glob("*.yaml")))


def _preset_folder() -> Path:
    for folder in _CONFIG_FOLDERS:
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder of presets is missing: looked for {' and '.join(map(str, _CONFIG_FOLDERS))}")


def _find(source: str | PathLike[str]) -> Path:
    if isinstance(source, str) and _NAME.fullmatch(source):
        preset = _preset_folder() / f"{source}.yaml"
        if not preset.is_file():
            raise ConfigError(f"no preset named {source!r}: expected one of {', '.join(preset_names())} or a path")
        return preset
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"no such config file: {path}")
    return path
