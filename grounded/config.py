"""Pipeline configuration: frozen dataclasses <-> YAML presets.

A preset is a file in the `configs` folder and is named without its suffix ("tiny"). Unknown keys, wrong types and
values out of range are errors that name the key and the file.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import yaml

from grounded import schema
from grounded.errors import ConfigError

Mode = Literal["box", "text", "box+text"]

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the presets inside the package; a clone and an editable install have them beside it.
_CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_BUNDLED = "bundled:"
_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class DetectorConfig:
    """The open-vocabulary detector and how its scores become detections."""

    kind: str = "grounding-dino"  # which file of grounded/detectors reads the checkpoint
    checkpoint: str = "bundled:detector"  # bundled:NAME, a local folder or a hub id; bundled needs no download
    box_threshold: float = 0.3  # lowest own-phrase score kept: below it false positives outnumber objects
    phrase_score: Literal["mean", "max"] = "mean"  # over a phrase's tokens; mean is the published COCO protocol
    nms_threshold: float = 0.7  # box IoU within a phrase; high, since the detector is trained to answer once per object
    cross_phrase_nms: float | None = None  # box IoU across phrases; off: a wheel in a car is two answers
    image_size: int | None = None  # shorter side in pixels; None keeps what the checkpoint was trained with
    max_detections: int = 100  # per image, best first; bounds the masks that follow

    def __post_init__(self) -> None:
        _check_share("box_threshold", self.box_threshold)
        _check_share("nms_threshold", self.nms_threshold)
        _check_share("cross_phrase_nms", self.cross_phrase_nms)
        _check_positive("image_size", self.image_size)
        _check_positive("max_detections", self.max_detections)


@dataclass(frozen=True)
class ClipConfig:
    """The CLIP model that turns phrases into embeddings. Read only when the prompting mode needs text."""

    checkpoint: str = "bundled:clip"  # bundled:NAME, local-dir:/path, MODEL/PRETRAINED tag of open_clip, or a hub id
    # Averaged over a phrase; one plain template suits phrases that already are noun phrases with an article.
    templates: tuple[str, ...] = ("a photo of {}",)

    def __post_init__(self) -> None:
        if not self.templates:
            raise ConfigError("templates must hold at least one template, got none")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(f"templates must each contain {{}} exactly once, got {template!r}")


@dataclass(frozen=True)
class SegmenterConfig:
    """The promptable segmentation model."""

    checkpoint: str = "bundled:tiny"  # bundled:tiny, a .pth or .safetensors file, a folder or a hub id
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # the only one that is fast and exact on every CPU


@dataclass(frozen=True)
class PromptingConfig:
    """What the segmenter is prompted with, and how its masks are filtered."""

    mode: Mode = "box"  # a box is the strongest prompt; text alone finds at most one mask per phrase
    multimask_output: bool = False  # a box is rarely ambiguous: the single output is trained for that case
    mask_nms_threshold: float | None = 0.8  # mask IoU within a phrase: two boxes may still yield one and the same mask
    # Share of the smaller mask that lies in a better one of the same phrase; off: a small dog before a big one is real.
    mask_containment_threshold: float | None = None

    def __post_init__(self) -> None:
        _check_share("mask_nms_threshold", self.mask_nms_threshold)
        _check_share("mask_containment_threshold", self.mask_containment_threshold)

    @property
    def needs_detector(self) -> bool:
        """Whether boxes are prompted."""
        return self.mode != "text"

    @property
    def needs_text(self) -> bool:
        """Whether text embeddings are prompted."""
        return self.mode != "box"


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that a `Pipeline` is built from."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    device: str = "auto"  # "auto" takes the first CUDA device where there is one, else the CPU

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; `from_dict` reads them back."""
        return schema.to_mapping(self)

    def to_yaml(self) -> str:
        """Return the configuration as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load(source: str | PathLike[str] | PipelineConfig) -> PipelineConfig:
    """Read a preset by name ("tiny") or a YAML file by path; a `PipelineConfig` is returned as it is.

    A string of letters, digits, `_` and `-` is the name of a preset; anything else is a path.

    Raises:
        ConfigError: no such preset or file, or its contents are wrong.
    """
    if isinstance(source, PipelineConfig):
        return source
    path = _find(source)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return schema.read(PipelineConfig, {} if data is None else data, where=str(path))


def from_dict(data: Mapping[str, Any], where: str = "config") -> PipelineConfig:
    """Build a configuration from nested mappings; absent keys keep their defaults. `where` starts error messages.

    Raises:
        ConfigError: unknown key, wrong type, or a value out of range.
    """
    return schema.read(PipelineConfig, data, where)


def override(config: PipelineConfig, **overrides: Any) -> PipelineConfig:
    """Return `config` with fields replaced.

    An override is a field of one section by its own name (`box_threshold=0.4`, `mode="text"`), `device`, or a section
    with a mapping or a section value (`detector={"checkpoint": "folder"}`), which is needed for names that several
    sections share.

    Raises:
        ConfigError: unknown or shared name, wrong type, or a value out of range.
    """
    data = config.to_dict()
    sections = {f.name: getattr(config, f.name) for f in fields(config) if is_dataclass(getattr(config, f.name))}
    for name, value in overrides.items():
        if name in sections:
            changes = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            if not isinstance(changes, Mapping):
                raise ConfigError(f"overrides: {name} must be a mapping, got {schema.shown(value)}")
            data[name] = {**data[name], **changes}
        elif name in data:
            data[name] = value
        else:
            data[_owner(name, sections)][name] = value
    return from_dict(data, where="overrides")


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
    return tuple(sorted(path.stem for path in _presets().glob("*.yaml")))


def _presets() -> Path:
    for folder in _CONFIG_FOLDERS:
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder of presets is missing: looked for {' and '.join(map(str, _CONFIG_FOLDERS))}")


def _find(source: str | PathLike[str]) -> Path:
    if isinstance(source, str) and _NAME.fullmatch(source):
        preset = _presets() / f"{source}.yaml"
        if not preset.is_file():
            raise ConfigError(f"no preset named {source!r}: expected one of {', '.join(preset_names())} or a path")
        return preset
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"no such config file: {path}")
    return path


def _owner(name: str, sections: Mapping[str, Any]) -> str:
    owners = [key for key, section in sections.items() if name in {f.name for f in fields(section)}]
    if not owners:
        raise ConfigError(f"overrides: unknown field {name!r}")
    if len(owners) > 1:
        example = f"{owners[0]}={{{name!r}: ...}}"
        raise ConfigError(f"overrides: {name!r} is a field of {', '.join(owners)}: write for instance {example}")
    return owners[0]


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must lie in [0, 1], got {value}")


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")
