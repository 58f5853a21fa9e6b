"""Load SAM 2, EdgeTAM and SAM 3's tracker, for videos and images: completely, or not at all.

All are read from the layout of the Hugging Face hub, SAM 2 also from Meta's own files. The three are one family: a
segmenter for images whose memory of earlier frames makes it one for videos.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grounded.config import bundled_name
from grounded.errors import CheckpointError, ConfigError, one_line
from grounded.models import sam2_names
from segany.diagnose import describe_file
from segany.files import read_safetensors
from segany.hub import HubModel, split_revision

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_FILE_SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Family:
    """Models whose checkpoints have the same layout. The classes are those of transformers."""

    kind: str  # in a configuration
    name: str
    example: str  # a hub id
    model_types: tuple[str, ...]  # in config.json
    model: str
    session: str  # of a video; "" for images
    image_processor: str
    network: str  # as `segany.diagnose` names it
    section: str = "video"  # of a configuration

    @property
    def wanted(self) -> str:
        """What a checkpoint is, for messages."""
        file = " or one of Meta's .pt files" if self.reads_files else ""
        return f"a folder with config.json and {_WEIGHTS[0]}{file}"

    @property
    def reads_files(self) -> bool:
        """Whether Meta's own files are read."""
        return self.kind == "sam2"


SAM2_IMAGE = Family(
    "sam2",
    "SAM 2",
    "facebook/sam2.1-hiera-tiny",
    ("sam2_video", "sam2"),
    "Sam2Model",
    "",
    "Sam2ImageProcessor",
    "SAM 2",
    "segmenter",
)
SAM2 = Family(
    "sam2",
    "SAM 2",
    "facebook/sam2.1-hiera-tiny",
    ("sam2_video",),
    "Sam2VideoModel",
    "Sam2VideoInferenceSession",
    "Sam2ImageProcessor",
    "SAM 2",
)
EDGETAM = Family(
    "edgetam",
    "EdgeTAM",
    "yonigozlan/EdgeTAM-hf",
    ("edgetam_video",),
    "EdgeTamVideoModel",
    "EdgeTamVideoInferenceSession",
    "Sam2ImageProcessor",
    "SAM 2",  # told by the names of tensors, which are alike
)
# Of the two models of SAM 3 for videos this one is prompted by masks; `Sam3VideoModel` detects by itself what a text
# names, and takes no masks. Both are in the published files, of which the tracker reads its part.
SAM3 = Family(
    "sam3",
    "SAM 3",
    "facebook/sam3",
    ("sam3_tracker_video", "sam3_video"),
    "Sam3TrackerVideoModel",
    "Sam3TrackerVideoInferenceSession",
    "Sam3ImageProcessor",
    "SAM 3",
)
TRACKERS = {family.kind: family for family in (SAM2, EDGETAM, SAM3)}


class Checkpoint(NamedTuple):
    """A loaded checkpoint: the network in eval mode, and the processor of images."""

    model: Any
    image_processor: Any


def locate(source: str | PathLike[str], family: Family) -> Path | HubModel:
    """Return where `source` is: a local folder or file, or a repository on the hub that may need a download.

    A hub id may end in "@" and a commit, tag or branch; of a file in a repository it is OWNER/NAME/FILE.

    Raises:
        ConfigError: it names bundled weights, of which there are none.
        CheckpointError: there is no such folder or file.
    """
    name = str(source)
    if bundled_name(name) is not None:
        raise ConfigError(
            f"{family.section} of kind {family.kind} has no bundled weights: name a checkpoint, such as "
            f"{family.example}, got {name}"
        )
    path = Path(source).expanduser()
    if path.exists():
        return path
    hub_name, revision = split_revision(name)
    parts = hub_name.split("/")
    if not isinstance(source, PathLike) and all(parts) and parts[0] not in (".", "..", "~"):
        is_file = hub_name.endswith(_FILE_SUFFIXES)
        instead = (
            f'name a local copy, {family.section}={{"checkpoint": PATH}} in Python, or '
            f"{family.section}: {{checkpoint: PATH}} in a YAML file"
        )
        if len(parts) == 3 and is_file and family.reads_files:
            return HubModel("/".join(parts[:2]), ((parts[2],),), (), instead, revision, f"the file {parts[2]}")
        if len(parts) == 2 and not is_file:
            extra = (*_PROCESSORS, "model-*.safetensors")
            return HubModel(hub_name, (("config.json",), _WEIGHTS), extra, instead, revision, family.wanted)
    raise CheckpointError(
        f"no such folder or file: {source}; {family.name} is {family.wanted}, or a hub id such as {family.example}"
    )


def load_checkpoint(source: str | PathLike[str], family: Family) -> Checkpoint:
    """Load a model of transformers in float32, and the processor that makes its input.

    Raises:
        ConfigError: there are no bundled weights, or a package lacks the model.
        CheckpointError: files are missing, damaged or unreachable, the model is of another family, or the weights do
            not fill it.
    """
    place = locate(source, family)
    if isinstance(place, HubModel):
        folder = place.find()
        path = folder if len(place.needed) > 1 else folder / place.needed[0][0]
    else:
        path = place
    classes = _import_classes(family)
    try:
        if path.is_dir():
            model, report = _load_folder(path, family, classes)
            lacks_processor = not any((path / name).is_file() for name in _PROCESSORS)
            processor = classes["processor"]() if lacks_processor else classes["processor"].from_pretrained(path)
        else:
            model, report = _load_original(path, family, classes)
            processor = classes["processor"]()
    except (CheckpointError, ConfigError):
        raise
    except Exception as error:  # damaged files raise errors of JSON, safetensors, pickle and pydantic alike
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        described = ((file, describe_file(file, family.network)) for file in files)
        reason = next((f"{file} {what}" for file, what in described if what), one_line(error, 300))
        raise CheckpointError(f"cannot read the {family.name} in {path}: {reason}") from error
    from grounded.models.detectors.checkpoint import check_filled

    check_filled(str(path), report["missing_keys"], {entry[0] for entry in report["mismatched_keys"]})
    return Checkpoint(model.eval(), processor)


def model_size(model: Any) -> int:
    """Return the side in pixels of the square that images are resized to."""
    size = model.config.prompt_encoder_config.image_size
    return int(size if isinstance(size, int) else size[0])


def _import_classes(family: Family) -> dict[str, Any]:
    import transformers

    # Image processors on torchvision had another name in the first versions.
    names = {"model": (family.model,), "processor": (family.image_processor, f"{family.image_processor}Fast")}
    found = {part: next((name for name in group if hasattr(transformers, name)), None) for part, group in names.items()}
    for part, name in found.items():
        if name is None:
            raise ConfigError(
                f"kind {family.kind} needs a newer transformers, with {names[part][0]}, got {transformers.__version__}"
            )
    return {part: getattr(transformers, str(name)) for part, name in found.items()}


def _load_folder(folder: Path, family: Family, classes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    from grounded.models.detectors.checkpoint import quiet

    for group in (("config.json",), _WEIGHTS):
        if not any((folder / name).is_file() for name in group):
            raise CheckpointError(f"{folder} has no {group[0]}; {family.name} is {family.wanted}")
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if found not in family.model_types:
        raise CheckpointError(f"{folder} must hold a model of type {' or '.join(family.model_types)}, got {found}")
    with quiet():
        model, report = classes["model"].from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported in one line instead
        )
    return model, report


def _load_original(path: Path, family: Family, classes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    from grounded.models.detectors.checkpoint import quiet

    if not family.reads_files:
        what = describe_file(path, family.network)
        described = what or f"is a file; {family.name} is {family.wanted}: name that folder"
        raise CheckpointError(f"{path} {described}")
    state = _read_tensors(path)
    if not sam2_names.is_original(state):
        what = describe_file(path, family.network) or "does not have the tensor names of Meta's SAM 2"
        raise CheckpointError(f"{path} {what}; expected {family.wanted}")
    config = classes["model"].config_class(**sam2_names.read_settings(state, str(path)))
    renamed = sam2_names.rename(state)
    with quiet():
        model, report = classes["model"].from_pretrained(
            None,
            config=config,
            state_dict={name: value.float() for name, value in renamed.items()},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return model, report


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of Meta, {"model": tensors}, or of tensors alone."""
    if path.suffix == ".safetensors":
        tensors, _ = read_safetensors(path)
        return dict(tensors)
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("model", content) if isinstance(content, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)} if state else {}
    return {name.removeprefix("module."): value for name, value in tensors.items()}
