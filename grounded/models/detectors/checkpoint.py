"""Reading a detector of `transformers` in the layout of the Hugging Face hub: completely, or not at all."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from grounded.config import bundled_folder
from segany import CheckpointError
from segany.hub import HubModel

# The tokenizer's other files, and weights in several parts.
_EXTRA = ("*.json", "merges.txt", "model-*.safetensors")
_INSTEAD = (
    'name a local folder that holds them, detector={"checkpoint": FOLDER} in Python, '
    "or detector: {checkpoint: FOLDER} in a YAML file"
)


@dataclass(frozen=True)
class Family:
    """Detectors that are read alike: what messages call them, their types in config.json, and their vocabulary."""

    article: str
    name: str
    model_types: tuple[str, ...]
    vocabulary: str

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """What a folder must hold, each with the names under which it may come."""
        return {
            "config.json": ("config.json",),
            "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
            "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
            "tokenizer.json": ("tokenizer.json", self.vocabulary),
        }

    @property
    def wanted(self) -> str:
        """The files in words."""
        return ", ".join(self.files)


# LLMDet (Fu et al., 2025) was published for `transformers` as MM Grounding DINO, which it is but for its training.
GROUNDING_DINO = Family("a", "Grounding DINO", ("grounding-dino", "mm-grounding-dino"), "vocab.txt")
OWL = Family("an", "OWL-ViT", ("owlvit", "owlv2"), "vocab.json")


class Parts(NamedTuple):
    """What a checkpoint consists of: the network in eval mode, and the saved processors of pictures and text."""

    model: PreTrainedModel
    image_processor: Any
    tokenizer: Any


def locate(source: str | PathLike[str], family: Family = GROUNDING_DINO) -> Path | HubModel:
    """Where the files of `source` are: "bundled:NAME" and folders here, a hub id perhaps still to be downloaded.

    Raises:
        CheckpointError: there is no such folder.
        ConfigError: no bundled weights of that name.
    """
    folder = bundled_folder(str(source)) or Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, PathLike) or not _may_be_hub_id(str(source)):
        raise CheckpointError(
            f"no such folder: {source}; {family.article} {family.name} is a folder with {family.wanted}, or a hub id"
        )
    return HubModel(str(source), needed=tuple(family.files.values()), extra=_EXTRA, instead=_INSTEAD)


def find_folder(source: str | PathLike[str], family: Family = GROUNDING_DINO) -> Path:
    """The local folder that holds the files of `source`: "bundled:NAME", a folder, or a hub id, which is downloaded.

    Raises:
        CheckpointError: there is no such folder, a file is missing in it, or the hub cannot be reached.
        ConfigError: no bundled weights of that name.
    """
    place = locate(source, family)
    folder = place.find() if isinstance(place, HubModel) else place
    for name, alternatives in family.files.items():
        if not any((folder / alternative).is_file() for alternative in alternatives):
            raise CheckpointError(
                f"{folder} has no {name}; {family.article} {family.name} folder holds {family.wanted}"
            )
    return folder


def load_parts(
    source: str | PathLike[str], dtype: torch.dtype = torch.float32, family: Family = GROUNDING_DINO
) -> Parts:
    """Load a zero-shot detector of `transformers` with its processors.

    Args:
        source: "bundled:NAME", a folder or a hub id.
        dtype: of the parameters, whatever the file stores.
        family: what the detector must be.

    Raises:
        CheckpointError: see `find_folder`; also where a file is damaged, the model is of another family, or the weights
            do not fill it: a network that is partly random still answers, so it is never returned.
    """
    folder = find_folder(source, family)
    try:
        with quiet():
            found = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if found not in family.model_types:
                raise CheckpointError(
                    f"{folder} must hold a model of type {' or '.join(family.model_types)}, got {found}"
                )
            model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, in one line
            )
            # The backend on Pillow resizes bit for bit as the original package does.
            image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files surface as errors of JSON, safetensors, tokenizers and pydantic alike
        raise CheckpointError(f"cannot read the {family.name} in {folder}: {_first_line(error)}") from error
    check_filled(str(folder), report["missing_keys"], {entry[0] for entry in report["mismatched_keys"]})
    return Parts(model.eval(), image_processor, tokenizer)


def check_filled(source: str, missing: Collection[str], mismatched: Collection[str]) -> None:
    """Refuse weights that leave parameters random. Surplus entries of a file do no harm.

    Args:
        source: what messages name.
        missing: names of parameters that the file lacks.
        mismatched: names of parameters that have another shape in the file.

    Raises:
        CheckpointError: there are such parameters.
    """
    for fault, names in (("lack", sorted(missing)), ("have another shape for", sorted(mismatched))):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(f"the weights in {source} {fault} {shown}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and tables of loading off stderr; what matters of them is raised as an error here."""
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _may_be_hub_id(source: str) -> bool:
    """Whether `source` is of the form "owner/name"; anything else can only be a path."""
    return source.count("/") == 1 and not source.startswith(("/", ".", "~")) and not source.endswith("/")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
